//! Imports: a stream of bytes becomes a disk, or a VM with its disks. The bytes come through a bounded channel; a
//! thread of the import's own decodes and writes them; what is finished is committed as a whole, what is not is swept.

mod adopt;
mod disk;
mod feed;
mod intake;
mod vm;

use std::time::Duration;

use gantry_actors::{EngineError, EngineHandle, JobContext, JobFailure, NewJob, TaskProperties};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::backends::local::{Committed, Destination, LocalError, LocalStore, Sr};
use crate::disk::error::DiskError;
use crate::disk::io_pool::IoPoolError;
use crate::disk::retry;
use crate::formats::raw::RawDecoder;
use crate::formats::vhd::StreamDecoder;
use crate::formats::xva::ArchiveError;
use crate::formats::{ImageDecoder, ImageError};
use crate::ids::{PoolId, SrId, VdiId, VmId};
use crate::state::vms::VmKind;

use super::admission;
use super::digest::Declared;

use disk::DiskImport;
pub use disk::create_empty;
pub(super) use disk::open_writer;
use feed::Feed;
pub use feed::{Ended, QueuedImport, RunningImport};
use vm::VmImport;
pub use vm::WindowReserve;

/// Pieces of an upload that may wait for the decoder. The HTTP server hands on at most some hundred KiB each.
const WAITING_PIECES: usize = 16;

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
        /// In which form it arrives.
        format: ImportFormat,
    },
    /// The content of a VDI.
    Content {
        /// Of which VDI.
        vdi: VdiId,
        /// On which SR it lies.
        sr: SrId,
        /// The size that it must have, bytes.
        size: u64,
        /// In which form it arrives.
        format: ImportFormat,
    },
    /// A new VM, with its disks.
    NewVm {
        /// The id that it gets.
        vm: VmId,
        /// The pool that it was sent to.
        pool: PoolId,
        /// On which SR its disks go.
        sr: SrId,
        /// Whether it keeps the ids and addresses that it had.
        restore: bool,
    },
}

/// What has been made of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// A disk, or new content of one.
    Disk(VdiId),
    /// A VM, or a template.
    Vm(VmId, VmKind),
}

/// An upload that was admitted.
#[derive(Debug)]
pub struct ImportPlan {
    /// What it is for.
    pub target: ImportTarget,
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
    /// The archive of a VM is not what it should be.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The VM is none that can be stored.
    #[error("{message}")]
    Unfit {
        /// The stable word for it.
        code: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The VM that is to be restored is there.
    #[error(
        "the VM {vm} exists already: delete it first, or import the archive without restore, as a new VM"
    )]
    VmExists {
        /// The VM.
        vm: VmId,
    },
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
            Self::Archive(error) => error.code(),
            Self::Unfit { code, .. } => code,
            Self::VmExists { .. } => "already_exists",
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

/// Makes an import a job of the engine.
///
/// # Errors
/// When the engine takes no job.
pub async fn begin(
    engine: &EngineHandle,
    store: &LocalStore,
    windows: &WindowReserve,
    plan: ImportPlan,
    owner: Option<String>,
) -> Result<QueuedImport, EngineError> {
    let (sr_id, kind, name, object, method) = match &plan.target {
        ImportTarget::NewVdi { sr, name_label, .. } => {
            (*sr, "vdi.import", format!("Import of {name_label}"), ("SR", sr.to_string()), "POST")
        }
        ImportTarget::Content { vdi, sr, .. } => {
            (*sr, "vdi.replace", format!("Import into VDI {vdi}"), ("VDI", vdi.to_string()), "PUT")
        }
        ImportTarget::NewVm { sr, pool, .. } => {
            (*sr, "vm.import", "Import of a VM".into(), ("pool", pool.to_string()), "POST")
        }
    };
    let properties = TaskProperties {
        name,
        task_type: kind.into(),
        user_id: owner.clone(),
        object_id: Some(object.1),
        object_type: Some(object.0.into()),
        method: Some(method.into()),
        ..TaskProperties::default()
    };
    let mut new = NewJob::new(kind, properties);
    new.owner = owner;
    new.spec = spec(&plan);
    new.groups = admission::groups_of(sr_id);
    new.claims = match &plan.target {
        ImportTarget::NewVdi { sr, .. } | ImportTarget::NewVm { sr, .. } => admission::maker_claims(*sr),
        ImportTarget::Content { vdi, sr, .. } => admission::writer_claims(*sr, *vdi),
    };
    // A key belongs to an address.
    new.idempotency_key = plan.idempotency_key.as_ref().map(|key| format!("{kind} {sr_id} {key}"));
    let (feed, pieces) = mpsc::channel(WAITING_PIECES);
    let (tell, outcome) = oneshot::channel();
    let (hand, handed) = oneshot::channel();
    let (store, windows) = (store.clone(), windows.clone());
    let ended = CancellationToken::new();
    let over = ended.clone().drop_guard();
    let ticket = engine
        .submit(new, move |context: JobContext| async move {
            let _over = over;
            drop(hand.send(context.clone()));
            let ended = run(store, windows, plan, pieces, &context).await;
            let told = match &ended {
                Ok(Imported::Disk(id)) => Ok(json!({ "id": id.to_string() })),
                Ok(Imported::Vm(id, _)) => Ok(json!({ "id": id.to_string() })),
                Err(error) => Err(failure(error)),
            };
            drop(tell.send(ended));
            told
        })
        .await?;
    Ok(QueuedImport { feed, ticket, outcome, handed, ended })
}

fn spec(plan: &ImportPlan) -> Value {
    let length = plan.length;
    let named = |format: &ImportFormat| match format {
        ImportFormat::Raw { size } => ("raw", *size),
        ImportFormat::Vhd => ("vhd", None),
    };
    match &plan.target {
        ImportTarget::NewVdi { sr, name_label, format, .. } => {
            let (format, size) = named(format);
            json!({ "sr": sr, "name_label": name_label, "format": format, "size": size, "length": length })
        }
        ImportTarget::Content { vdi, format, .. } => {
            let (format, size) = named(format);
            json!({ "vdi": vdi, "format": format, "size": size, "length": length })
        }
        ImportTarget::NewVm { sr, pool, restore, .. } => {
            json!({ "sr": sr, "pool": pool, "format": "xva", "restore": restore, "length": length })
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
    windows: WindowReserve,
    plan: ImportPlan,
    pieces: mpsc::Receiver<Feed>,
    context: &JobContext,
) -> Result<Imported, ImportError> {
    let ImportPlan { target, length, sparse, digests, idempotency_key: _ } = plan;
    if let Some(length) = length {
        context.progress().set_total(length);
    }
    // What was found when the upload was planned may have changed while it waited for its turn.
    let import = match target {
        ImportTarget::NewVm { vm, sr, restore, pool: _ } => {
            let import = VmImport { sr, vm, restore, length, sparse, digests, windows };
            return import.run(store, pieces, context).await.map(|(vm, kind)| Imported::Vm(vm, kind));
        }
        ImportTarget::NewVdi { vdi, sr, name_label, name_description, format } => {
            let destination = Destination::New { vdi, name_label, name_description };
            DiskImport { sr, destination, expected_size: None, format, length, sparse, digests }
        }
        ImportTarget::Content { vdi, size, format, sr: _ } => {
            let claim = store.claim(vdi)?;
            let (row, _, _) = store.pin_vdi(vdi).await?;
            store.require_replaceable(vdi).await?;
            if row.virtual_size != size {
                return Err(ImportError::WrongSize { expected: row.virtual_size, found: size });
            }
            let destination = Destination::Replace { vdi, expected: row.content, claim };
            DiskImport { sr: row.sr, destination, expected_size: Some(size), format, length, sparse, digests }
        }
    };
    import.run(store, pieces, context).await.map(|Committed { vdi, .. }| Imported::Disk(vdi))
}
