//! Writing the audit: who did what, from where, and what came of it.
//!
//! What is to be done is written down before it is done, and what came of it afterwards, in a record of its own that names
//! the first. What cannot be written down beforehand is not done.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Principal;
use crate::ids::UserId;
use crate::state::audit::{self, CUT_ROWS, Entry};
use crate::state::tokens::TokenId;
use crate::state::{Db, StateError, now_ms};

pub use crate::state::audit::{Object, Outcome};

/// Logins by password that come with every request, and tokens that are none, are written down once in so long a time.
const SAME_LOGIN: Duration = Duration::from_secs(60);

/// Most logins that are remembered for that.
const MAX_LOGINS: usize = 4096;

/// Most addresses with tokens that are none that are written down in [`SAME_LOGIN`].
const MAX_BAD_TOKENS: usize = 64;

/// Most tasks whose beginning is known without a look into the database.
const MAX_BEGUN: usize = 1024;

/// Most characters of a name that somebody tried to log in with.
const MAX_NAME_CHARS: usize = 128;

/// The audit cannot be written: what was to be done has not been done.
#[derive(Debug, thiserror::Error)]
#[error("the audit cannot be written, and without it nothing is done: {0}")]
pub struct AuditError(#[from] StateError);

/// By which way something is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// The REST service.
    Rest,
    /// JSON-RPC.
    Rpc,
    /// A command on the data directory.
    Cli,
}

impl Via {
    fn name(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Rpc => "rpc",
            Self::Cli => "cli",
        }
    }
}

/// Who does something, and from where.
#[derive(Debug, Clone)]
pub struct Actor {
    user: Option<UserId>,
    name: Option<String>,
    token: Option<TokenId>,
    via: Via,
    from: String,
}

impl Actor {
    /// Somebody who has shown credentials.
    pub fn of(principal: &Principal, via: Via, address: IpAddr) -> Self {
        Self {
            user: Some(principal.user),
            name: Some(principal.name.clone()),
            token: principal.token.as_ref().map(|token| token.id),
            via,
            from: address.to_canonical().to_string(),
        }
    }

    /// Somebody who says that he is called so.
    pub fn unknown(name: Option<&str>, via: Via, address: IpAddr) -> Self {
        let name = name.map(|name| name.chars().take(MAX_NAME_CHARS).collect());
        Self { user: None, name, token: None, via, from: address.to_canonical().to_string() }
    }

    /// Whoever runs this program.
    pub fn of_this_process() -> Self {
        let from = format!("uid {}", rustix::process::getuid().as_raw());
        Self { user: None, name: None, token: None, via: Via::Cli, from }
    }

    fn entry(self, action: &str, object: Option<Object>, outcome: Outcome) -> Entry {
        Entry {
            intent: None,
            action: action.to_owned(),
            outcome,
            code: None,
            user: self.user.map(|user| user.to_string()),
            user_name: self.name,
            token: self.token.map(|token| token.to_string()),
            via: self.via.name().to_owned(),
            from: self.from,
            object,
            task: None,
        }
    }
}

/// Logins that were written down lately.
type Logins = HashMap<(Option<String>, String), Instant>;

/// The audit of a data directory. Clones share what they remember.
#[derive(Debug, Clone)]
pub struct Audit {
    db: Db,
    logins: Arc<Mutex<Logins>>,
    bad_tokens: Arc<Mutex<Logins>>,
    begun: Arc<Mutex<VecDeque<String>>>,
}

impl Audit {
    /// The audit in that database.
    pub fn new(db: Db) -> Self {
        Self { db, logins: Arc::default(), bad_tokens: Arc::default(), begun: Arc::default() }
    }

    async fn append(&self, entry: Entry) -> Result<i64, AuditError> {
        Ok(self.db.transaction(move |transaction| audit::append(transaction, &entry, now_ms())).await?)
    }

    /// Writes down what is about to be done. The outcome is to be told to what is returned; if that is dropped, nobody
    /// knows the outcome, and so it is written.
    ///
    /// # Errors
    /// [`AuditError`]: it must not be done.
    pub async fn intend(
        &self,
        actor: Actor,
        action: &str,
        object: Option<Object>,
    ) -> Result<Intent, AuditError> {
        let entry = actor.entry(action, object, Outcome::Intended);
        let seq = self.append(entry.clone()).await?;
        let entry = Entry { intent: Some(seq), outcome: Outcome::Unknown, ..entry };
        Ok(Intent { audit: self.clone(), entry: Some(entry) })
    }

    /// Writes down in a single record what is over at once, or only refused.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn note(
        &self,
        actor: Actor,
        action: &str,
        object: Option<Object>,
        outcome: Outcome,
        code: Option<&str>,
    ) -> Result<(), AuditError> {
        let code = code.map(str::to_owned);
        self.append(Entry { code, ..actor.entry(action, object, outcome) }).await.map(drop)
    }

    /// Writes down that a task has begun, unless that was written down for this task before.
    ///
    /// # Errors
    /// [`AuditError`]: it must not go on.
    pub async fn begun_once(
        &self,
        actor: Actor,
        action: &str,
        object: Object,
        task: String,
    ) -> Result<(), AuditError> {
        let task_id = Some(task.clone());
        let entry = Entry { task: task_id, ..actor.entry(action, Some(object), Outcome::Success) };
        self.db.transaction(move |transaction| audit::append_once(transaction, &entry, now_ms())).await?;
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.truncate(MAX_BEGUN - 1);
        begun.push_front(task);
        Ok(())
    }

    /// Whether it was written down lately that this task has begun.
    pub fn has_begun(&self, task: &str) -> bool {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.iter().any(|known| known == task)
    }

    /// Writes down a login by password. Over REST, where every request may carry the password, once a minute for the same
    /// name and address.
    ///
    /// # Errors
    /// [`AuditError`]: the login is to be refused.
    pub async fn signed_in(
        &self,
        principal: &Principal,
        via: Via,
        address: IpAddr,
    ) -> Result<(), AuditError> {
        let actor = Actor::of(principal, via, address);
        let key = (Some(principal.name.clone()), actor.from.clone());
        if via == Via::Rest && is_fresh(&self.logins, &key) {
            return Ok(());
        }
        self.append(actor.entry("login", None, Outcome::Success)).await?;
        remember(&self.logins, key, MAX_LOGINS);
        Ok(())
    }

    /// Writes down a login that failed: with a name, by a password; without one, by a token, of which one a minute is
    /// written down for an address. That it cannot be written goes to the log, since the login is refused anyway.
    pub async fn login_failed(&self, name: Option<&str>, via: Via, address: IpAddr) {
        let actor = Actor::unknown(name, via, address);
        if name.is_none() {
            // Noted before it is written: guessing tokens costs nothing, and many may come at once.
            let key = (None, actor.from.clone());
            if is_fresh(&self.bad_tokens, &key) || !remember(&self.bad_tokens, key, MAX_BAD_TOKENS) {
                return;
            }
        }
        let entry = actor.entry("login", None, Outcome::Refused);
        let code = Some("invalid_credentials".to_owned());
        if let Err(error) = self.append(Entry { code, ..entry }).await {
            tracing::error!(%error, from = %address, "a failed login is not in the audit");
        }
    }

    /// Cuts records off that are older than that. Returns how many.
    ///
    /// # Errors
    /// [`StateError`] if the database cannot be written.
    pub async fn cut(&self, keep: Duration) -> Result<u64, StateError> {
        let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let before_ms = now_ms().saturating_sub(keep_ms);
        let mut total = 0;
        loop {
            let count = self.db.transaction(move |transaction| audit::cut(transaction, before_ms)).await?;
            total += u64::from(count);
            if count < CUT_ROWS {
                return Ok(total);
            }
        }
    }
}

fn is_fresh(logins: &Mutex<Logins>, key: &(Option<String>, String)) -> bool {
    let logins = logins.lock().unwrap_or_else(PoisonError::into_inner);
    logins.get(key).is_some_and(|at| at.elapsed() < SAME_LOGIN)
}

/// Remembers a login. `false` when there are too many.
fn remember(logins: &Mutex<Logins>, key: (Option<String>, String), most: usize) -> bool {
    let mut logins = logins.lock().unwrap_or_else(PoisonError::into_inner);
    if logins.len() >= most {
        logins.retain(|_, at| at.elapsed() < SAME_LOGIN);
    }
    let fits = logins.len() < most;
    if fits {
        logins.insert(key, Instant::now());
    }
    fits
}

/// Something that is written down to be done.
#[derive(Debug)]
#[must_use = "its outcome is to be told"]
pub struct Intent {
    audit: Audit,
    entry: Option<Entry>,
}

impl Intent {
    /// Says what has turned out about what it is done to.
    pub fn found(&mut self, id: Option<String>, name: Option<String>) {
        let Some(entry) = &mut self.entry else { return };
        if id.is_some() || name.is_some() {
            let object = entry.object.get_or_insert_default();
            object.id = id.or(object.id.take());
            object.name = name.or(object.name.take());
        }
    }

    /// Says which task does it.
    pub fn runs_as(&mut self, task: String) {
        if let Some(entry) = &mut self.entry {
            entry.task = Some(task);
        }
    }

    /// Writes the outcome down. What was done is done: that it cannot be written goes to the log.
    pub async fn end(mut self, outcome: Outcome, code: Option<String>) {
        let Some(entry) = self.entry.take() else { return };
        let (intent, action) = (entry.intent, entry.action.clone());
        if let Err(error) = self.audit.append(Entry { outcome, code, ..entry }).await {
            tracing::error!(%error, intent, action, ?outcome, "an outcome is not in the audit");
        }
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        let posted = self.audit.db.post("an unknown outcome in the audit", move |transaction| {
            audit::append(transaction, &entry, now_ms()).map(drop)
        });
        if let Err(error) = posted {
            tracing::debug!(%error, "an outcome that nobody knows is not in the audit");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::auth::Role;
    use crate::state::audit::page;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    async fn records(audit: &Audit) -> Vec<serde_json::Value> {
        let page = audit.db.call(|conn| page(conn, i64::MAX, 100)).await.unwrap();
        page.iter().rev().map(|one| one.json().unwrap()).collect()
    }

    fn audit() -> (tempfile::TempDir, Audit) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("gantry.db")).unwrap();
        (dir, Audit::new(db))
    }

    #[tokio::test]
    async fn the_intent_is_written_before_and_the_outcome_names_it() {
        let (_dir, audit) = audit();
        let object = Object { kind: "VDI".into(), id: None, name: None };
        let mut intent =
            audit.intend(Actor::unknown(None, Via::Rest, HERE), "vdi.import", Some(object)).await.unwrap();
        assert_eq!(records(&audit).await.len(), 1);
        intent.found(Some("x".into()), None);
        intent.runs_as("t".into());
        intent.end(Outcome::Failure, Some("storage_error".into())).await;
        let records = records(&audit).await;
        assert_eq!((records.len(), &records[0]["outcome"]), (2, &"intended".into()));
        let ended = &records[1];
        assert_eq!((&ended["intent"], &ended["outcome"]), (&1.into(), &"failure".into()));
        assert_eq!((&ended["object"]["id"], &ended["task"]), (&"x".into(), &"t".into()));
        assert_eq!((&ended["code"], &ended["from"]), (&"storage_error".into(), &"192.0.2.7".into()));
    }

    #[tokio::test]
    async fn an_intent_whose_end_nobody_saw_says_so() {
        let (_dir, audit) = audit();
        drop(audit.intend(Actor::of_this_process(), "sr.delete", None).await.unwrap());
        let records = records(&audit).await;
        assert_eq!((&records[1]["outcome"], &records[1]["via"]), (&"unknown".into(), &"cli".into()));
    }

    #[tokio::test]
    async fn a_password_that_comes_with_every_request_is_one_login_a_minute() {
        let (_dir, audit) = audit();
        let alice =
            Principal { user: UserId::random(), name: "alice".into(), role: Role::Viewer, token: None };
        for _ in 0..3 {
            audit.signed_in(&alice, Via::Rest, HERE).await.unwrap();
        }
        audit.signed_in(&alice, Via::Rpc, HERE).await.unwrap();
        audit.signed_in(&alice, Via::Rest, IpAddr::V4(Ipv4Addr::LOCALHOST)).await.unwrap();
        for _ in 0..3 {
            audit.login_failed(None, Via::Rest, HERE).await;
            audit.login_failed(Some("alice"), Via::Rest, HERE).await;
        }
        let outcomes: Vec<_> =
            records(&audit).await.iter().map(|one| one["outcome"].as_str().unwrap().to_owned()).collect();
        assert_eq!(outcomes.iter().filter(|one| *one == "success").count(), 3, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|one| *one == "refused").count(), 4, "{outcomes:?}");
    }

    #[tokio::test]
    async fn tokens_that_are_guessed_do_not_fill_the_audit() {
        let (_dir, audit) = audit();
        for last in 0..100 {
            audit.login_failed(None, Via::Rest, IpAddr::V4(Ipv4Addr::new(198, 51, 100, last))).await;
        }
        assert_eq!(records(&audit).await.len(), MAX_BAD_TOKENS);
    }

    #[tokio::test]
    async fn what_is_kept_for_no_time_is_cut_off() {
        let (_dir, audit) = audit();
        drop(audit.intend(Actor::of_this_process(), "sr.delete", None).await.unwrap());
        assert_eq!(audit.cut(Duration::from_secs(60)).await.unwrap(), 0);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(audit.cut(Duration::ZERO).await.unwrap(), 2);
        assert!(records(&audit).await.is_empty());
    }

    #[tokio::test]
    async fn without_a_database_nothing_may_be_done() {
        let (_dir, audit) = audit();
        audit.db.close().await;
        assert!(audit.intend(Actor::of_this_process(), "sr.delete", None).await.is_err());
    }
}
