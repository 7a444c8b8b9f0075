//! Exports. All range requests of one user for one representation are one transfer, which is one job: parallel
//! and resumed downloads do not flood the list of tasks, and the job succeeds when all that was asked for was
//! sent. A second download of the whole, beside one that runs, is a transfer of its own. The bytes themselves
//! never pass through here: each request pulls its own.

mod ledger;
mod sizing;
mod slot;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gantry_actors::{
    Durability, EngineError, EngineHandle, JobContext, JobEnd, JobFailure, JobId, JobRecord, JobState,
    JournalError, NewJob, Resumption, RetryPolicy, TaskProperties, Work,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backends::local::{LocalError, LocalStore, Pin};
use crate::ids::{ContentId, DiskFormat, SrId, UserId, VdiId};
use crate::image::budget::Budget;
use crate::image::compute::ComputePool;
use crate::image::produce::ProduceCounters;
use crate::state::documents;

use super::admission::{self, TurnError};
use super::frames::{FrameDesk, Recorded};
use super::intervals::Intervals;
use super::recipe::{ExportObject, Form, Recipe, Shape};
use super::stream::Means;

pub use ledger::Reader;
use ledger::{Checkpoint, Ledger, Standing, Transfer, deleted};
use sizing::SizingError;
use slot::{Key, Slot, Slots};

/// The kind of jobs that export disks.
pub const KIND: &str = "vdi.export";
/// The kind of jobs that export VMs.
pub const VM_KIND: &str = "vm.export";
/// How long a transfer of which all that was asked for was sent, but not the whole, waits for the next
/// request before it counts as done. Downloaders that read in pieces leave such gaps. One that was read over several
/// connections at once waits even after the whole: its client may ask again for what is still on its way to it.
const LINGER: Duration = Duration::from_secs(2);
/// How often it is written down what was sent.
const CHECKPOINT: Duration = Duration::from_secs(5);
/// The same while it is paused: soon all that was on its way has been counted, and it may be paused for long.
const CHECKPOINT_PAUSED: Duration = Duration::from_millis(500);
/// Who has less patience left than this when somebody who waited with him was refused is refused too, instead of
/// going to the end of the queue for a moment.
const MOMENT: Duration = Duration::from_secs(1);

/// Who wants what.
#[derive(Clone)]
pub struct ExportRequest {
    /// The user.
    pub user: UserId,
    /// Where its contents lie.
    pub srs: Vec<SrId>,
    /// What it is made of.
    pub recipe: Arc<Recipe>,
    /// The representation's entity tag.
    pub etag: String,
    /// The one that it has before it is compressed, under which its `ova.xml` is kept.
    pub plain_etag: String,
    /// Its length in bytes, unless it is only known when it has been made.
    pub len: Option<u64>,
    /// Its frames, if it is compressed.
    pub recorded: Option<Arc<Recorded>>,
    /// The part that is asked for.
    pub range: Range<u64>,
    /// Whether it is asked for as a part of something, by a range.
    pub is_part: bool,
}

/// What is stored of an export's request.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Spec {
    user: UserId,
    object: ExportObject,
    contents: Vec<ContentId>,
    shape: Shape,
    etag: String,
    /// Under which the `ova.xml` is kept, if there is one.
    document: Option<String>,
    len: Option<u64>,
}

/// As it was stored before VMs could be exported.
#[derive(Deserialize)]
struct FirstSpec {
    user: UserId,
    vdi: VdiId,
    content: ContentId,
    format: DiskFormat,
    etag: String,
    len: u64,
}

impl Spec {
    fn read(kind: &str, stored: &Value) -> Option<Self> {
        if !matches!(kind, KIND | VM_KIND) {
            return None;
        }
        serde_json::from_value(stored.clone()).ok().or_else(|| {
            let first: FirstSpec = serde_json::from_value(stored.clone()).ok()?;
            Some(Self {
                user: first.user,
                object: ExportObject::Vdi(first.vdi),
                contents: vec![first.content],
                shape: Shape { form: Form::Disk(first.format), compression: None },
                etag: first.etag,
                document: None,
                len: Some(first.len),
            })
        })
    }
}

/// What an unfinished export of a former server needs.
#[derive(Debug, Default)]
pub struct Needs {
    /// These contents.
    pub contents: Vec<ContentId>,
    /// The `ova.xml` that is kept under this entity tag.
    pub document: Option<String>,
}

/// What a job of a former server needs, if the record is of an export.
pub fn needs(kind: &str, spec: &Value) -> Needs {
    let spec = Spec::read(kind, spec);
    spec.map(|spec| Needs { contents: spec.contents, document: spec.document }).unwrap_or_default()
}

/// The exports that run or may be taken up again.
#[derive(Clone)]
pub struct ExportDesk(Arc<Desk>);

struct Desk {
    engine: OnceLock<EngineHandle>,
    store: LocalStore,
    frames: FrameDesk,
    budget: Arc<Budget>,
    compute: Arc<ComputePool>,
    detach: Duration,
    queue_wait: Duration,
    closing: CancellationToken,
    slots: Slots,
}

impl ExportDesk {
    /// A desk whose cut transfers can be taken up again for `detach`, and whose requests wait for their turn for
    /// `queue_wait`. Needs its engine ([`Self::open`]) before anybody can join.
    pub fn new(
        store: LocalStore,
        budget: Arc<Budget>,
        compute: Arc<ComputePool>,
        detach: Duration,
        queue_wait: Duration,
    ) -> Self {
        Self(Arc::new(Desk {
            engine: OnceLock::new(),
            frames: FrameDesk::new(store.db().clone()),
            store,
            budget,
            compute,
            detach,
            queue_wait,
            closing: CancellationToken::new(),
            slots: Slots::default(),
        }))
    }

    /// Gives the desk its engine.
    pub fn open(&self, engine: EngineHandle) {
        let _first = self.0.engine.set(engine);
    }

    /// What a stream of an export needs, which ends with `stop`.
    pub fn means(&self, stop: CancellationToken, counters: Arc<ProduceCounters>) -> Means {
        Means { stop, share: self.0.budget.register(), compute: Arc::clone(&self.0.compute), counters }
    }

    /// What is known of the frames of compressed exports.
    pub fn frames(&self) -> &FrameDesk {
        &self.0.frames
    }

    /// Joins the transfer that a request belongs to, or begins it, and waits until its bytes may move.
    ///
    /// # Errors
    /// [`TurnError`].
    pub async fn join(&self, request: &ExportRequest) -> Result<Reader, TurnError> {
        let engine = self.0.engine.get().ok_or(EngineError::Stopped)?;
        let key: Key = (request.user, request.recipe.object, request.etag.clone());
        let deadline = Instant::now() + self.0.queue_wait;
        loop {
            let hold = self.0.slots.choose(&key, request.is_part);
            let slot = hold.slot();
            let (transfer, own) = self.wait_in(&slot, engine, request, deadline).await?;
            if let Some(reader) = own {
                return Ok(reader);
            }
            if let Some(reader) = transfer.enter(request.range.clone()) {
                admission::place(engine, reader.task(), reader.pace(), self.0.queue_wait, deadline).await?;
                return Ok(reader);
            }
        }
    }

    /// Makes sure that the length of a compressed export is found out for who wants to go on with it: by its transfer,
    /// which is begun if there is none. Answers its task, and when that will be done, as far as that can be told.
    ///
    /// # Errors
    /// [`TurnError`].
    pub async fn find_length(&self, request: &ExportRequest) -> Result<(JobId, Option<Duration>), TurnError> {
        let object = request.recipe.object;
        let of_it = self.0.slots.transfers(|one| {
            one.spec.user == request.user && one.spec.object == object && one.spec.etag == request.etag
        });
        // Entering it would interrupt what it does while nobody reads.
        if let Some(transfer) = of_it.first() {
            return Ok((transfer.job, transfer.sized_in()));
        }
        let reader = self.join(request).await?;
        Ok((reader.task(), None))
    }

    /// Whether a user's transfer of the same object in the same shape has other bytes than the present ones: then a
    /// part of these could be added to those.
    pub fn has_older(&self, user: UserId, recipe: &Recipe, etag: &str) -> bool {
        let older = self.0.slots.transfers(|one| {
            one.spec.user == user
                && one.spec.object == recipe.object
                && one.spec.shape == recipe.shape
                && one.spec.etag != etag
        });
        !older.is_empty()
    }

    /// The transfer of a slot, as soon as there is one, and the reader for who has begun it. Of those who wait for
    /// it one has its job in the queue; when he leaves, the next begins anew.
    async fn wait_in(
        &self,
        slot: &Slot,
        engine: &EngineHandle,
        request: &ExportRequest,
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
            let reader = self.begin(engine, request, slot, patience).await?;
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

    /// What a transfer is made of that still holds its bytes under an entity tag, which may no longer be the current one.
    pub fn held(&self, object: ExportObject, etag: &str) -> Option<Arc<Recipe>> {
        let of_it = self.0.slots.transfers(|one| one.spec.object == object && one.spec.etag == etag);
        of_it.into_iter().find_map(|transfer| transfer.ledger().recipe.clone())
    }

    /// Gives up the transfers of an object that nobody reads at the moment; for when it is deleted.
    pub fn release(&self, object: ExportObject) {
        for transfer in self.0.slots.transfers(|one| one.spec.object == object) {
            transfer.ledger().released = true;
            transfer.changed.notify_one();
        }
    }

    /// The server stops: transfers that nobody reads are left to the next one. Those that are being read go on to
    /// their end. To be called once the engine drains.
    pub fn close(&self) {
        self.0.closing.cancel();
    }

    async fn begin(
        &self,
        engine: &EngineHandle,
        request: &ExportRequest,
        slot: &Slot,
        patience: Duration,
    ) -> Result<Reader, TurnError> {
        let recipe = Arc::clone(&request.recipe);
        let (object, shape) = (recipe.object, recipe.shape);
        let document = recipe.document.as_ref().map(|_| request.plain_etag.clone());
        if let (Some(etag), Some(xml)) = (document.clone(), recipe.document.clone()) {
            // Before the job: whoever takes it up needs it.
            let kept = self.0.store.db().transaction(move |tx| documents::put(tx, &etag, &xml));
            kept.await.map_err(|error| EngineError::Journal(JournalError::new("keep an ova.xml", error)))?;
        }
        let kind = if document.is_some() { VM_KIND } else { KIND };
        let properties = TaskProperties {
            name: format!("Export of {} {object} as {}", object.kind(), shape.extension()),
            task_type: kind.into(),
            user_id: Some(request.user.to_string()),
            object_id: Some(object.to_string()),
            object_type: Some(object.kind().into()),
            method: Some("GET".into()),
            ..TaskProperties::default()
        };
        let spec = Spec {
            user: request.user,
            object,
            contents: recipe.contents(),
            shape,
            etag: request.etag.clone(),
            document,
            len: request.len,
        };
        let mut new = NewJob::new(kind, properties);
        new.owner = Some(request.user.to_string());
        new.durability = Durability::BestEffort;
        new.groups = admission::groups_of_all(&request.srs);
        new.spec = json!(spec);
        let (hand, handed) = oneshot::channel();
        let (desk, range, recorded) = (self.clone(), request.range.clone(), request.recorded.clone());
        let work = move |context: JobContext| async move {
            let mut asked = Intervals::default();
            asked.add(range);
            let ledger = Ledger { asked, readers: 1, recipe: Some(recipe), ..Ledger::default() };
            let transfer = Transfer::new(&context, spec, recorded, ledger);
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
        let spec = Spec::read(&record.kind, &record.spec.job)?;
        let desk = self.clone();
        let kept = spec.contents.iter().map(|content| self.0.store.pin_kept(*content)).collect();
        let work =
            Work::once(move |context: JobContext| async move { desk.go_on(spec, kept, &context).await });
        Some(Resumption { work, retry: RetryPolicy::NEVER, timeout: None, waits_for_client: true })
    }

    async fn go_on(&self, spec: Spec, kept: Vec<Option<Pin>>, context: &JobContext) -> JobEnd {
        // Nobody can ask for it any more; what it holds would lie there until `transfers.detach` is over.
        if self.is_deleted(spec.object).await {
            return JobEnd::Failure(deleted(&spec));
        }
        let made = match self.make_again(&spec, kept).await {
            Ok(made) => made,
            Err(message) => {
                return JobEnd::Failure(JobFailure::new("ExportError", "content_gone", message));
            }
        };
        let (recipe, recorded) = made;
        let found: Checkpoint =
            serde_json::from_value(context.found_checkpoint().clone()).unwrap_or_default();
        let mut sent = Intervals::default();
        found.sent.iter().for_each(|(start, end)| sent.add(*start..*end));
        context.progress().raise_written_to(sent.total());
        let ledger = Ledger { sent, orphan: true, recipe: Some(recipe), ..Ledger::default() };
        let transfer = Transfer::new(context, spec, recorded, ledger);
        self.0.slots.add(&transfer);
        self.attend(&transfer, context).await
    }

    /// What an export of a former server is made of, if it comes out as the same bytes.
    async fn make_again(
        &self,
        spec: &Spec,
        kept: Vec<Option<Pin>>,
    ) -> Result<(Arc<Recipe>, Option<Arc<Recorded>>), String> {
        let mut pins = Vec::with_capacity(spec.contents.len());
        for (content, kept) in spec.contents.iter().zip(kept) {
            pins.push(match kept {
                Some(pin) => pin,
                None => self.0.store.pin_content(*content).await.map_err(|error| error.to_string())?,
            });
        }
        let document = match spec.document.clone() {
            None => None,
            Some(etag) => {
                let found = self.0.store.db().call(move |conn| documents::get(conn, &etag)).await;
                let found = found.map_err(|error| error.to_string())?;
                Some(found.ok_or("the ova.xml of the export is not kept any more")?.into())
            }
        };
        let recipe = Recipe { object: spec.object, shape: spec.shape, pins, document };
        let export = recipe.represent(&self.0.store).await.map_err(|error| error.to_string())?;
        if export.etag != spec.etag || export.len() != spec.len.filter(|_| spec.shape.compression.is_none()) {
            return Err("the bytes that the client began to download cannot be made again".into());
        }
        let recorded = self.0.frames.of(&export).await.map_err(|error| error.to_string())?;
        Ok((Arc::new(recipe), recorded))
    }

    async fn is_deleted(&self, object: ExportObject) -> bool {
        match object {
            ExportObject::Vdi(id) => matches!(self.0.store.pin_vdi(id).await, Err(LocalError::NoSuchVdi(_))),
            ExportObject::Vm(id) => matches!(self.0.store.vm(id).await, Err(LocalError::NoSuchVm(_))),
        }
    }

    /// The job of a transfer: waits until it has ended, one way or another.
    async fn attend(&self, transfer: &Arc<Transfer>, context: &JobContext) -> JobEnd {
        let end = self.watch(transfer, context).await;
        self.0.slots.forget(transfer);
        // What was sent last counts with the next server.
        context.set_checkpoint(json!(transfer.checkpoint()));
        if let Some(recorded) = &transfer.recorded {
            recorded.write_down(true).await;
        }
        if !matches!(end, JobEnd::Interrupted) {
            self.forget_document(&transfer.spec).await;
        }
        end
    }

    /// Forgets the `ova.xml` of a transfer unless another one needs it.
    async fn forget_document(&self, spec: &Spec) {
        let Some(etag) = spec.document.clone() else { return };
        if self.0.slots.transfers(|other| other.spec.document == spec.document).is_empty() {
            let forgotten = self.0.store.db().transaction(move |tx| documents::delete(tx, &etag));
            if let Err(error) = forgotten.await {
                tracing::warn!(%error, "an ova.xml that nobody needs any more stays in the database");
            }
        }
    }

    async fn watch(&self, transfer: &Arc<Transfer>, context: &JobContext) -> JobEnd {
        let mut written = transfer.checkpoint();
        let mut sizing: Option<BoxFuture<'_, Result<(), SizingError>>> = None;
        loop {
            let changed = transfer.changed.notified();
            let standing = transfer.standing();
            // Frames that nobody has made yet are made while nobody reads, so that who comes back can go on.
            let wanted = matches!(standing, Standing::Left | Standing::Orphaned) && transfer.len().is_none();
            match (wanted, &transfer.recorded) {
                (true, Some(recorded)) => {
                    sizing.get_or_insert_with(|| self.size(transfer, recorded).boxed());
                }
                _ => sizing = None,
            }
            let (wait, is_read) = match standing {
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
            let sized = async {
                match &mut sizing {
                    Some(sizing) => sizing.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = transfer.pace.closed(), if is_read && wait == CHECKPOINT => {}
                () = self.0.closing.cancelled(), if !is_read => {}
                sized = sized => {
                    sizing = None;
                    match sized {
                        Ok(()) => {}
                        Err(error) => transfer.ledger().failure = Some(error.into()),
                    }
                }
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
            if let Some(recorded) = &transfer.recorded {
                recorded.write_down(is_read).await;
            }
        }
    }
}
