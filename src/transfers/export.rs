//! Exports. All range requests of one user for one representation are one transfer, which is one job: parallel
//! and resumed downloads do not flood the list of tasks, and the job succeeds when all that was asked for was
//! sent. A second download of the whole, beside one that runs, is a transfer of its own. The bytes themselves
//! never pass through here: each request pulls its own.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use gantry_actors::{
    Durability, EngineError, EngineHandle, JobContext, JobEnd, JobFailure, JobId, JobRecord, JobState,
    NewJob, Pace, Progress, Resumption, RetryPolicy, TaskProperties, Work,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, OnceCell, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backends::local::{LocalError, LocalStore, Pin};
use crate::ids::{ContentId, DiskFormat, SrId, UserId, VdiId};

use super::admission::{self, NotAdmitted, TurnError};
use super::intervals::Intervals;
use super::representation::Representation;

/// The kind of these jobs.
pub const KIND: &str = "vdi.export";
/// How long a transfer of which all that was asked for was sent, but not the whole, waits for the next
/// request before it counts as done. Downloaders that read in pieces leave such gaps. One that was read over several
/// connections at once waits even after the whole: its client may ask again for what is still on its way to it.
const LINGER: Duration = Duration::from_secs(2);
/// How often it is written down what was sent.
const CHECKPOINT: Duration = Duration::from_secs(5);
/// Who has less patience left than this when somebody who waited with him was refused is refused too, instead of
/// going to the end of the queue for a moment.
const MOMENT: Duration = Duration::from_secs(1);
/// The same while it is paused: soon all that was on its way has been counted, and it may be paused for long.
const CHECKPOINT_PAUSED: Duration = Duration::from_millis(500);
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

/// The user, the VDI as it was asked for, and the entity tag: a snapshot has its disk's until that gets other content.
type Key = (UserId, VdiId, String);
type Transfers = HashMap<Key, Vec<Arc<Slot>>>;

/// A transfer, or the place where one will be once its job has had its turn.
#[derive(Default)]
struct Slot {
    transfer: OnceCell<Arc<Transfer>>,
    queued: Mutex<Queued>,
}

/// What those who wait for a transfer together know of its job.
#[derive(Default)]
struct Queued {
    job: Option<JobId>,
    /// How the last wait for a turn ended, if without one.
    refused: Option<NotAdmitted>,
}

impl Slot {
    fn of(transfer: &Arc<Transfer>) -> Arc<Self> {
        let transfer = OnceCell::new_with(Some(Arc::clone(transfer)));
        Arc::new(Self { transfer, queued: Mutex::default() })
    }

    fn queued(&self) -> MutexGuard<'_, Queued> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has a transfer to join, or somebody who waits for one.
    fn is_alive(self: &Arc<Self>) -> bool {
        match self.transfer.get() {
            Some(transfer) => !transfer.ledger().ended,
            None => Arc::strong_count(self) > 1,
        }
    }
}

/// One request's hold on a slot. Who lets go of one that nobody else needs clears it away.
struct Hold<'a> {
    desk: &'a ExportDesk,
    key: &'a Key,
    slot: Option<Arc<Slot>>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.slot = None;
        let mut transfers = self.desk.transfers();
        if let Some(slots) = transfers.get_mut(self.key) {
            slots.retain(Slot::is_alive);
            if slots.is_empty() {
                transfers.remove(self.key);
            }
        }
    }
}

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
    /// Begun by a former server, and no byte has been sent since.
    orphan: bool,
    /// Several have read at once.
    parallel: bool,
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
        if ledger.readers == 0 && (ledger.orphan || ledger.asked.contains(gap.clone())) {
            ledger.sent.add(gap);
        }
        ledger.readers += 1;
        ledger.parallel |= ledger.readers > 1;
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
        ledger.orphan = false;
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
        let key = (request.user, request.vdi, request.etag.clone());
        let deadline = Instant::now() + self.0.queue_wait;
        loop {
            let slot = self.choose(&key, request.is_part);
            let _hold = Hold { desk: self, key: &key, slot: Some(Arc::clone(&slot)) };
            let (transfer, own) = self.wait_in(&slot, engine, request, pin, deadline).await?;
            if let Some(reader) = own {
                return Ok(reader);
            }
            if let Some(reader) = transfer.enter(request.range.clone()) {
                admission::place(engine, reader.task(), reader.pace(), self.0.queue_wait, deadline).await?;
                return Ok(reader);
            }
        }
    }

    /// The transfer of a slot, as soon as there is one, and the reader for who has begun it. Of those who wait for
    /// it one has its job in the queue; when he leaves, the next begins anew.
    async fn wait_in(
        &self,
        slot: &Slot,
        engine: &EngineHandle,
        request: &ExportRequest,
        pin: &Arc<Pin>,
        deadline: Instant,
    ) -> Result<(Arc<Transfer>, Option<Reader>), TurnError> {
        let own = Mutex::new(None);
        let leads = AtomicBool::new(false);
        let begun = slot.transfer.get_or_try_init(|| async {
            let patience = deadline.saturating_duration_since(Instant::now());
            if let Some(refused) = slot.queued().refused.clone().filter(|_| patience < MOMENT) {
                return Err(refused.into());
            }
            leads.store(true, Ordering::Relaxed);
            let reader = self.begin(engine, request, Arc::clone(pin), slot, patience).await?;
            let transfer = Arc::clone(&reader.transfer);
            *own.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
            Ok::<_, TurnError>(transfer)
        });
        let out_of_patience = async {
            tokio::time::sleep_until(deadline).await;
            let job = slot.queued().job;
            match job.filter(|_| !leads.load(Ordering::Relaxed)) {
                Some(job) => admission::not_admitted(engine, job, self.0.queue_wait),
                // Its own wait for its turn ends by itself.
                None => std::future::pending().await,
            }
        };
        let transfer = tokio::select! {
            biased;
            begun = begun => Arc::clone(begun?),
            refused = out_of_patience => return Err(refused.into()),
        };
        Ok((transfer, own.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The transfer to join: one that nobody reads; for a part, else the latest; else a new one.
    fn choose(&self, key: &Key, is_part: bool) -> Arc<Slot> {
        let mut transfers = self.transfers();
        let slots = transfers.entry(key.clone()).or_default();
        slots.retain(Slot::is_alive);
        let unread =
            |slot: &&Arc<Slot>| slot.transfer.get().is_some_and(|transfer| transfer.ledger().readers == 0);
        let found = slots.iter().find(unread).or_else(|| slots.last().filter(|_| is_part));
        found.cloned().unwrap_or_else(|| {
            let slot = Arc::<Slot>::default();
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
        let all = transfers.values().flatten().filter_map(|slot| slot.transfer.get());
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

    fn forget(&self, transfer: &Arc<Transfer>) {
        let key = (transfer.spec.user, transfer.spec.vdi, transfer.spec.etag.clone());
        let mut transfers = self.transfers();
        if let Some(slots) = transfers.get_mut(&key) {
            slots.retain(|slot| !slot.transfer.get().is_some_and(|other| Arc::ptr_eq(other, transfer)));
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
        slot: &Slot,
        patience: Duration,
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
        slot.queued().job = Some(ticket.id());
        if let Err(error) = admission::turn(engine, &mut ticket, patience).await {
            if let TurnError::NotAdmitted(refused) = &error {
                slot.queued().refused = Some(refused.clone());
            }
            return Err(error);
        }
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
        let key = (transfer.spec.user, transfer.spec.vdi, transfer.spec.etag.clone());
        self.transfers().entry(key).or_default().push(Slot::of(&transfer));
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
                    (if transfer.pace.is_open() { CHECKPOINT } else { CHECKPOINT_PAUSED }, true)
                }
                Standing::Idle | Standing::Left | Standing::Orphaned if self.0.closing.is_cancelled() => {
                    return transfer.give_up_for(JobEnd::Interrupted);
                }
                Standing::Idle => (LINGER, false),
                Standing::Left => {
                    if context.presence() == JobState::Running {
                        context.set_detached();
                    }
                    (self.0.detach, false)
                }
                Standing::Orphaned => {
                    context.set_recovering();
                    (self.0.detach, false)
                }
            };
            tokio::select! {
                () = changed => {}
                () = transfer.pace.closed(), if is_read && wait == CHECKPOINT => {}
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
    /// Nobody reads, and nobody has since the server was restarted.
    Orphaned,
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
        if ledger.sent.contains(0..self.spec.len) && ledger.readers == 0 && !ledger.parallel {
            self.close(&mut ledger);
            return Standing::Ended(Ok(json!({})));
        }
        match (ledger.readers, ledger.sent.covers(&ledger.asked)) {
            (0, _) if ledger.released => {
                self.close(&mut ledger);
                Standing::Ended(Err(vdi_deleted()))
            }
            (0, _) if ledger.orphan => Standing::Orphaned,
            (0, true) => Standing::Idle,
            (0, false) => Standing::Left,
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
