//! Revoking a token cuts its running transfers: the answers that are still being sent, and the bodies that are still
//! being received.
//!
//! Requests are known by the family of their token, so that all secrets that a record has had count as one. Tokens are
//! also revoked in the database by other processes, so the families at work are looked up there every second.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::auth::{Principal, TokenId};
use crate::state::{Db, StateError, tokens};

/// How often the database is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The requests of each family, by a number of their own.
#[derive(Debug, Default)]
struct Families {
    requests: HashMap<TokenId, HashMap<u64, CancellationToken>>,
    last: u64,
}

/// The requests that tokens have begun. Clones share them.
#[derive(Debug, Default, Clone)]
pub struct Revocations {
    families: Arc<Mutex<Families>>,
}

impl Revocations {
    fn enter(&self, family: TokenId, cut: CancellationToken) -> Registration {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        families.last = families.last.wrapping_add(1);
        let number = families.last;
        families.requests.entry(family).or_default().insert(number, cut);
        Registration { families: Arc::clone(&self.families), family, number }
    }

    /// Cuts what a token has begun.
    pub fn cut(&self, family: TokenId) {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        for cut in families.requests.get(&family).into_iter().flat_map(HashMap::values) {
            cut.cancel();
        }
    }

    fn at_work(&self) -> Vec<TokenId> {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        families.requests.keys().copied().collect()
    }

    /// Cuts what tokens have begun that were revoked in the database, for ever.
    pub async fn follow(&self, db: &Db) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.look(db).await {
                Ok(revoked) => revoked.into_iter().for_each(|family| self.cut(family)),
                Err(error) => tracing::warn!(%error, "it cannot be seen which tokens were revoked"),
            }
        }
    }

    async fn look(&self, db: &Db) -> Result<Vec<TokenId>, StateError> {
        let at_work = self.at_work();
        if at_work.is_empty() {
            return Ok(Vec::new());
        }
        db.call(move |conn| {
            let mut revoked = Vec::new();
            for family in at_work {
                if tokens::is_revoked(conn, family)? {
                    revoked.push(family);
                }
            }
            Ok(revoked)
        })
        .await
    }
}

#[derive(Debug)]
struct Registration {
    families: Arc<Mutex<Families>>,
    family: TokenId,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(requests) = families.requests.get_mut(&self.family) else { return };
        requests.remove(&self.number);
        if requests.is_empty() {
            families.requests.remove(&self.family);
        }
    }
}

/// The end of one request before its time. It lives in the request's extensions, and in its answer's body. Clones are
/// the same.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    token: CancellationToken,
    registration: Rc<RefCell<Option<Registration>>>,
}

impl Cut {
    /// From now on the request ends when its sender's token is revoked.
    pub fn when_revoked(&self, revocations: &Revocations, sender: &Principal) {
        if let Some(token) = &sender.token {
            self.registration.replace(Some(revocations.enter(token.family, self.token.clone())));
        }
    }

    /// Whether the request is to end.
    pub fn is_over(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves when the request is to end.
    pub fn ended(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_cut_alone_and_forgotten_with_its_last_request() {
        let revocations = Revocations::default();
        let [one, other] = ["00000000000000aa", "00000000000000bb"].map(|id| id.parse::<TokenId>().unwrap());
        let cuts = [(); 3].map(|()| CancellationToken::new());
        let [first, second, third] = &cuts;
        let entered = [
            revocations.enter(one, first.clone()),
            revocations.enter(one, second.clone()),
            revocations.enter(other, third.clone()),
        ];
        revocations.cut(one);
        assert_eq!(cuts.map(|cut| cut.is_cancelled()), [true, true, false]);
        drop(entered);
        assert!(revocations.at_work().is_empty());
    }
}
