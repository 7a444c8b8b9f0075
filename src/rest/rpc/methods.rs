//! The methods: one table from which calls are checked and dispatched, and which clients can ask for.

use serde_json::{Map, Value, json};

use super::error::RpcError;
use super::message::{Call, shortened};
use super::objects::{self, Reply};
use super::session::Session;
use super::tokens;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    SignIn,
    GetUser,
    SignOut,
    CreateToken,
    DeleteTokens,
    DeleteOwnTokens,
    MethodsInfo,
    ListMethods,
    ServerVersion,
    ApiVersion,
    AllObjects,
}

/// A parameter.
struct Param {
    name: &'static str,
    /// The JSON types that it may have.
    types: &'static [&'static str],
    optional: bool,
}

/// A method.
struct Method {
    name: &'static str,
    description: &'static str,
    params: &'static [Param],
    /// `None`: nobody has to be signed in; `Some("")`: somebody; `Some("admin")`: an administrator.
    permission: Option<&'static str>,
    work: Work,
}

const fn optional(name: &'static str, types: &'static [&'static str]) -> Param {
    Param { name, types, optional: true }
}

const DELETED: &[Param] = &[optional("tokens", &["array", "string"]), optional("pattern", &["object"])];

/// All of them, by name.
static METHODS: [Method; 11] = [
    Method {
        name: "session.getUser",
        description: "return the currently connected user",
        params: &[],
        permission: None,
        work: Work::GetUser,
    },
    Method {
        name: "session.signIn",
        description: "sign in",
        params: &[
            optional("email", &["string"]),
            optional("username", &["string"]),
            optional("password", &["string"]),
            optional("otp", &["string"]),
            optional("token", &["string"]),
        ],
        permission: None,
        work: Work::SignIn,
    },
    Method {
        name: "session.signOut",
        description: "sign out the user from the current session",
        params: &[],
        permission: None,
        work: Work::SignOut,
    },
    Method {
        name: "system.getMethodsInfo",
        description: "return the signatures of all available API methods",
        params: &[],
        permission: None,
        work: Work::MethodsInfo,
    },
    Method {
        name: "system.getServerVersion",
        description: "return the version of the server",
        params: &[],
        permission: None,
        work: Work::ServerVersion,
    },
    Method {
        name: "system.getVersion",
        description: "return the version of this API",
        params: &[],
        permission: None,
        work: Work::ApiVersion,
    },
    Method {
        name: "system.listMethods",
        description: "return the names of all available API methods",
        params: &[],
        permission: None,
        work: Work::ListMethods,
    },
    Method {
        name: "token.create",
        description: "create a new authentication token",
        params: &[
            optional("client", &["object"]),
            optional("description", &["string"]),
            optional("expiresIn", &["number", "string"]),
            optional("scope", &["array"]),
            optional("objects", &["array"]),
            optional("srs", &["array"]),
            optional("renewable", &["boolean"]),
        ],
        permission: Some(""),
        work: Work::CreateToken,
    },
    Method {
        name: "token.delete",
        description: "delete authentication tokens, by id, by secret or by a pattern",
        params: DELETED,
        permission: Some("admin"),
        work: Work::DeleteTokens,
    },
    Method {
        name: "token.deleteOwn",
        description: "delete one's own authentication tokens, by id, by secret or by a pattern",
        params: DELETED,
        permission: Some(""),
        work: Work::DeleteOwnTokens,
    },
    Method {
        name: "xo.getAllObjects",
        description: "return all objects, by id",
        params: &[
            optional("filter", &["object", "string"]),
            optional("limit", &["number", "string"]),
            optional("ndjson", &["boolean", "string"]),
        ],
        permission: Some(""),
        work: Work::AllObjects,
    },
];

impl Method {
    /// Refuses parameters that it has not, that are of another type, or that are missing. Null counts as absent.
    fn check(&self, params: &mut Map<String, Value>) -> Result<(), RpcError> {
        params.retain(|_, value| !value.is_null());
        for (name, value) in params.iter() {
            let Some(param) = self.params.iter().find(|param| param.name == name) else {
                return Err(RpcError::parameter(
                    shortened(name),
                    format!("{} has no such parameter", self.name),
                ));
            };
            let found = type_of(value);
            if !param.types.contains(&found) {
                let message = format!("{} is needed, not {found}", param.types.join(" or "));
                return Err(RpcError::parameter(param.name, message));
            }
        }
        let missing = self.params.iter().find(|param| !param.optional && !params.contains_key(param.name));
        missing.map_or(Ok(()), |param| Err(RpcError::parameter(param.name, "is required")))
    }

    fn info(&self) -> Value {
        let params: Map<String, Value> = self
            .params
            .iter()
            .map(|param| {
                let types = match param.types {
                    [one] => json!(one),
                    several => json!(several),
                };
                let mut shown = json!({ "type": types });
                if let Some(shown) = shown.as_object_mut().filter(|_| param.optional) {
                    shown.insert("optional".into(), true.into());
                }
                (param.name.to_owned(), shown)
            })
            .collect();
        let mut shown = json!({ "description": self.description, "params": params });
        if let (Some(permission), Some(shown)) = (self.permission, shown.as_object_mut()) {
            shown.insert("permission".into(), permission.into());
        }
        shown
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Makes a call.
///
/// # Errors
/// [`RpcError`].
pub async fn call(session: &mut Session, call: Call) -> Result<Reply, RpcError> {
    let Call { method, mut params, .. } = call;
    let Some(method) = METHODS.iter().find(|known| known.name == method) else {
        return Err(RpcError::NoSuchMethod(shortened(&method)));
    };
    if method.permission.is_some() {
        // Before the parameters: who may not ask learns nothing of them.
        session.principal()?;
    }
    method.check(&mut params)?;
    match method.work {
        Work::SignIn => session.sign_in(&mut params).await.map(Reply::from),
        Work::GetUser => Ok(session.user().into()),
        Work::SignOut => session.sign_out().map(Reply::from),
        Work::CreateToken => tokens::create(session, params).await.map(Reply::from),
        Work::DeleteTokens => tokens::delete_any(session, params).await.map(Reply::from),
        Work::DeleteOwnTokens => tokens::delete_own(session, params).await.map(Reply::from),
        Work::MethodsInfo => Ok(methods_info().into()),
        Work::ListMethods => Ok(json!(METHODS.each_ref().map(|method| method.name)).into()),
        Work::ServerVersion => Ok(Value::from(env!("CARGO_PKG_VERSION")).into()),
        Work::ApiVersion => Ok(Value::from("0.1").into()),
        Work::AllObjects => objects::all(session, params).await,
    }
}

fn methods_info() -> Value {
    METHODS.iter().map(|method| (method.name.to_owned(), method.info())).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, params: Value) -> Result<Map<String, Value>, String> {
        let method = METHODS.iter().find(|method| method.name == name).unwrap();
        let Value::Object(mut params) = params else { panic!("no object") };
        method.check(&mut params).map(|()| params).map_err(|error| error.to_string())
    }

    #[test]
    fn the_table_is_sorted_and_says_of_each_method_what_it_takes() {
        assert!(METHODS.is_sorted_by_key(|method| method.name));
        let info = methods_info();
        assert_eq!(
            info["token.create"]["params"]["expiresIn"],
            json!({"type": ["number", "string"], "optional": true})
        );
        assert_eq!(info["token.delete"]["permission"], "admin");
        assert_eq!(info["system.getMethodsInfo"]["params"], json!({}));
        assert!(info["session.signIn"].get("permission").is_none());
        assert!(METHODS.iter().all(|method| info[method.name]["description"].is_string()));
    }

    #[test]
    fn parameters_are_checked_by_name_and_type_and_null_is_none() {
        assert_eq!(checked("token.create", json!({"client": null})).unwrap(), Map::new());
        assert!(checked("token.create", json!({"expiresIn": "1 hour", "client": {"id": "x"}})).is_ok());
        let refused = checked("token.create", json!({"expiresIn": true})).unwrap_err();
        assert_eq!(refused, "invalid parameters: expiresIn: number or string is needed, not boolean");
        let refused = checked("token.create", json!({"expires": 1})).unwrap_err();
        assert_eq!(refused, "invalid parameters: expires: token.create has no such parameter");
    }
}
