//! What commands on the data directory do is written down in the audit, as the service's requests are.

use super::user::{Access, AccessError};
use crate::auth::audit::{Actor, Audit, Object, Outcome};
use crate::auth::{AccountError, TokenError};

/// Does something that is written down in the audit, with who runs the program as the one who does it.
pub(super) async fn audited<R>(
    access: &Access,
    action: &str,
    object: Object,
    work: impl Future<Output = Result<R, AccessError>>,
    found: impl FnOnce(&R) -> (Option<String>, Option<String>),
) -> Result<R, AccessError> {
    let audit = Audit::new(access.db.clone());
    let mut intent = audit.intend(Actor::of_this_process(), action, Some(object)).await?;
    let done = work.await;
    match &done {
        Ok(made) => {
            let (id, name) = found(made);
            intent.found(id, name);
            intent.end(Outcome::Success, None).await;
        }
        Err(error) => intent.end(outcome_of(error), None).await,
    }
    done
}

/// A user or a token, for the audit.
pub(super) fn object(kind: &str, id: Option<String>, name: Option<String>) -> Object {
    Object { kind: kind.to_owned(), id, name }
}

/// What came of something that failed so.
fn outcome_of(error: &AccessError) -> Outcome {
    match error {
        AccessError::State(_)
        | AccessError::Output(_)
        | AccessError::Account(AccountError::State(_))
        | AccessError::Token(TokenError::State(_)) => Outcome::Failure,
        _ => Outcome::Refused,
    }
}
