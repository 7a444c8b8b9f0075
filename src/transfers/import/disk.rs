//! One disk taken in: as a new VDI, or as the content of one.

use std::sync::Arc;

use gantry_actors::{JobContext, Stage};
use tokio::sync::mpsc;

use crate::backends::local::{Committed, Destination, LocalStore, Staging};
use crate::disk::worker::{Beat, spawn_watched};
use crate::disk::writer::{DiskWriter, VhdIdentity, Written};
use crate::formats::{ImageDecoder, ImageEvent};
use crate::ids::{SrId, VdiId};

use super::super::digest::{Checker, Declared};
use super::super::representation::vhd_identity;
use super::feed::Feed;
use super::intake::{Intake, Space};
use super::{ImportError, ImportFormat};

/// A disk that is to be taken in.
pub(super) struct DiskImport {
    pub(super) sr: SrId,
    pub(super) destination: Destination,
    /// The size that it must have.
    pub(super) expected_size: Option<u64>,
    pub(super) format: ImportFormat,
    pub(super) length: Option<u64>,
    pub(super) sparse: bool,
    pub(super) digests: Vec<Declared>,
}

impl DiskImport {
    /// Takes the disk in and makes it visible.
    pub(super) async fn run(
        self,
        store: LocalStore,
        pieces: mpsc::Receiver<Feed>,
        context: &JobContext,
    ) -> Result<Committed, ImportError> {
        let Self { sr, destination, expected_size, format, length, sparse, digests } = self;
        let staging = store.stage(&store.writable_sr(sr)?);
        let intake = Intake {
            pieces,
            progress: context.progress().clone(),
            stop: context.stop().clone(),
            checker: Checker::new(digests),
            received: 0,
        };
        let space = Space::new(&store, staging.sr(), length.filter(|_| !sparse));
        let given_up = Arc::clone(&staging.sr().given_up);
        let decoder = format.decoder(length);
        let taking = Taking { intake, space, expected_size, writer: None, staging, size: None };
        let thread = spawn_watched("import", &given_up, move |beat| taking.run(beat, decoder))?;
        let (staging, written) = thread.outcome(store.stuck_after(), context.stop()).await??;
        let job = Some(context.id().to_string());
        Ok(store.commit(staging, written, destination, job).await?)
    }
}

/// The thread of an import.
struct Taking {
    intake: Intake,
    space: Space,
    expected_size: Option<u64>,
    // Declared before the staging, so that the file is closed before it is swept.
    writer: Option<DiskWriter>,
    staging: Staging,
    size: Option<u64>,
}

impl Taking {
    fn run(mut self, beat: &Beat, decoder: ImageDecoder) -> Result<(Staging, Written), ImportError> {
        match self.take_all(beat, decoder) {
            Ok(written) => Ok((self.staging, written)),
            Err(error) => Err(self.space.explain(error)),
        }
    }

    /// Takes the whole stream in and finishes the disk.
    fn take_all(&mut self, beat: &Beat, mut decoder: ImageDecoder) -> Result<Written, ImportError> {
        // Until the decoder has used the piece up.
        let mut _room_of_piece = None;
        while let Some((piece, room)) = self.intake.next(beat)? {
            let mut clock = self.intake.clock(Stage::Compute);
            _room_of_piece = Some(room);
            self.space.came(piece.len() as u64);
            decoder.push(piece);
            while let Some(event) = decoder.next_event()? {
                beat.renew();
                self.space.reserve(decoder.allocated_bytes())?;
                clock.enter(Stage::Sink);
                self.take(event)?;
                clock.enter(Stage::Compute);
            }
        }
        let _clock = self.intake.clock(Stage::Sink);
        let size = decoder.finish()?.virtual_size;
        self.check_size(size)?;
        self.intake.check_digest()?;
        self.size.get_or_insert(size);
        self.open()?;
        // What was written since the last look must not have eaten into what is kept in reserve either.
        self.space.check()?;
        let Some(writer) = self.writer.take() else {
            return Err(ImportError::BrokenOff { received: self.intake.received });
        };
        beat.renew();
        Ok(writer.finish(size)?)
    }

    fn take(&mut self, event: ImageEvent) -> Result<(), ImportError> {
        match event {
            ImageEvent::Size(size) => {
                self.check_size(size)?;
                self.size.get_or_insert(size);
            }
            ImageEvent::Data { offset, data } => {
                let writer = self.open()?;
                writer.write(offset, &data)?;
                let written = writer.bytes_written();
                self.space.wrote(written)?;
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

    fn open(&mut self) -> Result<&mut DiskWriter, ImportError> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            none => Ok(none.insert(open_writer(&self.staging, self.size)?)),
        }
    }
}

/// The writer of content in the making.
pub(in crate::transfers) fn open_writer(
    staging: &Staging,
    size: Option<u64>,
) -> Result<DiskWriter, ImportError> {
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
