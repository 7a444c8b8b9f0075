//! Looks into a compressed file: what is in it, and whether that is sound.

use std::path::Path;

use super::report::{Problem, Report, VhdFacts};
use super::source::{CheckError, Source};
use super::stream::{Halt, Unpacked, compression};
use super::vhd::footer_facts;
use super::{archive, examine_raw, extension, is_archive};
use crate::formats::ImageEvent;
use crate::formats::frames::{FrameError, Sniffed};
use crate::formats::vhd::{DiskKind, FOOTER_COOKIE, FOOTER_LEN, StreamDecoder, VhdError};

/// Endings of names that say that a file is compressed.
const ENDINGS: [&str; 4] = ["gz", "gzip", "zst", "zstd"];

/// What is in a compressed file.
pub(super) fn examine(source: &Source, sniffed: Sniffed) -> Result<Report, CheckError> {
    let ending = inner_extension(&source.path);
    let mut image = Image::default();
    let mut unpacked = Unpacked::of(source, sniffed);
    // What it is can be told from its first bytes, or from its name, or only from its end.
    let mut fault = loop {
        match unpacked.next() {
            Ok(Some(bytes)) => {
                image.add(bytes);
                if image.is_archive() {
                    return archive::examine(source);
                }
                if let Some(error) = image.refused_vhd(ending.as_deref()) {
                    break Some(Fault::Vhd(error));
                }
            }
            Ok(None) => break None,
            Err(Halt::Frames(error)) => break Some(Fault::Frames(error)),
            Err(Halt::File(error)) => return Err(error),
        }
    };
    if ending.as_deref() == Some("xva") {
        return archive::examine(source);
    }
    let (position, file_position, frames) = (unpacked.position, unpacked.file_position(), unpacked.frames());
    if fault.is_none() {
        fault = unpacked.finish().err().map(Fault::Frames);
    }
    let is_whole = fault.is_none();
    let format = match ending.as_deref() {
        _ if image.begins_as_vhd() || (is_whole && image.ends_as_vhd()) => "vhd",
        Some("vhd") => "vhd",
        Some("raw") => "raw",
        _ => return Err(CheckError::Unknown { file: source.path.display().to_string() }),
    };
    let mut report = Report::new(source, format);
    if fault.is_none() && format == "vhd" {
        fault = image.finish(&mut report).err().map(Fault::Vhd);
    } else if fault.is_none() {
        examine_raw(position, &mut report);
    }
    let plain_length = is_whole.then_some(position);
    report.compression = compression(source, sniffed, frames, plain_length, &mut report.notes)?;
    match fault {
        None => {}
        Some(Fault::Frames(error)) => report.problem(damaged_frames(&error, position)),
        Some(Fault::Vhd(reason @ (VhdError::ParentNeeded { .. } | VhdError::NotStreamable { .. }))) => {
            return Err(CheckError::NeedsFile { file: source.path.display().to_string(), reason });
        }
        Some(Fault::Vhd(error)) => {
            report.problem(Problem { file_offset: Some(file_position), ..Problem::vhd(None, &error) });
        }
    }
    Ok(report)
}

/// What ends the reading of an image.
enum Fault {
    Frames(FrameError),
    Vhd(VhdError),
}

/// A fault of the compression, behind so many bytes that were unpacked.
pub(super) fn damaged_frames(error: &FrameError, position: u64) -> Problem {
    Problem {
        file: None,
        rule: None,
        code: error.code(),
        member: None,
        offset: position,
        file_offset: Some(error.offset()),
        message: format!("{error}; {position} bytes were unpacked before"),
    }
}

/// The ending of a file's name before the one that says how it is compressed.
fn inner_extension(path: &Path) -> Option<String> {
    match extension(path) {
        Some(ending) if ENDINGS.contains(&ending.as_str()) => extension(Path::new(path.file_stem()?)),
        ending => ending,
    }
}

/// An image as it is unpacked: a VHD, unless its end says that it is none.
#[derive(Debug)]
struct Image {
    /// Its first 512 bytes, and its last ones.
    first: Vec<u8>,
    last: Vec<u8>,
    decoder: StreamDecoder,
    /// Why it is no sound VHD.
    refused: Option<VhdError>,
    /// Bytes of the disk for which there is data.
    data_bytes: u64,
}

impl Default for Image {
    fn default() -> Self {
        let decoder = StreamDecoder::new(None);
        Self { first: Vec::new(), last: Vec::new(), decoder, refused: None, data_bytes: 0 }
    }
}

impl Image {
    fn add(&mut self, bytes: bytes::Bytes) {
        let missing = FOOTER_LEN - self.first.len();
        self.first.extend(bytes.iter().take(missing));
        let end = bytes.len().saturating_sub(FOOTER_LEN);
        self.last.extend_from_slice(bytes.get(end..).unwrap_or_default());
        let excess = self.last.len().saturating_sub(FOOTER_LEN);
        self.last.drain(..excess);
        if self.refused.is_none() {
            self.decoder.push(bytes);
            self.refused = self.drain().err();
        }
    }

    fn drain(&mut self) -> Result<(), VhdError> {
        while let Some(event) = self.decoder.next_event()? {
            if let ImageEvent::Data { data, .. } = event {
                self.data_bytes += data.len() as u64;
            }
        }
        Ok(())
    }

    fn is_archive(&self) -> bool {
        is_archive(&self.first)
    }

    fn begins_as_vhd(&self) -> bool {
        self.first.starts_with(&FOOTER_COOKIE)
    }

    fn ends_as_vhd(&self) -> bool {
        self.last.starts_with(&FOOTER_COOKIE)
    }

    /// Why it need not be read further, when it must be a VHD.
    fn refused_vhd(&self, ending: Option<&str>) -> Option<VhdError> {
        self.refused.clone().filter(|_| self.begins_as_vhd() || ending == Some("vhd"))
    }

    /// What the VHD is, when all of it has been read.
    fn finish(self, report: &mut Report) -> Result<(), VhdError> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        let summary = self.decoder.finish()?;
        let is_sparse = summary.footer.kind != DiskKind::Fixed;
        report.virtual_size = Some(summary.virtual_size);
        report.vhd = Some(VhdFacts {
            allocated_blocks: is_sparse.then_some(summary.blocks),
            ..footer_facts(&summary.footer, self.data_bytes)
        });
        Ok(())
    }
}
