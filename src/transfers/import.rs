//! Imports: a stream of bytes becomes content. The bytes come through a bounded channel; a thread of the
//! import's own decodes and writes them; what is finished is committed as a whole, what is not is swept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_actors::{
    EngineError, EngineHandle, JobContext, JobFailure, JobTicket, NewJob, Pace, Progress, Stage, StageClock,
    TaskProperties,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::backends::local::{Committed, Destination, LocalError, LocalStore, Reservation, Sr, Staging};
use crate::disk::error::DiskError;
use crate::disk::io_pool::IoPoolError;
use crate::disk::retry;
use crate::disk::worker::{Beat, spawn_watched};
use crate::disk::writer::{DiskWriter, VhdIdentity, Written};
use crate::formats::raw::RawDecoder;
use crate::formats::vhd::StreamDecoder;
use crate::formats::{ImageDecoder, ImageError, ImageEvent};
use crate::ids::{SrId, VdiId};
use crate::image::budget::{Budget, Room, Share};

use super::admission::{self, TurnError};
use super::digest::{Checker, Declared};
use super::representation::vhd_identity;

/// Pieces of an upload that may wait for the decoder. The HTTP server hands on at most some hundred KiB each.
const WAITING_PIECES: usize = 16;
/// How many written bytes pass between two looks at the free space.
const SPACE_CHECK_BYTES: u64 = 4 << 20;

/// The form of what is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportFormat {
    /// The guest's bytes; `size` is the virtual size if it is not what arrives.
    Raw {
        /// Virtual size, bytes.
        size: Option<u64>,
    },
    /// A VHD.
    Vhd,
}

impl ImportFormat {
    /// A decoder for a stream in this form, of `length` bytes if that is known.
    pub fn decoder(self, length: Option<u64>) -> ImageDecoder {
        match self {
            Self::Raw { size } => ImageDecoder::Raw(RawDecoder::new(size, length)),
            Self::Vhd => ImageDecoder::Vhd(StreamDecoder::new(length)),
        }
    }
}

/// What the upload is for.
#[derive(Debug)]
pub enum ImportTarget {
    /// A new VDI.
    NewVdi {
        /// The id that it gets.
        vdi: VdiId,
        /// On which SR.
        sr: SrId,
        /// Name that people see.
        name_label: String,
        /// Description that people see.
        name_description: String,
    },
    /// The content of a VDI.
    Content {
        /// Of which VDI.
        vdi: VdiId,
        /// On which SR it lies.
        sr: SrId,
        /// The size that it must have, bytes.
        size: u64,
    },
}

/// An upload that was admitted.
#[derive(Debug)]
pub struct ImportPlan {
    /// What it is for.
    pub target: ImportTarget,
    /// Its form.
    pub format: ImportFormat,
    /// Its length as announced, bytes.
    pub length: Option<u64>,
    /// The client says that much of it is zeros, so that its length is no measure of the room that it takes.
    pub sparse: bool,
    /// Digests that its bytes must have.
    pub digests: Vec<Declared>,
    /// What the client calls the request.
    pub idempotency_key: Option<String>,
}

/// An import that did not happen. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The image is not what it should be.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image is not as large as the VDI.
    #[error("the image holds a disk of {found} bytes, the VDI has {expected}: they must be the same")]
    WrongSize {
        /// The VDI's size.
        expected: u64,
        /// The image's.
        found: u64,
    },
    /// A declared digest does not match.
    #[error("the {algorithm} digest of the {bytes} bytes that arrived is {found}, declared was {expected}")]
    WrongDigest {
        /// Which algorithm.
        algorithm: &'static str,
        /// How many bytes arrived.
        bytes: u64,
        /// As declared, base64.
        expected: String,
        /// As computed, base64.
        found: String,
    },
    /// The upload ended before its end.
    #[error("the upload broke off after {received} bytes")]
    BrokenOff {
        /// How many bytes had arrived.
        received: u64,
    },
    /// The upload fell silent.
    #[error(
        "no byte of the upload came for {} s after the first {received} (transfers.upload_idle)",
        silence.as_secs()
    )]
    Silent {
        /// How many bytes had arrived.
        received: u64,
        /// For how long none came.
        silence: Duration,
    },
    /// The file system of the SR knows no file of that size.
    #[error("the file system of the storage repository {sr} cannot hold a disk of that size")]
    TooLarge {
        /// The SR.
        sr: SrId,
    },
    /// Somebody aborted it.
    #[error("the import was aborted")]
    Aborted,
    /// The disk could not be written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] LocalError),
    /// The thread of the import failed.
    #[error(transparent)]
    Worker(#[from] IoPoolError),
}

impl ImportError {
    /// What a full disk is to the user: a matter of the SR, with the numbers of this moment, not of a file in its
    /// work folder, with what is still `missing` as far as that is known. To be called while the file still lies there.
    /// Blocks.
    pub(super) fn of_sr(self, store: &LocalStore, sr: &Sr, missing: u64) -> Self {
        match self {
            Self::Disk(DiskError::NoSpace { needed, .. }) => {
                store.out_of_space(sr, needed.max(missing)).into()
            }
            Self::Disk(DiskError::FileTooLarge { .. }) => Self::TooLarge { sr: sr.id },
            other => other,
        }
    }

    /// Whether the same job, begun anew, may succeed later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Disk(error) | Self::Store(LocalError::Disk(error)) => retry::may_pass(error),
            // Somebody deletes it, or has it for a moment.
            Self::Store(LocalError::VdiBusy(_)) => true,
            _ => false,
        }
    }

    /// The stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Image(error) => error.code(),
            Self::WrongSize { .. } => "size_mismatch",
            Self::WrongDigest { .. } => "digest_mismatch",
            Self::BrokenOff { .. } => "upload_broken_off",
            Self::Aborted => "aborted",
            Self::Store(LocalError::NoSpace(_)) => "insufficient_storage",
            Self::Silent { .. } => "upload_silent",
            Self::TooLarge { .. } | Self::Disk(DiskError::BadSize { .. }) => "bad_size",
            Self::Disk(DiskError::Vhd { source, .. } | DiskError::VhdLimit { source, .. }) => source.code(),
            Self::Disk(_) => "storage_error",
            Self::Store(LocalError::Pool(IoPoolError::Stuck)) | Self::Worker(IoPoolError::Stuck) => {
                "storage_stuck"
            }
            Self::Store(_) => "store_error",
            Self::Worker(_) => "worker_failed",
        }
    }
}

enum Feed {
    /// With its part of the memory budget.
    Piece(Bytes, Room),
    Silent(Duration),
    End,
}

/// An import that runs.
pub struct RunningImport {
    feed: mpsc::Sender<Feed>,
    ticket: JobTicket,
    outcome: oneshot::Receiver<Result<Committed, ImportError>>,
    context: JobContext,
    pace: Pace,
    share: Share,
    ended: CancellationToken,
}

/// The import takes no more: it has ended already, and [`RunningImport::outcome`] says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl RunningImport {
    /// The task under which it runs.
    pub fn task(&self) -> gantry_actors::JobId {
        self.ticket.id()
    }

    /// Is cancelled when the import is aborted.
    pub fn stop(&self) -> &CancellationToken {
        self.context.stop()
    }

    /// To be held while the next bytes are waited for.
    pub fn waits_for_source(&self) -> StageClock {
        self.context.progress().stage_clock(Stage::Source)
    }

    /// Resolves when so much time has passed in one go in which the import was neither paused nor without its place:
    /// whoever is held up is not silent.
    pub async fn silence(&self, limit: Duration) {
        loop {
            if self.pace.opened().await.is_err() {
                // Being told to stop is no silence.
                return std::future::pending().await;
            }
            if tokio::time::timeout(limit, self.pace.closed()).await.is_err() {
                return;
            }
        }
    }

    /// Hands over the next bytes; waits while the import is behind, paused or held to a rate.
    ///
    /// # Errors
    /// [`Ended`] when there is nobody to take them.
    pub async fn piece(&self, mut bytes: Bytes) -> Result<(), Ended> {
        while !bytes.is_empty() {
            let most = self.pace.quantum().and_then(|quantum| usize::try_from(quantum).ok());
            let part = bytes.split_to(most.unwrap_or(bytes.len()).min(bytes.len()));
            let limited = most.map(|_| self.context.progress().stage_clock(Stage::Limit));
            tokio::select! {
                paced = self.pace.take(part.len() as u64) => paced.map_err(|_| Ended)?,
                () = self.ended.cancelled() => return Err(Ended),
            }
            drop(limited);
            let room = self.share.room(part.len() as u64).await;
            self.send(Feed::Piece(part, room)).await?;
        }
        Ok(())
    }

    /// Resolves when the import has ended, whether or not all bytes were handed over.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    async fn send(&self, feed: Feed) -> Result<(), Ended> {
        tokio::select! {
            sent = self.feed.send(feed) => sent.map_err(|_| Ended),
            // Its thread may hang in its storage with a full channel.
            () = self.ended.cancelled() => Err(Ended),
        }
    }

    /// Says that all bytes were handed over. Without it, the upload counts as broken off.
    ///
    /// # Errors
    /// [`Ended`] when there is nobody to be told.
    pub async fn end(&self) -> Result<(), Ended> {
        self.send(Feed::End).await
    }

    /// Says that no byte has come for too long: the import ends.
    pub async fn silent(&self, silence: Duration) {
        // An import that has ended already says why itself.
        let _ended = self.send(Feed::Silent(silence)).await;
    }

    /// Waits for the end, which is in the task's record by then.
    ///
    /// # Errors
    /// Why the import did not happen.
    pub async fn outcome(self) -> Result<Committed, ImportError> {
        let Self { feed, mut ticket, outcome, .. } = self;
        drop(feed);
        let end = ticket.end().await;
        match outcome.await {
            Ok(outcome) => outcome,
            // The job was ended from outside before it could say anything.
            Err(_) => match end {
                gantry_actors::JobEnd::Failure(failure) => {
                    Err(ImportError::Worker(IoPoolError::Panicked { message: failure.message }))
                }
                _ => Err(ImportError::Aborted),
            },
        }
    }
}

/// An import whose turn has not come.
pub struct QueuedImport {
    feed: mpsc::Sender<Feed>,
    ticket: JobTicket,
    outcome: oneshot::Receiver<Result<Committed, ImportError>>,
    handed: oneshot::Receiver<JobContext>,
    ended: CancellationToken,
}

impl QueuedImport {
    /// The task under which it will run.
    pub fn task(&self) -> gantry_actors::JobId {
        self.ticket.id()
    }

    /// Waits for its turn, for `patience` at most.
    ///
    /// # Errors
    /// [`TurnError`]; the import does not happen then.
    pub async fn turn(
        self,
        engine: &EngineHandle,
        budget: &Arc<Budget>,
        patience: Duration,
    ) -> Result<RunningImport, TurnError> {
        let Self { feed, mut ticket, outcome, handed, ended } = self;
        admission::turn(engine, &mut ticket, patience).await?;
        // Without a context it is the repetition of an import that has begun before.
        let context = handed.await.map_err(|_| EngineError::KeyReused { id: ticket.id() })?;
        let pace = context.pace();
        Ok(RunningImport { feed, ticket, outcome, context, pace, share: budget.register(), ended })
    }
}

/// Makes an import a job of the engine.
///
/// # Errors
/// When the engine takes no job.
pub async fn begin(
    engine: &EngineHandle,
    store: &LocalStore,
    plan: ImportPlan,
    owner: Option<String>,
) -> Result<QueuedImport, EngineError> {
    let (sr_id, kind, name, object, method) = match &plan.target {
        ImportTarget::NewVdi { sr, name_label, .. } => {
            (*sr, "vdi.import", format!("Import of {name_label}"), sr.to_string(), "POST")
        }
        ImportTarget::Content { vdi, sr, .. } => {
            (*sr, "vdi.replace", format!("Import into VDI {vdi}"), vdi.to_string(), "PUT")
        }
    };
    let properties = TaskProperties {
        name,
        task_type: kind.into(),
        user_id: owner.clone(),
        object_id: Some(object),
        object_type: Some(if kind == "vdi.import" { "SR" } else { "VDI" }.into()),
        method: Some(method.into()),
        ..TaskProperties::default()
    };
    let mut new = NewJob::new(kind, properties);
    new.owner = owner;
    new.spec = spec(&plan);
    new.groups = admission::groups_of(sr_id);
    new.claims = match &plan.target {
        ImportTarget::NewVdi { sr, .. } => admission::maker_claims(*sr),
        ImportTarget::Content { vdi, sr, .. } => admission::writer_claims(*sr, *vdi),
    };
    // A key belongs to an address.
    new.idempotency_key = plan.idempotency_key.as_ref().map(|key| format!("{kind} {sr_id} {key}"));
    let (feed, pieces) = mpsc::channel(WAITING_PIECES);
    let (tell, outcome) = oneshot::channel();
    let (hand, handed) = oneshot::channel();
    let store = store.clone();
    let ended = CancellationToken::new();
    let over = ended.clone().drop_guard();
    let ticket = engine
        .submit(new, move |context: JobContext| async move {
            let _over = over;
            drop(hand.send(context.clone()));
            let ended = run(store, plan, pieces, &context).await;
            let told = match &ended {
                Ok(committed) => Ok(json!({ "id": committed.vdi.to_string() })),
                Err(error) => Err(failure(error)),
            };
            drop(tell.send(ended));
            told
        })
        .await?;
    Ok(QueuedImport { feed, ticket, outcome, handed, ended })
}

fn spec(plan: &ImportPlan) -> Value {
    let (format, size) = match plan.format {
        ImportFormat::Raw { size } => ("raw", size),
        ImportFormat::Vhd => ("vhd", None),
    };
    match &plan.target {
        ImportTarget::NewVdi { sr, name_label, .. } => {
            json!({ "sr": sr, "name_label": name_label, "format": format, "size": size, "length": plan.length })
        }
        ImportTarget::Content { vdi, .. } => {
            json!({ "vdi": vdi, "format": format, "size": size, "length": plan.length })
        }
    }
}

pub(super) fn failure(error: &ImportError) -> JobFailure {
    let failure = JobFailure::new("ImportError", error.code(), error.to_string());
    let failure = if error.may_pass() { failure.transient() } else { failure };
    match error {
        ImportError::Store(LocalError::NoSpace(shortage)) => {
            let mut data = json!({ "kind": "space" });
            if let (Some(data), Ok(Value::Object(numbers))) =
                (data.as_object_mut(), serde_json::to_value(shortage))
            {
                data.extend(numbers);
            }
            failure.with_data(data)
        }
        _ => failure,
    }
}

async fn run(
    store: LocalStore,
    plan: ImportPlan,
    pieces: mpsc::Receiver<Feed>,
    context: &JobContext,
) -> Result<Committed, ImportError> {
    let ImportPlan { target, format, length, sparse, digests, idempotency_key: _ } = plan;
    // What was found when the upload was planned may have changed while it waited for its turn.
    let (sr, expected_size, destination) = match target {
        ImportTarget::NewVdi { vdi, sr, name_label, name_description } => {
            (sr, None, Destination::New { vdi, name_label, name_description })
        }
        ImportTarget::Content { vdi, size, .. } => {
            let claim = store.claim(vdi)?;
            let (row, _, _) = store.pin_vdi(vdi).await?;
            store.require_replaceable(vdi).await?;
            if row.virtual_size != size {
                return Err(ImportError::WrongSize { expected: row.virtual_size, found: size });
            }
            (row.sr, Some(size), Destination::Replace { vdi, expected: row.content, claim })
        }
    };
    let staging = store.stage(&store.writable_sr(sr)?);
    let progress = context.progress().clone();
    if let Some(length) = length {
        progress.set_total(length);
    }
    let intake = Intake {
        store: store.clone(),
        progress,
        stop: context.stop().clone(),
        expected_size,
        checker: Checker::new(digests),
        received: 0,
        announced: length.filter(|_| !sparse),
    };
    let given_up = Arc::clone(&staging.sr().given_up);
    let thread =
        spawn_watched("import", &given_up, move |beat| intake.run(beat, staging, format, length, pieces))?;
    let (staging, written) = thread.outcome(store.stuck_after(), context.stop()).await??;
    let job = Some(context.id().to_string());
    Ok(store.commit(staging, written, destination, job).await?)
}

/// The thread of an import.
struct Intake {
    store: LocalStore,
    progress: Progress,
    stop: CancellationToken,
    expected_size: Option<u64>,
    checker: Checker,
    received: u64,
    /// What may have to be stored of what comes, as far as the upload's length tells.
    announced: Option<u64>,
}

impl Intake {
    fn run(
        self,
        beat: &Beat,
        staging: Staging,
        format: ImportFormat,
        length: Option<u64>,
        pieces: mpsc::Receiver<Feed>,
    ) -> Result<(Staging, Written), ImportError> {
        let store = self.store.clone();
        let need = Need::Announced(self.announced.unwrap_or(0));
        let mut target = Target { room: None, need, writer: None, staging, size: None, checked: 0 };
        match self.take_all(beat, &mut target, format.decoder(length), pieces) {
            Ok(written) => Ok((target.staging, written)),
            Err(error) => {
                let missing = target.room.as_ref().map_or(0, Reservation::left);
                Err(error.of_sr(&store, target.staging.sr(), missing))
            }
        }
    }

    /// Takes the whole stream in and finishes the disk.
    fn take_all(
        mut self,
        beat: &Beat,
        target: &mut Target,
        mut decoder: ImageDecoder,
        mut pieces: mpsc::Receiver<Feed>,
    ) -> Result<Written, ImportError> {
        // Until the decoder has used the piece up.
        let mut _room_of_piece = None;
        loop {
            // What is waited for here, the source or a limit, is known and counted where the pieces come from.
            let next = beat.waiting(|| pieces.blocking_recv());
            let mut clock = self.progress.stage_clock(Stage::Compute);
            match next {
                _ if self.stop.is_cancelled() || beat.is_given_up() => return Err(ImportError::Aborted),
                None => return Err(ImportError::BrokenOff { received: self.received }),
                Some(Feed::End) => break,
                Some(Feed::Silent(silence)) => {
                    return Err(ImportError::Silent { received: self.received, silence });
                }
                Some(Feed::Piece(piece, room)) => {
                    _room_of_piece = Some(room);
                    self.received = self.received.saturating_add(piece.len() as u64);
                    self.checker.update(&piece);
                    self.progress.add_read(piece.len() as u64);
                    self.progress.add_written(piece.len() as u64);
                    target.came(piece.len() as u64);
                    decoder.push(piece);
                }
            }
            while let Some(event) = decoder.next_event()? {
                beat.renew();
                target.reserve(&self.store, decoder.allocated_bytes())?;
                clock.enter(Stage::Sink);
                self.take(event, target)?;
                clock.enter(Stage::Compute);
            }
        }
        let _clock = self.progress.stage_clock(Stage::Sink);
        let size = decoder.finish()?.virtual_size;
        self.check_size(size)?;
        if let Some((algorithm, expected, found)) = self.checker.mismatch() {
            let algorithm = algorithm.name();
            return Err(ImportError::WrongDigest { algorithm, bytes: self.received, expected, found });
        }
        target.size.get_or_insert(size);
        target.open()?;
        // What was written since the last look must not have eaten into what is kept in reserve either.
        target.room.iter().try_for_each(Reservation::check)?;
        let Some(writer) = target.writer.take() else {
            return Err(ImportError::BrokenOff { received: self.received });
        };
        beat.renew();
        Ok(writer.finish(size)?)
    }

    fn take(&self, event: ImageEvent, target: &mut Target) -> Result<(), ImportError> {
        match event {
            ImageEvent::Size(size) => {
                self.check_size(size)?;
                target.size.get_or_insert(size);
            }
            ImageEvent::Data { offset, data } => {
                let writer = target.open()?;
                writer.write(offset, &data)?;
                let written = writer.bytes_written();
                let more = written.saturating_sub(target.checked);
                if let Some(room) = target.room.as_mut().filter(|_| more >= SPACE_CHECK_BYTES) {
                    target.checked = written;
                    if target.need == Need::Tables {
                        room.wrote(more);
                    }
                    room.check()?;
                }
            }
        }
        Ok(())
    }

    fn check_size(&self, found: u64) -> Result<(), ImportError> {
        match self.expected_size {
            Some(expected) if expected != found => Err(ImportError::WrongSize { expected, found }),
            _ => Ok(()),
        }
    }
}

/// How it is known what an import takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// By its length: at most so many bytes are still to come. 0 when there is no telling.
    Announced(u64),
    /// By the image's tables, which say it better.
    Tables,
}

/// Where the import goes.
struct Target {
    room: Option<Reservation>,
    need: Need,
    // Declared before the staging, so that the file is closed before it is swept.
    writer: Option<DiskWriter>,
    staging: Staging,
    size: Option<u64>,
    checked: u64,
}

impl Target {
    /// These bytes are no longer to come.
    fn came(&mut self, bytes: u64) {
        if let Need::Announced(left) = &mut self.need {
            *left = left.saturating_sub(bytes);
            self.room.iter_mut().for_each(|room| room.wrote(bytes));
        }
    }

    /// Reserves room: what is still to come at first, and what the tables ask for as soon as they have come. Who says
    /// neither respects what others have reserved, and has nothing of his own.
    fn reserve(&mut self, store: &LocalStore, allocated: Option<u64>) -> Result<(), ImportError> {
        let bytes = match (self.need, allocated) {
            (Need::Announced(_), Some(allocated)) => {
                self.need = Need::Tables;
                self.room = None;
                allocated
            }
            (Need::Announced(left), None) if self.room.is_none() => left,
            _ => return Ok(()),
        };
        self.room = Some(store.reserve(self.staging.sr(), bytes)?);
        Ok(())
    }

    fn open(&mut self) -> Result<&mut DiskWriter, ImportError> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            none => Ok(none.insert(open_writer(&self.staging, self.size)?)),
        }
    }
}

/// The writer of content in the making.
pub(super) fn open_writer(staging: &Staging, size: Option<u64>) -> Result<DiskWriter, ImportError> {
    let (unique_id, timestamp) = vhd_identity(staging.content(), staging.created_ms());
    let identity = VhdIdentity { unique_id, timestamp };
    Ok(DiskWriter::create(&staging.path(), staging.sr().content_format, size, identity)?)
}

/// An empty disk of a size, made at once under an id that is new.
///
/// # Errors
/// As an import.
pub async fn create_empty(
    store: &LocalStore,
    vdi: VdiId,
    sr: SrId,
    size: u64,
    name_label: String,
    name_description: String,
) -> Result<Committed, ImportError> {
    let sr = store.writable_sr(sr)?;
    let staging = store.stage(&sr);
    let (io, space) = (Arc::clone(&sr.io), store.clone());
    let made = io
        .run(move || -> Result<_, ImportError> {
            space.require_space(staging.sr(), 0)?;
            let written = open_writer(&staging, Some(size)).and_then(|writer| Ok(writer.finish(size)?));
            match written {
                Ok(written) => Ok((staging, written)),
                Err(error) => Err(error.of_sr(&space, staging.sr(), 0)),
            }
        })
        .await?;
    let (staging, written) = made?;
    let destination = Destination::New { vdi, name_label, name_description };
    Ok(store.commit(staging, written, destination, None).await?)
}
