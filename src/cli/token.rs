//! `gantry token`: makes, lists and revokes tokens in the data directory, whether the server runs or not.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write;

use clap::{Args, Subcommand};

use super::audited::{audited, object};
use super::user::{AccessError, DataArgs, print, shown_time, table, with_state};
use crate::auth::{Scope, TokenId, TokenRecord, TokenRequest, User, Validity, create_token, revoke_token};
use crate::state::{now_ms, tokens};

/// Arguments of `gantry token`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  TOKEN=$(gantry token create)
  gantry token create --user backup --scope export --expires 90d --description 'nightly backup'
  gantry token list
  gantry token revoke 0123456789abcdef")]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it, and nothing else, on stdout
    #[command(after_help = "\
Examples:
  curl -b authenticationToken=$(gantry token create) http://127.0.0.1:8080/rest/v0/vdis
  gantry token create --expires 1h --scope read
  gantry token create --user backup --scope export --sr 2a1f0c5e-55d1-4a43-9a5e-0d3f5a7a9b10")]
    Create {
        /// Whose token
        #[arg(long, default_value = "admin", value_name = "NAME")]
        user: String,
        /// How long it works: a minute to half a year
        #[arg(long, default_value = "30d", value_name = "DURATION")]
        expires: Validity,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Parts of the role that it holds: read, export, import, admin [default: the whole role]
        #[arg(long, value_delimiter = ',', value_name = "SCOPE,…")]
        scope: Vec<Scope>,
        /// An object that it may see; several times for several; none but these and those in --sr
        #[arg(long, value_name = "ID")]
        object: Vec<String>,
        /// An SR that it may see with what lies in it; several times for several
        #[arg(long, value_name = "ID")]
        sr: Vec<String>,
        /// Renew it by itself: near its expiry the server answers with a fresh one (Set-Cookie)
        #[arg(long)]
        renewable: bool,
        #[command(flatten)]
        data: DataArgs,
    },
    /// List the tokens that work; never their secrets
    #[command(after_help = "\
Examples:
  gantry token list --user backup
  gantry token list --json")]
    List {
        /// Only this user's
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Revoke a token; this cuts its running transfers
    #[command(after_help = "\
Examples:
  gantry token revoke 0123456789abcdef")]
    Revoke {
        /// The token's public id, as `token list` shows it
        id: TokenId,
        #[command(flatten)]
        data: DataArgs,
    },
}

/// Runs `gantry token …`. `out` gets what belongs on stdout.
///
/// # Errors
/// [`AccessError`], with its exit code.
pub fn run(args: &TokenArgs, out: &mut dyn Write) -> Result<(), AccessError> {
    match &args.command {
        TokenCommand::Create { user, expires, description, scope, object: objects, sr, renewable, data } => {
            let request = TokenRequest {
                client: None,
                description: description.clone(),
                expires_in: Some(*expires),
                scope: listed(scope),
                objects: listed(objects),
                srs: listed(sr),
                renewable: Some(*renewable),
            };
            with_state(data, async |access| {
                let owner = access.accounts.by_name(user).await?;
                let made = object("token", None, Some(format!("of {}", owner.name)));
                let create = async {
                    let issued = create_token(&access.db, owner.id, None, request).await?;
                    if let Err(lost) = print(out, &format!("{}\n", issued.secret)) {
                        // nobody knows it, so nobody should have to wonder what it is
                        revoke_token(&access.db, None, issued.record.id).await?;
                        return Err(lost);
                    }
                    Ok(issued.record.id)
                };
                audited(access, "token.create", made, create, |id| (Some(id.to_string()), None)).await?;
                Ok(())
            })
        }
        TokenCommand::List { user, json, data } => with_state(data, async |access| {
            let owner = match user {
                Some(name) => Some(access.accounts.by_name(name).await?.id),
                None => None,
            };
            let users = access.accounts.list().await?;
            let found = access.db.call(move |conn| tokens::list(conn, owner, now_ms())).await?;
            let name = |token: &TokenRecord| {
                let user = users.iter().find(|user: &&User| user.id == token.user);
                user.map(|user| user.name.clone()).unwrap_or_default()
            };
            let text = if *json {
                let tokens: Vec<_> = found.iter().map(|token| as_json(token, &name(token))).collect();
                serde_json::to_string_pretty(&tokens)? + "\n"
            } else {
                let rows = found.iter().map(|token| as_row(token, name(token)));
                table(["ID", "USER", "EXPIRES", "LAST USED", "LIMITS", "DESCRIPTION"], rows)
            };
            print(out, &text)
        }),
        TokenCommand::Revoke { id, data } => with_state(data, async |access| {
            let revoke = async {
                match revoke_token(&access.db, None, *id).await? {
                    Some(_) => Ok(()),
                    None => Err(AccessError::NoSuchToken { id: *id }),
                }
            };
            let revoked = object("token", Some(id.to_string()), None);
            audited(access, "token.revoke", revoked, revoke, |()| (None, None)).await
        }),
    }
}

/// The values as a set; none at all is no limit.
fn listed<T: Clone + Ord>(values: &[T]) -> Option<BTreeSet<T>> {
    (!values.is_empty()).then(|| values.iter().cloned().collect())
}

fn as_json(token: &TokenRecord, user: &str) -> serde_json::Value {
    let mut object = serde_json::json!({
        "id": token.id,
        "user": user,
        "user_id": token.user,
        "created_at": token.created_ms,
        "expiration": token.expires_ms,
        "renewable": token.renewable,
    });
    // what is not set is left out, as in the answers of the service
    let more = [
        ("description", serde_json::to_value(&token.description)),
        ("client", serde_json::to_value(&token.client)),
        ("scope", serde_json::to_value(&token.scope)),
        ("objects", serde_json::to_value(&token.objects)),
        ("srs", serde_json::to_value(&token.srs)),
        ("last_used_at", serde_json::to_value(token.last_used_ms)),
        ("last_address", serde_json::to_value(&token.last_address)),
    ];
    if let Some(members) = object.as_object_mut() {
        for (name, value) in more {
            if let Some(value) = value.ok().filter(|value| !value.is_null()) {
                members.insert(name.to_owned(), value);
            }
        }
    }
    object
}

fn as_row(token: &TokenRecord, user: String) -> [String; 6] {
    [
        token.id.to_string(),
        user,
        shown_time(token.expires_ms),
        token.last_used_ms.map_or_else(|| "-".to_owned(), shown_time),
        limits(token),
        token.description.clone().unwrap_or_default(),
    ]
}

/// What a token is limited to, in a few words.
fn limits(token: &TokenRecord) -> String {
    fn joined<T: Display>(values: &BTreeSet<T>) -> String {
        values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
    let scope = token.scope.as_ref().map(joined);
    let objects = token.objects.as_ref().map(|ids| format!("{} objects", ids.len()));
    let srs = token.srs.as_ref().map(|ids| format!("{} SRs", ids.len()));
    let parts: Vec<_> = scope.into_iter().chain(objects).chain(srs).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests;
