//! Whether those who read a stream may still do so. A stream outlives the request that was authenticated, so its
//! credentials are looked at again while it is open.

use std::collections::{HashMap, HashSet};

use rusqlite::Connection;
use uuid::Uuid;

use crate::auth::{Principal, Role, TokenId};
use crate::ids::UserId;
use crate::state::{Db, StateError, now_ms, tokens, users};

use super::registry::Registry;

/// With what a stream was opened.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Standing {
    user: UserId,
    role: Role,
    shown: Shown,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Shown {
    Token(TokenId),
    /// A password, known by its hash: another password has another one.
    Password(String),
}

impl Standing {
    /// What a principal stands on. `None` when its user has gone meanwhile.
    ///
    /// # Errors
    /// When the state database does not answer.
    pub async fn of(principal: &Principal, db: &Db) -> Result<Option<Self>, StateError> {
        let (user, role) = (principal.user, principal.role);
        let shown = match &principal.token {
            Some(token) => Shown::Token(token.id),
            None => match db.call(move |db| users::get(db, user)).await? {
                Some(found) => Shown::Password(found.password_hash),
                None => return Ok(None),
            },
        };
        Ok(Some(Self { user, role, shown }))
    }

    /// Whether it still opens a stream with the same rights.
    fn holds(&self, db: &Connection, now_ms: i64) -> Result<bool, StateError> {
        let Some(user) = users::get(db, self.user)? else { return Ok(false) };
        if user.role != self.role {
            return Ok(false);
        }
        match &self.shown {
            Shown::Token(id) => Ok(tokens::get(db, *id)?.is_some_and(|token| token.expires_ms > now_ms)),
            Shown::Password(hash) => Ok(user.password_hash == *hash),
        }
    }
}

/// Ends the streams whose credentials have been revoked or have expired.
///
/// # Errors
/// When the state database does not answer; nothing is ended then.
pub async fn review(registry: &Registry, db: &Db) -> Result<(), StateError> {
    let mut streams: HashMap<Standing, Vec<Uuid>> = HashMap::new();
    for (id, standing) in registry.standings() {
        streams.entry(standing).or_default().push(id);
    }
    if streams.is_empty() {
        return Ok(());
    }
    let shown: Vec<Standing> = streams.keys().cloned().collect();
    let fallen = db
        .call(move |db| {
            let now = now_ms();
            let mut fallen = HashSet::new();
            for standing in shown {
                if !standing.holds(db, now)? {
                    fallen.insert(standing);
                }
            }
            Ok(fallen)
        })
        .await?;
    let ended = streams.iter().filter(|(standing, _)| fallen.contains(standing));
    ended.flat_map(|(_, ids)| ids).for_each(|id| registry.revoke(*id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::User;
    use crate::rest::events::registry::Limits;
    use crate::rest::events::test_support::principal;
    use crate::state::tokens::SecretHash;

    /// Opens streams with a token and with a password, changes something, and says which of them are left.
    async fn left_after(change: impl FnOnce(&mut Connection, UserId) + Send + 'static) -> Vec<&'static str> {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db")).unwrap();
        let user = UserId::random();
        let with_token = principal(user, None);
        let with_password = Principal { token: None, ..with_token.clone() };
        let token = with_token.token.clone().unwrap();
        db.call(move |db| {
            let hash = "one".to_owned();
            let user =
                User { id: user, name: "x".into(), role: Role::Operator, password_hash: hash, created_ms: 0 };
            assert!(users::insert(db, &user)?);
            tokens::insert(db, &SecretHash::of("x"), &token)
        })
        .await
        .unwrap();
        let registry = Registry::new(Limits::default());
        let mut streams = Vec::new();
        for (name, principal) in [("token", with_token), ("password", with_password)] {
            let standing = Standing::of(&principal, &db).await.unwrap().unwrap();
            streams.push((name, registry.open(principal, standing, Box::new(|| ())).unwrap().0));
        }
        review(&registry, &db).await.unwrap();
        assert_eq!(registry.standings().len(), 2, "nothing has changed yet");
        db.call(move |db| {
            change(db, user);
            Ok(())
        })
        .await
        .unwrap();
        review(&registry, &db).await.unwrap();
        streams.retain(|(_, id)| registry.is_of(*id, user));
        streams.into_iter().map(|(name, _)| name).collect()
    }

    #[tokio::test]
    async fn a_stream_ends_when_what_it_was_opened_with_opens_none_any_more() {
        let id = SecretHash::of("x").id();
        let revoked = left_after(move |db, _| assert!(tokens::delete_family(db, id).unwrap())).await;
        assert_eq!(revoked, ["password"]);
        let expired = left_after(move |db, _| tokens::supersede(db, id, now_ms() - 1).unwrap()).await;
        assert_eq!(expired, ["password"]);
        let changed =
            left_after(|db, user| assert!(users::set_password_hash(db, user, "two").unwrap())).await;
        assert_eq!(changed, ["token"]);
        let demoted = left_after(|db, user| assert!(users::set_role(db, user, Role::Viewer).unwrap())).await;
        assert!(demoted.is_empty(), "{demoted:?}");
        let gone = left_after(|db, user| assert!(users::delete(db, user).unwrap())).await;
        assert!(gone.is_empty(), "{gone:?}");
    }
}
