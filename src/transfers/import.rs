//! Imports: a stream of bytes becomes content. The bytes come through a bounded channel; a thread of the
//! import's own decodes and writes them; what is finished is committed as a whole, what is not is swept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_actors::{
    EngineError, EngineHandle, JobContext, JobFailure, JobTicket, NewJob, Progress, TaskProperties,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::backends::local::{Committed, Destination, LocalError, LocalStore, Staging, WriteClaim};
use crate::disk::error::DiskError;
use crate::disk::io_pool::IoPoolError;
use crate::disk::worker::spawn_worker;
use crate::disk::writer::{DiskWriter, VhdIdentity, Written};
use crate::formats::raw::RawDecoder;
use crate::formats::vhd::StreamDecoder;
use crate::formats::{ImageDecoder, ImageError, ImageEvent};
use crate::ids::{ContentId, SrId, VdiId};

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
        /// The content that is replaced.
        expected: ContentId,
        /// The size that it must have, bytes.
        size: u64,
        /// The right to write it.
        claim: WriteClaim,
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
    /// The file system of the SR is full.
    #[error("the storage repository {sr} is full: the import needs more room than it has")]
    Full {
        /// The SR.
        sr: SrId,
    },
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
    /// What a full disk is to the user: a matter of the SR, not of a file in its work folder.
    pub(super) fn of_sr(self, sr: SrId) -> Self {
        match self {
            Self::Disk(error) if error.is_no_space() => Self::Full { sr },
            Self::Disk(DiskError::FileTooLarge { .. }) => Self::TooLarge { sr },
            other => other,
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
            Self::Full { .. } | Self::Store(LocalError::NoSpace { .. }) => "insufficient_storage",
            Self::Silent { .. } => "upload_silent",
            Self::TooLarge { .. } | Self::Disk(DiskError::BadSize { .. }) => "bad_size",
            Self::Disk(DiskError::Vhd { source, .. } | DiskError::VhdLimit { source, .. }) => source.code(),
            Self::Disk(_) => "storage_error",
            Self::Store(_) => "store_error",
            Self::Worker(_) => "worker_failed",
        }
    }
}

enum Feed {
    Piece(Bytes),
    Silent(Duration),
    End,
}

/// An import that runs.
pub struct RunningImport {
    feed: mpsc::Sender<Feed>,
    ticket: JobTicket,
    outcome: oneshot::Receiver<Result<Committed, ImportError>>,
    stop: CancellationToken,
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
        &self.stop
    }

    /// Hands over the next bytes; waits while the import is behind.
    ///
    /// # Errors
    /// [`Ended`] when there is nobody to take them.
    pub async fn piece(&self, bytes: Bytes) -> Result<(), Ended> {
        self.feed.send(Feed::Piece(bytes)).await.map_err(|_| Ended)
    }

    /// Says that all bytes were handed over. Without it, the upload counts as broken off.
    ///
    /// # Errors
    /// [`Ended`] when there is nobody to be told.
    pub async fn end(&self) -> Result<(), Ended> {
        self.feed.send(Feed::End).await.map_err(|_| Ended)
    }

    /// Says that no byte has come for too long: the import ends.
    pub async fn silent(&self, silence: Duration) {
        // An import that has ended already says why itself.
        drop(self.feed.send(Feed::Silent(silence)).await);
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

/// Begins an import as a job of the engine.
///
/// # Errors
/// When the engine takes no job, or the SR cannot be written to.
pub async fn begin(
    engine: &EngineHandle,
    store: &LocalStore,
    plan: ImportPlan,
    owner: Option<String>,
) -> Result<RunningImport, BeginError> {
    let (sr_id, kind, name, object, method) = match &plan.target {
        ImportTarget::NewVdi { sr, name_label, .. } => {
            (*sr, "vdi.import", format!("Import of {name_label}"), sr.to_string(), "POST")
        }
        ImportTarget::Content { vdi, sr, .. } => {
            (*sr, "vdi.replace", format!("Import into VDI {vdi}"), vdi.to_string(), "PUT")
        }
    };
    let staging = store.stage(&store.writable_sr(sr_id)?);
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
    new.idempotency_key.clone_from(&plan.idempotency_key);
    let (feed, pieces) = mpsc::channel(WAITING_PIECES);
    let (tell, outcome) = oneshot::channel();
    let (hand_stop, stop) = oneshot::channel();
    let store = store.clone();
    let ticket = engine
        .submit(new, move |context: JobContext| async move {
            drop(hand_stop.send(context.stop().clone()));
            let ended = run(store, staging, plan, pieces, &context).await;
            let told = match &ended {
                Ok(committed) => Ok(json!({ "id": committed.vdi.to_string() })),
                Err(error) => Err(failure(error)),
            };
            drop(tell.send(ended));
            told
        })
        .await?;
    // A job that was answered runs; one that ended at once has left its token as cancelled as it is.
    let stop = stop.await.unwrap_or_default();
    Ok(RunningImport { feed, ticket, outcome, stop })
}

/// An import that could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The engine takes no job.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] LocalError),
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
        ImportTarget::Content { vdi, expected, .. } => json!({
            "vdi": vdi, "replaces": expected.to_string(), "format": format, "size": size, "length": plan.length
        }),
    }
}

pub(super) fn failure(error: &ImportError) -> JobFailure {
    JobFailure::new("ImportError", error.code(), error.to_string())
}

async fn run(
    store: LocalStore,
    staging: Staging,
    plan: ImportPlan,
    pieces: mpsc::Receiver<Feed>,
    context: &JobContext,
) -> Result<Committed, ImportError> {
    let ImportPlan { target, format, length, digests, idempotency_key: _ } = plan;
    let progress = context.progress().clone();
    if let Some(length) = length {
        progress.set_total(length);
    }
    let expected_size = match &target {
        ImportTarget::NewVdi { .. } => None,
        ImportTarget::Content { size, .. } => Some(*size),
    };
    let intake = Intake {
        store: store.clone(),
        progress,
        stop: context.stop().clone(),
        expected_size,
        checker: Checker::new(digests),
        received: 0,
    };
    let sr = staging.sr().id;
    let taken = spawn_worker("import", move || intake.run(staging, format, length, pieces))?.await?;
    let (staging, written) = taken.map_err(|error| error.of_sr(sr))?;
    let destination = match target {
        ImportTarget::NewVdi { vdi, name_label, name_description, .. } => {
            Destination::New { vdi, name_label, name_description }
        }
        ImportTarget::Content { vdi, expected, claim, .. } => Destination::Replace { vdi, expected, claim },
    };
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
}

impl Intake {
    fn run(
        mut self,
        staging: Staging,
        format: ImportFormat,
        length: Option<u64>,
        mut pieces: mpsc::Receiver<Feed>,
    ) -> Result<(Staging, Written), ImportError> {
        let mut decoder = format.decoder(length);
        let mut target = Target { staging, writer: None, size: None, checked: 0 };
        loop {
            match pieces.blocking_recv() {
                _ if self.stop.is_cancelled() => return Err(ImportError::Aborted),
                None => return Err(ImportError::BrokenOff { received: self.received }),
                Some(Feed::End) => break,
                Some(Feed::Silent(silence)) => {
                    return Err(ImportError::Silent { received: self.received, silence });
                }
                Some(Feed::Piece(piece)) => {
                    self.received = self.received.saturating_add(piece.len() as u64);
                    self.checker.update(&piece);
                    self.progress.add_written(piece.len() as u64);
                    decoder.push(piece);
                }
            }
            while let Some(event) = decoder.next_event()? {
                if target.writer.is_none() {
                    let needed = decoder.allocated_bytes().unwrap_or(0);
                    self.store.require_space(target.staging.sr(), needed)?;
                }
                self.take(event, &mut target)?;
            }
        }
        let size = decoder.finish()?.virtual_size;
        self.check_size(size)?;
        if let Some((algorithm, expected, found)) = self.checker.mismatch() {
            let algorithm = algorithm.name();
            return Err(ImportError::WrongDigest { algorithm, bytes: self.received, expected, found });
        }
        target.size.get_or_insert(size);
        target.open()?;
        let Target { staging, writer, .. } = target;
        let Some(writer) = writer else { return Err(ImportError::BrokenOff { received: self.received }) };
        let written = writer.finish(size)?;
        Ok((staging, written))
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
                if written.saturating_sub(target.checked) >= SPACE_CHECK_BYTES {
                    target.checked = written;
                    self.store.require_space(target.staging.sr(), 0)?;
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

/// Where the import goes.
struct Target {
    // Declared before the staging, so that the file is closed before it is swept.
    writer: Option<DiskWriter>,
    staging: Staging,
    size: Option<u64>,
    checked: u64,
}

impl Target {
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
    let (io, space, place) = (Arc::clone(&sr.io), store.clone(), Arc::clone(&sr));
    let made = io
        .run(move || -> Result<_, ImportError> {
            space.require_space(&place, 0)?;
            let writer = open_writer(&staging, Some(size))?;
            Ok((staging, writer.finish(size)?))
        })
        .await?;
    let (staging, written) = made.map_err(|error| error.of_sr(sr.id))?;
    let destination = Destination::New { vdi, name_label, name_description };
    Ok(store.commit(staging, written, destination, None).await?)
}
