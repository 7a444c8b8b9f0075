//! `Idempotency-Key` on POST: the same request again is the same answer, and the work is done once.
//!
//! A request is known by its user, its address and its key. It is written down before its work begins, its answer
//! before it is sent. What makes something names it beforehand ([`Claim::makes`]): whether that exists tells after
//! a crash, by one look, whether the request was done. What stays unanswered and has made nothing may be tried
//! again with the same key.

mod answer;
mod fingerprint;
mod guard;
mod key;

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::HttpResponse;
use actix_web::http::Method;
use gantry_actors::{JobEnd, JobId};

use crate::ids::{SrId, UserId, VbdId, VdiId, VmId};
use crate::state::idempotency::{self as records, Answer, Fingerprint, Name, Record};
use crate::state::{Db, StateError, disks, now_ms, users, vms};

use super::App;
use super::caller::Caller;
use super::error::ApiError;

pub use answer::is_replayed;
use fingerprint::{Parameters, fingerprint};
pub use guard::guard;
use key::Key;

/// The most requests with a key that are at work at once. Each goes on to its end when its client hangs up, so the
/// connections do not bound them.
const MAX_AT_WORK: usize = 1024;

/// The longest path that is known; no route is as long.
const MAX_PATH_BYTES: usize = 512;

/// Something that a request makes, and by whose existence one sees that it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// A disk.
    Vdi(VdiId),
    /// A storage repository.
    Sr(SrId),
    /// A VM, or a snapshot of one.
    Vm(VmId),
    /// The connection of a disk to a VM.
    Vbd(VbdId),
    /// A user.
    User(UserId),
}

impl std::fmt::Display for Made {
    /// Its address, without what all addresses begin with.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vdi(id) => write!(f, "vdis/{id}"),
            Self::Sr(id) => write!(f, "srs/{id}"),
            Self::Vm(id) => write!(f, "vms/{id}"),
            Self::Vbd(id) => write!(f, "vbds/{id}"),
            Self::User(id) => write!(f, "users/{id}"),
        }
    }
}

impl Made {
    /// Its id.
    pub fn id(self) -> String {
        match self {
            Self::Vdi(id) => id.to_string(),
            Self::Sr(id) => id.to_string(),
            Self::Vm(id) => id.to_string(),
            Self::Vbd(id) => id.to_string(),
            Self::User(id) => id.to_string(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.split_once('/')? {
            ("vdis", id) => id.parse().ok().map(Self::Vdi),
            ("srs", id) => id.parse().ok().map(Self::Sr),
            ("vms", id) => id.parse().ok().map(Self::Vm),
            ("vbds", id) => id.parse().ok().map(Self::Vbd),
            ("users", id) => id.parse().ok().map(Self::User),
            _ => None,
        }
    }

    async fn exists(self, db: &Db) -> Result<bool, StateError> {
        db.call(move |conn| {
            Ok(match self {
                Self::Vdi(id) => disks::find_vdi(conn, id)?.is_some(),
                Self::Sr(id) => disks::find_sr(conn, id)?.is_some(),
                Self::Vm(id) => vms::find_vm(conn, id)?.is_some(),
                Self::Vbd(id) => vms::find_vbd(conn, id)?.is_some(),
                Self::User(id) => users::get(conn, id)?.is_some(),
            })
        })
        .await
    }
}

/// A request that is at work.
#[derive(Debug)]
struct AtWork {
    fingerprint: Fingerprint,
    task: Option<JobId>,
}

/// The requests with a key of all users. Clones share them.
#[derive(Debug, Clone)]
pub struct Idempotency {
    db: Db,
    at_work: Arc<Mutex<HashMap<Name, AtWork>>>,
}

/// What a request turned out to be.
pub enum Opened {
    /// A new one.
    New(Claim),
    /// One that was answered: this is the answer.
    Known(HttpResponse),
}

/// What became of a request that was not answered.
enum Fate {
    Done(Answer),
    AtWork(JobId),
    Nothing,
}

impl Idempotency {
    /// Keeps its records in this database.
    pub fn new(db: Db) -> Self {
        Self { db, at_work: Arc::default() }
    }

    /// Looks a request up, and takes it if it is new.
    ///
    /// # Errors
    /// 409 while it is at work, or when its answer is not kept; 422 when it has other parameters; 503 when too many
    /// are at work.
    async fn open(
        app: &App,
        caller: &Caller,
        address: String,
        key: &Key,
        fingerprint: Fingerprint,
    ) -> Result<Opened, ApiError> {
        let name = Name { user: caller.user(), address, key: key.as_str().to_owned() };
        // From here on nobody else looks at the record.
        let claim = app.idempotency.claim(name.clone(), fingerprint)?;
        let (wanted, sought) = (name.clone(), fingerprint);
        let found =
            claim.desk.db.transaction(move |tx| records::begin(tx, &wanted, &sought, now_ms())).await?;
        let Some(record) = found else { return Ok(Opened::New(claim)) };
        if record.fingerprint != fingerprint {
            return Err(mismatch());
        }
        let answer = match record.answer {
            Some(answer) if record.answered => answer,
            _ => match fate(app, &record).await? {
                Fate::Done(answer) => {
                    claim.store(answer.clone()).await?;
                    answer
                }
                Fate::AtWork(task) => {
                    return Err(ApiError::RequestInProgress { task: Some(task.to_string()) });
                }
                Fate::Nothing => {
                    claim.desk.db.transaction(move |tx| records::begin_again(tx, &name, now_ms())).await?;
                    return Ok(Opened::New(claim));
                }
            },
        };
        answer::replay(answer).map(Opened::Known)
    }

    /// Takes a request that nobody else is at.
    fn claim(&self, name: Name, fingerprint: Fingerprint) -> Result<Claim, ApiError> {
        let mut at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let running = at_work.len();
        match at_work.entry(name.clone()) {
            Entry::Occupied(other) if other.get().fingerprint != fingerprint => Err(mismatch()),
            Entry::Occupied(other) => {
                Err(ApiError::RequestInProgress { task: other.get().task.map(|task| task.to_string()) })
            }
            Entry::Vacant(_) if running >= MAX_AT_WORK => Err(ApiError::TooManyRequestsAtWork),
            Entry::Vacant(place) => {
                place.insert(AtWork { fingerprint, task: None });
                let held = Cell::new(true);
                Ok(Claim { desk: self.clone(), name, fingerprint, secret: Cell::new(false), held })
            }
        }
    }

    /// Answers what a former run has done and not answered. For the start: later, the tasks may have been forgotten
    /// and the objects deleted by which one sees it.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn settle(app: &App) -> Result<(), StateError> {
        let db = &app.idempotency.db;
        for (name, record) in db.call(|conn| records::unanswered(conn, now_ms())).await? {
            if let Fate::Done(answer) = fate(app, &record).await? {
                db.transaction(move |tx| records::answer(tx, &name, &record.fingerprint, &answer, now_ms()))
                    .await?;
            }
        }
        Ok(())
    }
}

/// Finds out what became of a request that nobody is at any more.
async fn fate(app: &App, record: &Record) -> Result<Fate, StateError> {
    let task = record.task.as_deref().and_then(|task| task.parse::<JobId>().ok());
    let view = task.and_then(|task| app.engine.task(task));
    let succeeded = view.as_ref().is_some_and(|view| matches!(view.record.end(), Some(JobEnd::Success(_))));
    if let (Some(object), Some(answer)) = (&record.object, &record.answer) {
        let made = Made::parse(object);
        let exists = match made {
            Some(made) => made.exists(&app.idempotency.db).await?,
            None => false,
        };
        if exists || succeeded {
            return Ok(Fate::Done(answer.clone()));
        }
    }
    Ok(match view {
        Some(view) if !view.state().is_ended() => Fate::AtWork(view.id()),
        Some(view) if succeeded => Fate::Done(answer::of_task(view.id())),
        _ => Fate::Nothing,
    })
}

/// A request that is at work, until it is answered or given up.
#[derive(Debug)]
pub struct Claim {
    desk: Idempotency,
    name: Name,
    fingerprint: Fingerprint,
    secret: Cell<bool>,
    held: Cell<bool>,
}

impl Claim {
    /// What the client calls the request.
    pub fn key(&self) -> &str {
        &self.name.key
    }

    /// Notes, durably, the job that does the work.
    ///
    /// # Errors
    /// [`ApiError::State`].
    pub async fn began(&self, task: JobId) -> Result<(), ApiError> {
        self.show(task);
        let name = self.name.clone();
        let text = task.to_string();
        Ok(self.desk.db.transaction(move |tx| records::note_task(tx, &name, &text)).await?)
    }

    /// Notes, durably and before it is made, what the request makes, by which job, and what is answered then.
    ///
    /// # Errors
    /// [`ApiError::State`].
    pub async fn makes(&self, made: Made, task: Option<JobId>, answer: HttpResponse) -> Result<(), ApiError> {
        if let Some(task) = task {
            self.show(task);
        }
        let (answer, _) = answer::kept(answer, false);
        let (name, task, object) = (self.name.clone(), task.map(|task| task.to_string()), made.to_string());
        let noted = self
            .desk
            .db
            .transaction(move |tx| records::note_object(tx, &name, task.as_deref(), &object, &answer))
            .await;
        Ok(noted?)
    }

    /// Says that the answer holds something that must not be kept.
    pub fn keep_secret(&self) {
        self.secret.set(true);
    }

    /// Keeps the answer, if it is one that is kept, and lets the request go.
    pub async fn finish(&self, response: HttpResponse) -> HttpResponse {
        let (answer, response) = answer::kept(response, self.secret.get());
        if answer::is_final(&answer)
            && let Err(error) = self.store(answer).await
        {
            // It is true all the same; should it be asked for again, what was made tells.
            tracing::error!(%error, address = %self.name.address, "an answer could not be kept");
        }
        self.release();
        response
    }

    async fn store(&self, answer: Answer) -> Result<(), StateError> {
        let (name, fingerprint) = (self.name.clone(), self.fingerprint);
        let store =
            move |tx: &rusqlite::Transaction<'_>| records::answer(tx, &name, &fingerprint, &answer, now_ms());
        self.desk.db.transaction(store).await
    }

    fn show(&self, task: JobId) {
        let mut at_work = self.desk.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = at_work.get_mut(&self.name).filter(|_| self.held.get()) {
            entry.task = Some(task);
        }
    }

    fn release(&self) {
        if self.held.replace(false) {
            self.desk.at_work.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release();
    }
}

/// The address of a request, as records have it. `None` for one that no route has.
fn address(method: &Method, path: &str) -> Option<String> {
    (path.len() <= MAX_PATH_BYTES).then(|| format!("{method} {}", path.trim_end_matches('/')))
}

fn mismatch() -> ApiError {
    ApiError::Unprocessable {
        code: "idempotency_mismatch",
        message:
            "this Idempotency-Key was used at this address with other parameters, or by a token with other \
                  rights: take a new key for a new request"
                .into(),
    }
}
