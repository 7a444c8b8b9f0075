//! What a JSON-RPC client can be told went wrong, with the numbers that Xen Orchestra gives.

use serde_json::{Value, json};

use crate::auth::{AuthError, TokenError};
use crate::backends::local::LocalError;
use crate::state::StateError;

/// A call that is not answered as wished.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// A message that is no JSON.
    #[error("invalid JSON: {0}")]
    NoJson(String),
    /// JSON that is no request.
    #[error("invalid request: {0}")]
    NoRequest(String),
    /// A method that there is not.
    #[error("method not found: {0}")]
    NoSuchMethod(String),
    /// A parameter that is missing, of another type, or that cannot be taken.
    #[error("invalid parameters: {name}: {message}")]
    Parameter {
        /// The parameter.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// An object that there is not.
    #[error("no such {kind} {id}")]
    NoSuchObject {
        /// Its type.
        kind: &'static str,
        /// Its id; never a secret.
        id: String,
    },
    /// Not signed in, or the role or the token does not allow it.
    #[error("not enough permissions")]
    NotPermitted {
        /// What would have been needed.
        needed: &'static str,
    },
    /// A wrong password, an unknown token, or a password too soon after a wrong one.
    #[error("invalid credentials")]
    Credentials {
        /// Seconds until a password is looked at again.
        retry_after: Option<u64>,
    },
    /// An operation that is not for this caller.
    #[error("forbidden operation: {operation}: {reason}")]
    ForbiddenOperation {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A user with as many connections as one may have.
    #[error("incorrect state: a user may have no more than {most} connections at once")]
    TooManyConnections {
        /// The user.
        user: String,
        /// The most.
        most: usize,
    },
    /// An answer that is longer than any may be.
    #[error(
        "the answer has more than {} MiB: ask for less by filter or limit, or read the collections at /rest/v0, which \
         are streamed",
        .limit >> 20
    )]
    TooLong {
        /// The most, bytes.
        limit: usize,
    },
    /// So many long answers are on their way that there is no memory for another.
    #[error("too many long answers are on their way: try again")]
    Busy,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// Something of ours; the log has more of it.
    #[error("unknown error: {0}")]
    Unknown(&'static str),
}

impl RpcError {
    /// A parameter that cannot be taken.
    pub fn parameter(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Parameter { name: name.into(), message: message.into() }
    }

    /// The number that clients go by.
    pub fn number(&self) -> i64 {
        match self {
            Self::NoSuchObject { .. } => 1,
            Self::NotPermitted { .. } => 2,
            Self::Credentials { .. } => 3,
            Self::ForbiddenOperation { .. } => 5,
            Self::Parameter { .. } => 10,
            Self::TooManyConnections { .. } => 25,
            Self::TooLong { .. } | Self::Busy | Self::Stopping | Self::Unknown(_) => -32000,
            Self::NoRequest(_) => -32600,
            Self::NoSuchMethod(_) => -32601,
            Self::NoJson(_) => -32700,
        }
    }

    /// The stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSuchObject { .. } => "no_such_object",
            Self::NotPermitted { .. } => "not_enough_permissions",
            Self::Credentials { .. } => "invalid_credentials",
            Self::ForbiddenOperation { .. } => "forbidden_operation",
            Self::Parameter { .. } => "invalid_parameters",
            Self::TooManyConnections { .. } => "too_many_connections",
            Self::TooLong { .. } => "answer_too_long",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::Unknown(_) => "unknown_error",
            Self::NoRequest(_) => "invalid_request",
            Self::NoSuchMethod(_) => "no_such_method",
            Self::NoJson(_) => "invalid_json",
        }
    }

    /// As the `error` of an answer.
    pub fn shown(&self) -> Value {
        let code = self.code();
        let data = match self {
            Self::NoSuchObject { kind, id } => json!({ "code": code, "id": id, "type": kind }),
            Self::NotPermitted { needed } => json!({ "code": code, "permission": needed }),
            Self::Credentials { retry_after: Some(seconds) } => {
                json!({ "code": code, "retryAfter": seconds })
            }
            Self::ForbiddenOperation { operation, reason } => {
                json!({ "code": code, "operation": operation, "reason": reason })
            }
            Self::Parameter { name, message } => {
                json!({ "code": code, "errors": [{ "field": name, "message": message }] })
            }
            Self::TooManyConnections { user, most } => {
                json!({ "code": code, "object": user, "property": "connections", "expected": most })
            }
            Self::NoSuchMethod(name) => json!({ "code": code, "method": name }),
            _ => json!({ "code": code }),
        };
        json!({ "code": self.number(), "message": self.to_string(), "data": data })
    }
}

impl From<StateError> for RpcError {
    fn from(error: StateError) -> Self {
        tracing::error!(%error, "a call over JSON-RPC failed");
        Self::Unknown("the state database does not answer")
    }
}

impl From<LocalError> for RpcError {
    fn from(error: LocalError) -> Self {
        tracing::error!(%error, "a call over JSON-RPC failed");
        Self::Unknown("the store does not answer")
    }
}

impl From<AuthError> for RpcError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Invalid => Self::Credentials { retry_after: None },
            AuthError::TooFast { retry_after } => {
                let seconds = retry_after.as_millis().div_ceil(1000).max(1);
                Self::Credentials { retry_after: Some(u64::try_from(seconds).unwrap_or(u64::MAX)) }
            }
            AuthError::State(error) => error.into(),
            AuthError::Password(error) => {
                tracing::error!(%error, "a password over JSON-RPC was not compared");
                Self::Unknown("passwords cannot be compared")
            }
        }
    }
}

impl From<TokenError> for RpcError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Stronger { .. } => Self::ForbiddenOperation {
                operation: "create authentication token",
                reason: "a token cannot make one that is stronger than itself",
            },
            TokenError::Form(_) | TokenError::Validity { .. } => {
                Self::parameter("expiresIn", error.to_string())
            }
            TokenError::TooLong { member, .. } | TokenError::Empty { member } => {
                Self::parameter(member, error.to_string())
            }
            TokenError::State(error) => error.into(),
            TokenError::Random(error) => {
                tracing::error!(%error, "a token over JSON-RPC was not made");
                Self::Unknown("the system gives no random bytes")
            }
        }
    }
}
