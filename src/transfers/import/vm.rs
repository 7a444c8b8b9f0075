//! A VM taken in from an archive, in one pass: its disks are written as their blocks come, and appear together with the
//! VM, or not at all.

use std::sync::Arc;
use std::time::Duration;

use gantry_actors::{JobContext, Stage};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::backends::local::{LocalError, LocalStore, NewDisk, NewVdi, Sr, Staging};
use crate::disk::worker::{Beat, spawn_watched};
use crate::disk::writer::{DiskWriter, Written};
use crate::formats::vhd::MAX_VIRTUAL_SIZE;
use crate::formats::xva::{ArchiveDecoder, ArchiveNext, XvaEvent, XvaLimits};
use crate::ids::{DiskFormat, SrId, VmId};
use crate::state::vms::{self, VmKind};

use super::super::digest::{Checker, Declared};
use super::ImportError;
use super::adopt::{Adopted, Names, adopt};
use super::disk::open_writer;
use super::feed::Feed;
use super::intake::{Intake, Space};

/// Largest raw disk: a whole number of sectors, and a length that a file can have.
const MAX_RAW_BYTES: u64 = i64::MAX as u64 / 512 * 512;
/// Largest window of a decompressor that every import may have: that of `zstd -19`.
const FREE_WINDOW_BYTES: u64 = 8 << 20;
/// How often a thread that waits for the memory of a large window looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The reserve for decompressors' windows of more than 8 MiB: one import at a time may have one.
#[derive(Debug, Clone)]
pub struct WindowReserve(Arc<Semaphore>);

impl Default for WindowReserve {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// A VM that is to be taken in.
pub(super) struct VmImport {
    pub(super) sr: SrId,
    /// The id that it gets, unless it keeps the one that it had.
    pub(super) vm: VmId,
    pub(super) restore: bool,
    pub(super) length: Option<u64>,
    pub(super) sparse: bool,
    pub(super) digests: Vec<Declared>,
    pub(super) windows: WindowReserve,
}

impl VmImport {
    /// Takes the VM in and makes it visible.
    pub(super) async fn run(
        self,
        store: LocalStore,
        pieces: mpsc::Receiver<Feed>,
        context: &JobContext,
    ) -> Result<(VmId, VmKind), ImportError> {
        let Self { sr, vm, restore, length, sparse, digests, windows } = self;
        let sr = store.writable_sr(sr)?;
        let intake = Intake {
            pieces,
            progress: context.progress().clone(),
            stop: context.stop().clone(),
            checker: Checker::new(digests),
            received: 0,
        };
        let space = Space::new(&store, &sr, length.filter(|_| !sparse));
        let names = Names { vm, restore };
        let given_up = Arc::clone(&sr.given_up);
        let taking = Taking {
            intake,
            space,
            store: store.clone(),
            sr,
            names,
            windows,
            window: None,
            adopted: None,
            open: None,
            disks: Vec::new(),
            written: 0,
        };
        let thread = spawn_watched("vm-import", &given_up, move |beat| taking.run(beat))?;
        let (mut adopted, disks) = thread.outcome(store.stuck_after(), context.stop()).await??;
        let vm = adopted.vm();
        let job = Some(context.id().to_string());
        let changes = adopted.changes();
        store.commit_all(disks, move |tx| adopted.insert(tx), changes, job).await?;
        Ok(vm)
    }
}

/// The disk whose blocks are coming.
struct OpenDisk {
    // Declared before the staging, so that the file is closed before it is swept.
    writer: DiskWriter,
    staging: Staging,
    size: u64,
}

/// The thread of an import.
struct Taking {
    intake: Intake,
    space: Space,
    store: LocalStore,
    sr: Arc<Sr>,
    names: Names,
    windows: WindowReserve,
    /// The memory of a large window.
    window: Option<OwnedSemaphorePermit>,
    adopted: Option<Adopted>,
    open: Option<OpenDisk>,
    disks: Vec<NewDisk>,
    /// Bytes that the disks before the open one have written.
    written: u64,
}

impl Taking {
    fn run(mut self, beat: &Beat) -> Result<(Adopted, Vec<NewDisk>), ImportError> {
        match self.take_all(beat) {
            Ok(adopted) => Ok((adopted, self.disks)),
            Err(error) => Err(self.space.explain(error)),
        }
    }

    fn take_all(&mut self, beat: &Beat) -> Result<Adopted, ImportError> {
        let largest_disk =
            if self.sr.content_format == DiskFormat::Vhd { MAX_VIRTUAL_SIZE } else { MAX_RAW_BYTES };
        let mut archive = ArchiveDecoder::new(XvaLimits { largest_disk }, FREE_WINDOW_BYTES);
        // Until the decoder has used the piece up.
        let mut _room_of_piece = None;
        while let Some((piece, room)) = self.intake.next(beat)? {
            let mut clock = self.intake.clock(Stage::Compute);
            _room_of_piece = Some(room);
            self.space.came(piece.len() as u64);
            self.space.reserve(None)?;
            archive.push(piece);
            loop {
                beat.renew();
                match archive.advance()? {
                    ArchiveNext::NeedsInput => break,
                    ArchiveNext::NeedsWindow(_) => {
                        self.wait_for_window(beat)?;
                        archive.grant_window();
                    }
                    ArchiveNext::Event(event) => {
                        clock.enter(Stage::Sink);
                        self.take(event)?;
                        clock.enter(Stage::Compute);
                    }
                }
                // A piece that unpacks to much must not keep an abort waiting.
                if self.intake.is_over(beat) {
                    return Err(ImportError::Aborted);
                }
            }
        }
        archive.finish()?;
        self.intake.check_digest()?;
        self.space.check()?;
        self.adopted.take().ok_or(ImportError::BrokenOff { received: self.intake.received })
    }

    fn take(&mut self, event: XvaEvent) -> Result<(), ImportError> {
        match event {
            XvaEvent::Document(document) => {
                let adopted = adopt(*document, self.names)?;
                let (vm, _) = adopted.vm();
                let found = self.store.db().call_blocking(move |conn| Ok(vms::find_vm(conn, vm)?));
                if found.map_err(LocalError::from)?.is_some() {
                    return Err(ImportError::VmExists { vm });
                }
                self.adopted = Some(adopted);
            }
            XvaEvent::DiskBegin { size, .. } => {
                let staging = self.store.stage(&self.sr);
                let writer = open_writer(&staging, Some(size))?;
                self.open = Some(OpenDisk { writer, staging, size });
            }
            XvaEvent::Data { offset, data, .. } => {
                if let Some(open) = &mut self.open {
                    open.writer.write(offset, &data)?;
                    let written = self.written.saturating_add(open.writer.bytes_written());
                    self.space.wrote(written)?;
                }
            }
            XvaEvent::DiskEnd { disk } => {
                let vdi = self.adopted.as_mut().and_then(|adopted| adopted.take_disk(disk));
                if let (Some(open), Some(vdi)) = (self.open.take(), vdi) {
                    self.close(open, vdi)?;
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, open: OpenDisk, vdi: NewVdi) -> Result<(), ImportError> {
        let OpenDisk { writer, staging, size } = open;
        self.written = self.written.saturating_add(writer.bytes_written());
        let written: Written = writer.finish(size)?;
        self.disks.push(NewDisk { staging, written, vdi });
        Ok(())
    }

    /// Waits for the memory of a large window.
    fn wait_for_window(&mut self, beat: &Beat) -> Result<(), ImportError> {
        while self.window.is_none() {
            if self.intake.is_over(beat) {
                return Err(ImportError::Aborted);
            }
            match Arc::clone(&self.windows.0).try_acquire_owned() {
                Ok(permit) => self.window = Some(permit),
                Err(_) => beat.waiting(|| std::thread::sleep(LOOK_EVERY)),
            }
        }
        Ok(())
    }
}
