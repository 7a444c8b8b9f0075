//! Exports. All range requests of one user for one representation are one transfer, which is one job: parallel
//! and resumed downloads do not flood the list of tasks, and the job succeeds when all that was asked for was
//! sent. A second download of the whole, beside one that runs, is a transfer of its own. The bytes themselves
//! never pass through here: each request pulls its own.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use gantry_actors::{
    Durability, EngineError, EngineHandle, JobContext, JobEnd, JobFailure, JobId, JobRecord, JobState,
    NewJob, Pace, Progress, Resumption, RetryPolicy, TaskProperties, Work,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, OnceCell, oneshot};
use tokio_util::sync::CancellationToken;

use crate::backends::local::{LocalError, LocalStore, Pin};
use crate::ids::{ContentId, DiskFormat, SrId, UserId, VdiId};

use super::admission::{self, TurnError};
use super::intervals::Intervals;
use super::representation::Representation;

/// The kind of these jobs.
pub const KIND: &str = "vdi.export";
/// How long a transfer of which all that was asked for was sent, but not the whole, waits for the next
/// request before it counts as done. Downloaders that read in pieces leave such gaps.
const LINGER: Duration = Duration::from_secs(2);
/// How often it is written down what was sent.
const CHECKPOINT: Duration = Duration::from_secs(5);
/// Most stretches that are written down.
const CHECKPOINT_STRETCHES: usize = 256;

/// Who wants what.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// The user.
    pub user: UserId,
    /// The VDI as it was asked for.
    pub vdi: VdiId,
    /// Where it lies.
    pub sr: SrId,
    /// The content of it.
    pub content: ContentId,
    /// In which form.
    pub format: DiskFormat,
    /// The representation's entity tag.
    pub etag: String,
    /// Its length, bytes.
    pub len: u64,
    /// The part that is asked for.
    pub range: Range<u64>,
    /// Whether it is asked for as a part of something, by a range.
    pub is_part: bool,
}

/// What is stored of an export's request.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Spec {
    user: UserId,
    vdi: VdiId,
    content: ContentId,
    format: DiskFormat,
    etag: String,
    len: u64,
}

/// The content that an unfinished export of a former server needs, if the record is of one.
pub fn content_needed(kind: &str, spec: &Value) -> Option<ContentId> {
    if kind != KIND {
        return None;
    }
    serde_json::from_value::<Spec>(spec.clone()).ok().map(|spec| spec.content)
}

/// The exports that run or may be taken up again.
#[derive(Clone)]
pub struct ExportDesk(Arc<Desk>);

struct Desk {
    engine: OnceLock<EngineHandle>,
    store: LocalStore,
    detach: Duration,
    queue_wait: Duration,
    closing: CancellationToken,
    transfers: Mutex<Transfers>,
}

type Key = (UserId, String);
/// Empty while its job waits for its turn.
type Slot = Arc<OnceCell<Arc<Transfer>>>;
type Transfers = HashMap<Key, Vec<Slot>>;

struct Transfer {
    job: JobId,
    spec: Spec,
    progress: Progress,
    stop: CancellationToken,
    pace: Pace,
    ledger: Mutex<Ledger>,
    changed: Notify,
}

#[derive(Default)]
struct Ledger {
    asked: Intervals,
    sent: Intervals,
    readers: usize,
    /// Begun by a former server, and not taken up again yet.
    orphan: bool,
    ended: bool,
    released: bool,
    failure: Option<JobFailure>,
    pin: Option<Arc<Pin>>,
}

/// What is kept so that the next server can go on.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Checkpoint {
    /// Stretches of the representation that were sent.
    sent: Vec<(u64, u64)>,
}

impl Transfer {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change is made in one go, so a panic elsewhere leaves it whole.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a reader, unless it is too late.
    fn enter(self: &Arc<Self>, range: Range<u64>) -> Option<Reader> {
        let mut ledger = self.ledger();
        if ledger.ended {
            return None;
        }
        // Who goes on from here has what comes before: of what was sent last, nobody could tell that it arrived.
        let gap = ledger.sent.gap_before(range.start);
        if std::mem::take(&mut ledger.orphan) || (ledger.readers == 0 && ledger.asked.contains(gap.clone())) {
            ledger.sent.add(gap);
        }
        ledger.readers += 1;
        ledger.asked.add(range);
        drop(ledger);
        self.changed.notify_one();
        Some(Reader { transfer: Arc::clone(self) })
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint { sent: self.ledger().sent.stretches(CHECKPOINT_STRETCHES) }
    }
}

/// One request's part in a transfer. Tell it what was sent; dropping it leaves the transfer.
pub struct Reader {
    transfer: Arc<Transfer>,
}

impl Reader {
    /// The task.
    pub fn task(&self) -> JobId {
        self.transfer.job
    }

    /// Is cancelled when the transfer is aborted.
    pub fn stop(&self) -> &CancellationToken {
        &self.transfer.stop
    }

    /// When bytes may be sent.
    pub fn pace(&self) -> &Pace {
        &self.transfer.pace
    }

    /// The transfer's counters.
    pub fn progress(&self) -> &Progress {
        &self.transfer.progress
    }

    /// These bytes of the representation have left for the client.
    pub fn sent(&self, range: Range<u64>) {
        let mut ledger = self.transfer.ledger();
        ledger.sent.add(range);
        let total = ledger.sent.total();
        // The whole: the job ends now, not when the last connection is torn down.
        let whole = total >= self.transfer.spec.len;
        drop(ledger);
        self.transfer.progress.raise_written_to(total);
        if whole {
            self.transfer.changed.notify_one();
        }
    }

    /// The source failed: so does the transfer.
    pub fn failed(&self, failure: JobFailure) {
        self.transfer.ledger().failure.get_or_insert(failure);
        self.transfer.changed.notify_one();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut ledger = self.transfer.ledger();
        ledger.readers = ledger.readers.saturating_sub(1);
        drop(ledger);
        self.transfer.changed.notify_one();
    }
}

impl ExportDesk {
    /// A desk whose cut transfers can be taken up again for `detach`, and whose requests wait for their turn for
    /// `queue_wait`. Needs its engine ([`Self::open`]) before anybody can join.
    pub fn new(store: LocalStore, detach: Duration, queue_wait: Duration) -> Self {
        Self(Arc::new(Desk {
            engine: OnceLock::new(),
            store,
            detach,
            queue_wait,
            closing: CancellationToken::new(),
            transfers: Mutex::default(),
        }))
    }

    /// Gives the desk its engine.
    pub fn open(&self, engine: EngineHandle) {
        let _first = self.0.engine.set(engine);
    }

    /// Joins the transfer that a request belongs to, or begins it, and waits until its bytes may move.
    ///
    /// # Errors
    /// [`TurnError`].
    pub async fn join(&self, request: &ExportRequest, pin: &Arc<Pin>) -> Result<Reader, TurnError> {
        let engine = self.0.engine.get().ok_or(EngineError::Stopped)?;
        let key = (request.user, request.etag.clone());
        loop {
            let slot = self.choose(&key, request.is_part);
            let own = Mutex::new(None);
            let begun = slot
                .get_or_try_init(|| async {
                    let reader = self.begin(engine, request, Arc::clone(pin)).await?;
                    let transfer = Arc::clone(&reader.transfer);
                    *own.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
                    Ok::<_, TurnError>(transfer)
                })
                .await;
            let transfer = match begun {
                Ok(transfer) => Arc::clone(transfer),
                Err(error) => {
                    self.remove(&key, &slot);
                    return Err(error);
                }
            };
            if let Some(reader) = own.into_inner().unwrap_or_else(PoisonError::into_inner) {
                return Ok(reader);
            }
            let Some(reader) = transfer.enter(request.range.clone()) else {
                self.remove(&key, &slot);
                continue;
            };
            admission::place(engine, reader.task(), reader.pace(), self.0.queue_wait).await?;
            return Ok(reader);
        }
    }

    /// The transfer to join: one that nobody reads; for a part, else the latest; else a new one.
    fn choose(&self, key: &Key, is_part: bool) -> Slot {
        let mut transfers = self.transfers();
        let slots = transfers.entry(key.clone()).or_default();
        slots.retain(|slot| match slot.get() {
            Some(transfer) => !transfer.ledger().ended,
            // Whoever waited for its turn has left.
            None => Arc::strong_count(slot) > 1,
        });
        let unread = |slot: &&Slot| slot.get().is_some_and(|transfer| transfer.ledger().readers == 0);
        let found = slots.iter().find(unread).or_else(|| slots.last().filter(|_| is_part));
        found.cloned().unwrap_or_else(|| {
            let slot = Slot::default();
            slots.push(Arc::clone(&slot));
            slot
        })
    }

    /// The content of a VDI that a transfer still holds under an entity tag that is no longer the current one.
    pub fn held(&self, vdi: VdiId, etag: &str) -> Option<(Arc<Pin>, DiskFormat)> {
        self.of_vdi(vdi).into_iter().find_map(|transfer| {
            if transfer.spec.etag != etag {
                return None;
            }
            let ledger = transfer.ledger();
            Some((Arc::clone(ledger.pin.as_ref()?), transfer.spec.format))
        })
    }

    /// Gives up the transfers of a VDI that nobody reads at the moment; for when it is deleted.
    pub fn release(&self, vdi: VdiId) {
        for transfer in self.of_vdi(vdi) {
            transfer.ledger().released = true;
            transfer.changed.notify_one();
        }
    }

    fn of_vdi(&self, vdi: VdiId) -> Vec<Arc<Transfer>> {
        let transfers = self.transfers();
        let all = transfers.values().flatten().filter_map(|slot| slot.get());
        all.filter(|transfer| transfer.spec.vdi == vdi).map(Arc::clone).collect()
    }

    /// The server stops: transfers that nobody reads are left to the next one. Those that are being read go on to
    /// their end. To be called once the engine drains.
    pub fn close(&self) {
        self.0.closing.cancel();
    }

    fn transfers(&self) -> MutexGuard<'_, Transfers> {
        self.0.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, key: &Key, slot: &Slot) {
        let mut transfers = self.transfers();
        if let Some(slots) = transfers.get_mut(key) {
            slots.retain(|other| !Arc::ptr_eq(other, slot));
            if slots.is_empty() {
                transfers.remove(key);
            }
        }
    }

    fn forget(&self, transfer: &Arc<Transfer>) {
        let key = (transfer.spec.user, transfer.spec.etag.clone());
        let mut transfers = self.transfers();
        if let Some(slots) = transfers.get_mut(&key) {
            slots.retain(|slot| !slot.get().is_some_and(|other| Arc::ptr_eq(other, transfer)));
            if slots.is_empty() {
                transfers.remove(&key);
            }
        }
    }

    async fn begin(
        &self,
        engine: &EngineHandle,
        request: &ExportRequest,
        pin: Arc<Pin>,
    ) -> Result<Reader, TurnError> {
        let properties = TaskProperties {
            name: format!("Export of VDI {} as {}", request.vdi, request.format),
            task_type: KIND.into(),
            user_id: Some(request.user.to_string()),
            object_id: Some(request.vdi.to_string()),
            object_type: Some("VDI".into()),
            method: Some("GET".into()),
            ..TaskProperties::default()
        };
        let spec = Spec {
            user: request.user,
            vdi: request.vdi,
            content: request.content,
            format: request.format,
            etag: request.etag.clone(),
            len: request.len,
        };
        let mut new = NewJob::new(KIND, properties);
        new.owner = Some(request.user.to_string());
        new.durability = Durability::BestEffort;
        new.groups = admission::groups_of(request.sr);
        new.spec = json!(spec);
        let (hand, handed) = oneshot::channel();
        let (desk, range) = (self.clone(), request.range.clone());
        let work = move |context: JobContext| async move {
            let mut asked = Intervals::default();
            asked.add(range);
            let ledger = Ledger { asked, readers: 1, pin: Some(pin), ..Ledger::default() };
            let transfer = Transfer::new(&context, spec, ledger);
            // Whoever asked may have left meanwhile: then the reader is dropped here, and leaves.
            drop(hand.send(Reader { transfer: Arc::clone(&transfer) }));
            desk.attend(&transfer, &context).await
        };
        let mut ticket = engine.submit(new, work).await?;
        admission::turn(engine, &mut ticket, self.0.queue_wait).await?;
        handed.await.map_err(|_| TurnError::Aborted)
    }

    /// How an export of a former server goes on: it waits for its client.
    pub fn resume(&self, record: &JobRecord) -> Option<Resumption> {
        let spec: Spec = serde_json::from_value(record.spec.job.clone()).ok()?;
        let desk = self.clone();
        let kept = self.0.store.pin_kept(spec.content);
        let work =
            Work::once(move |context: JobContext| async move { desk.go_on(spec, kept, &context).await });
        Some(Resumption { work, retry: RetryPolicy::NEVER, timeout: None, waits_for_client: true })
    }

    async fn go_on(&self, spec: Spec, kept: Option<Pin>, context: &JobContext) -> JobEnd {
        // Nobody can ask for it any more; what it holds would lie there until `transfers.detach` is over.
        if let Err(LocalError::NoSuchVdi(_)) = self.0.store.pin_vdi(spec.vdi).await {
            return JobEnd::Failure(vdi_deleted());
        }
        let gone = |message: String| JobEnd::Failure(JobFailure::new("ExportError", "content_gone", message));
        let pin = match kept {
            Some(pin) => Arc::new(pin),
            None => match self.0.store.pin_content(spec.content).await {
                Ok(pin) => Arc::new(pin),
                Err(error) => return gone(error.to_string()),
            },
        };
        let opened = self.0.store.open_content(&pin).await;
        let same = opened.is_ok_and(|content| {
            Representation::new(content, spec.format)
                .is_ok_and(|now| now.etag == spec.etag && now.len() == spec.len)
        });
        if !same {
            return gone("the bytes that the client began to download cannot be made again".into());
        }
        let found: Checkpoint =
            serde_json::from_value(context.found_checkpoint().clone()).unwrap_or_default();
        let mut sent = Intervals::default();
        found.sent.iter().for_each(|(start, end)| sent.add(*start..*end));
        context.progress().raise_written_to(sent.total());
        let ledger = Ledger { sent, orphan: true, pin: Some(pin), ..Ledger::default() };
        let transfer = Transfer::new(context, spec, ledger);
        let key = (transfer.spec.user, transfer.spec.etag.clone());
        let slot = Arc::new(OnceCell::new_with(Some(Arc::clone(&transfer))));
        self.transfers().entry(key).or_default().push(slot);
        self.attend(&transfer, context).await
    }

    /// The job of a transfer: waits until it has ended, one way or another.
    async fn attend(&self, transfer: &Arc<Transfer>, context: &JobContext) -> JobEnd {
        let end = self.watch(transfer, context).await;
        self.forget(transfer);
        // What was sent last counts with the next server.
        context.set_checkpoint(json!(transfer.checkpoint()));
        end
    }

    async fn watch(&self, transfer: &Transfer, context: &JobContext) -> JobEnd {
        let mut written = transfer.checkpoint();
        loop {
            let changed = transfer.changed.notified();
            let (wait, is_read) = match transfer.standing() {
                Standing::Ended(ended) => return ended.into(),
                Standing::Read => {
                    context.set_running();
                    (CHECKPOINT, true)
                }
                Standing::Idle | Standing::Left if self.0.closing.is_cancelled() => {
                    return transfer.give_up_for(JobEnd::Interrupted);
                }
                Standing::Idle => (LINGER, false),
                Standing::Left => {
                    if context.presence() == JobState::Running {
                        context.set_detached();
                    }
                    (self.0.detach, false)
                }
            };
            tokio::select! {
                () = changed => {}
                () = self.0.closing.cancelled(), if !is_read => {}
                () = tokio::time::sleep(wait) => {
                    if !is_read && let Some(ended) = transfer.give_up() {
                        return ended.into();
                    }
                }
                () = context.stop().cancelled() => {
                    transfer.close(&mut transfer.ledger());
                    return JobEnd::Aborted;
                }
            }
            let now = transfer.checkpoint();
            if now != written {
                context.set_checkpoint(json!(now));
                written = now;
            }
        }
    }
}

fn vdi_deleted() -> JobFailure {
    let message = "the VDI was deleted before the download was taken up again";
    JobFailure::new("ExportError", "vdi_deleted", message)
}

enum Standing {
    /// Somebody reads.
    Read,
    /// Nobody reads, and all that was asked for was sent.
    Idle,
    /// Nobody reads, and something that was asked for was not sent.
    Left,
    /// It is over.
    Ended(Result<Value, JobFailure>),
}

impl Transfer {
    fn new(context: &JobContext, spec: Spec, ledger: Ledger) -> Arc<Self> {
        context.progress().set_total(spec.len);
        Arc::new(Self {
            job: context.id(),
            spec,
            progress: context.progress().clone(),
            stop: context.stop().clone(),
            pace: context.pace(),
            ledger: Mutex::new(ledger),
            changed: Notify::new(),
        })
    }

    fn close(&self, ledger: &mut Ledger) {
        ledger.ended = true;
        ledger.pin = None;
    }

    fn standing(&self) -> Standing {
        let mut ledger = self.ledger();
        if let Some(failure) = ledger.failure.take() {
            self.close(&mut ledger);
            return Standing::Ended(Err(failure));
        }
        if ledger.sent.contains(0..self.spec.len) && ledger.readers == 0 {
            self.close(&mut ledger);
            return Standing::Ended(Ok(json!({})));
        }
        match (ledger.readers, ledger.sent.covers(&ledger.asked)) {
            (0, _) if ledger.released => {
                self.close(&mut ledger);
                Standing::Ended(Err(vdi_deleted()))
            }
            (0, true) if !ledger.orphan => Standing::Idle,
            (0, _) => Standing::Left,
            _ => Standing::Read,
        }
    }

    /// Ends the transfer because the server stops.
    fn give_up_for(&self, otherwise: JobEnd) -> JobEnd {
        let mut ledger = self.ledger();
        self.close(&mut ledger);
        if ledger.all_sent() { JobEnd::Success(json!({})) } else { otherwise }
    }

    /// Ends the transfer if nobody has come back.
    fn give_up(&self) -> Option<Result<Value, JobFailure>> {
        let mut ledger = self.ledger();
        if ledger.readers > 0 {
            return None;
        }
        self.close(&mut ledger);
        if ledger.all_sent() {
            return Some(Ok(json!({})));
        }
        let message = format!(
            "the client left after {} of {} bytes and did not come back",
            ledger.sent.total(),
            self.spec.len
        );
        Some(Err(JobFailure::new("ExportError", "client_gone", message)))
    }
}

impl Ledger {
    fn all_sent(&self) -> bool {
        !self.orphan && self.sent.covers(&self.asked)
    }
}
