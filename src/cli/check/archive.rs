//! Looks into an XVA: what its document says, and whether all blocks of its disks are there and are what their checksums
//! say.

use super::archive_facts::ArchiveFacts;
use super::compressed::damaged_frames;
use super::report::{Note, Problem, Report};
use super::source::{CheckError, Source};
use super::stream::{Pieces, check_memory, compression};
use crate::formats::frames::{MAX_WINDOW_BYTES, Sniffed};
use crate::formats::xva::{
    ArchiveDecoder, ArchiveError, ArchiveNext, Quoted, XvaError, XvaEvent, XvaLimits, XvaSeen, XvaSummary,
};

/// What is in an archive. It is read once, from its beginning up to the first fault.
pub(super) fn examine(source: &Source) -> Result<Report, CheckError> {
    let mut report = Report::new(source, "xva");
    // Nothing is stored, so there is no disk that is too large; and nobody else waits for the memory of a window.
    let mut decoder = ArchiveDecoder::new(XvaLimits { largest_disk: u64::MAX }, MAX_WINDOW_BYTES);
    let mut survey = Survey::default();
    let end = survey.read(&mut decoder, &mut Pieces::of(source))?;
    survey.count(decoder.seen());
    let sniffed = decoder.compression().unwrap_or(Sniffed::Plain);
    let (file_position, position, frames) = (decoder.position(), decoder.plain_position(), decoder.frames());
    let end = end.and_then(|()| decoder.finish());
    if let Err(ArchiveError::Frames(error)) = &end {
        check_memory(source, error)?;
    }
    let plain_length = end.as_ref().ok().map(|summary| summary.length);
    report.compression = compression(source, sniffed, frames, plain_length, &mut report.notes)?;
    match end {
        Ok(summary) => survey.end(&summary, &mut report),
        Err(ArchiveError::Frames(error)) => report.problem(damaged_frames(&error, position)),
        Err(error) => {
            let file_offset = report.compression.as_ref().map(|_| file_position);
            report.problem(problem(&error, file_offset));
        }
    }
    if let (Some(problem), Some(disk)) = (report.problems.last_mut(), survey.open_disk())
        && problem.member.is_none()
    {
        problem.message.push_str(&format!("; the disk {} was being read", Quoted::new(disk)));
    }
    report.xva = survey.facts;
    Ok(report)
}

fn problem(error: &ArchiveError, file_offset: Option<u64>) -> Problem {
    let (rule, member) = match error {
        ArchiveError::Xva(error) | ArchiveError::Decompressed { fault: error, .. } => {
            (Some(error.rule().id()), member(error))
        }
        ArchiveError::Frames(_) | ArchiveError::Unknown { .. } => (None, None),
    };
    let (code, offset) = (error.code(), error.offset());
    Problem { file: None, rule, code, member, offset, file_offset, message: error.to_string() }
}

/// The member that a fault is about, as messages show it but without quotation marks.
fn member(error: &XvaError) -> Option<String> {
    let unquoted = |name: &str| Some(name.strip_prefix('"')?.strip_suffix('"')?.to_owned());
    match error {
        XvaError::Member { member, .. } => unquoted(&member.to_string()),
        XvaError::Xml { .. } | XvaError::Document { .. } => Some("ova.xml".to_owned()),
        // Within a member; else the place is described.
        XvaError::Truncated { place, .. } => unquoted(place),
    }
}

/// What has been found so far.
#[derive(Debug, Default)]
struct Survey {
    facts: Option<ArchiveFacts>,
    /// The disk that has begun and not ended, and what had been seen before it.
    open: Option<(usize, XvaSeen)>,
}

impl Survey {
    /// Reads up to the first fault, or the end of the file.
    fn read(
        &mut self,
        decoder: &mut ArchiveDecoder,
        pieces: &mut Pieces<'_>,
    ) -> Result<Result<(), ArchiveError>, CheckError> {
        loop {
            match decoder.advance() {
                Ok(ArchiveNext::Event(event)) => self.take(event, decoder.seen()),
                Ok(ArchiveNext::NeedsWindow(_)) => decoder.grant_window(),
                Ok(ArchiveNext::NeedsInput) => match pieces.next()? {
                    Some(piece) => decoder.push(piece),
                    None => return Ok(Ok(())),
                },
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    fn take(&mut self, event: XvaEvent, seen: XvaSeen) {
        match event {
            XvaEvent::Document(document) => self.facts = Some(ArchiveFacts::of(&document)),
            XvaEvent::DiskBegin { disk, .. } => {
                self.open = Some((disk, seen));
                if let Some(facts) = self.disk(disk) {
                    facts.begin(seen.block_bytes);
                }
            }
            XvaEvent::Data { disk, data, .. } => {
                if let Some(facts) = self.disk(disk) {
                    facts.data_bytes += data.len() as u64;
                }
            }
            XvaEvent::DiskEnd { disk } => {
                self.count(seen);
                self.open = None;
                if let Some(facts) = self.disk(disk) {
                    facts.whole = true;
                }
            }
        }
    }

    fn disk(&mut self, disk: usize) -> Option<&mut super::archive_facts::DiskFacts> {
        self.facts.as_mut()?.disks.get_mut(disk)
    }

    /// The id of the disk that has begun and not ended.
    fn open_disk(&self) -> Option<&str> {
        let (disk, _) = self.open?;
        Some(self.facts.as_ref()?.disks.get(disk)?.id.as_str())
    }

    /// Takes over what was counted up to now.
    fn count(&mut self, seen: XvaSeen) {
        if let Some((disk, before)) = self.open
            && let Some(facts) = self.disk(disk)
        {
            facts.present_blocks = seen.blocks - before.blocks;
        }
        if let Some(facts) = &mut self.facts {
            facts.checksums = match (seen.xxh64, seen.sha1) {
                (0, 0) => None,
                (_, 0) => Some("xxhash"),
                (0, _) => Some("sha1"),
                _ => Some("mixed"),
            };
        }
    }

    /// The archive is whole.
    fn end(&mut self, summary: &XvaSummary, report: &mut Report) {
        if let Some(facts) = &mut self.facts {
            facts.tar_length = Some(summary.length);
            facts.end_marker = Some(summary.end_marker);
        }
        if !summary.end_marker {
            report.notes.push(Note {
                code: "xva_no_end_marker",
                offset: summary.length,
                message: format!(
                    "the archive ends at byte {} without an end marker, which readers do not ask for",
                    summary.length
                ),
            });
        }
    }
}
