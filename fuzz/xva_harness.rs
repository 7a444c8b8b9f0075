//! What must hold for any XVA archive, shared by the fuzz targets and the library's tests.
#![allow(dead_code, reason = "each target uses one of these functions")]

use super::gantry::formats::frames::{Codec, Compression, FREE_WINDOW_BYTES, FrameEncoder, MAX_WINDOW_BYTES};
use super::gantry::formats::xva::{
    ArchiveDecoder, ArchiveError, ArchiveNext, Document, XvaDecoder, XvaError, XvaEvent, XvaLimits,
    XvaSummary,
};
use bytes::Bytes;

/// Longest archive that is unpacked.
const MAX_ARCHIVE: usize = 4 << 20;

const LIMITS: XvaLimits = XvaLimits { largest_disk: 1 << 40 };

/// An archive from its packed form. A byte below 0x80 is followed by that many bytes and one more, as they are; 0xFE
/// adds zeros up to a multiple of 512; 0xFF makes the checksum of the tar header in the last 512 bytes right; any other
/// byte `n` is followed by one byte that fills `n - 0x7F` times 512 bytes.
pub fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut rest = packed;
    while let [operation, left @ ..] = rest {
        rest = left;
        match operation {
            0..0x80 => {
                let (bytes, left) = left.split_at((usize::from(*operation) + 1).min(left.len()));
                archive.extend_from_slice(bytes);
                rest = left;
            }
            0xFE => archive.resize(archive.len().next_multiple_of(512), 0),
            0xFF => seal(&mut archive),
            _ => {
                if let [fill, left @ ..] = left {
                    archive.resize(archive.len() + usize::from(operation - 0x7F) * 512, *fill);
                    rest = left;
                }
            }
        }
        if archive.len() > MAX_ARCHIVE {
            archive.truncate(MAX_ARCHIVE);
            break;
        }
    }
    archive
}

/// Makes the checksum of the header at the end right.
fn seal(archive: &mut [u8]) {
    let Some(header) = archive.last_chunk_mut::<512>() else { return };
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
}

/// A disk's size and its bytes with their places, without regard to how they were cut.
type Disk = (u64, Vec<(u64, Vec<u8>)>);

/// What was read.
type Read = Result<(Document, Vec<Disk>, XvaSummary), XvaError>;

/// What the events of an archive amount to.
#[derive(Debug, Default, PartialEq)]
struct Taken {
    document: Option<Document>,
    disks: Vec<Disk>,
    ended: usize,
}

impl Taken {
    /// Takes an event, which comes in its order and place.
    fn take(&mut self, event: XvaEvent) {
        match event {
            XvaEvent::Document(found) => {
                assert!(self.document.replace(*found).is_none(), "a second document");
            }
            XvaEvent::DiskBegin { disk, size } => {
                let begun = self.disks.len();
                assert_eq!((disk, self.ended), (begun, begun), "the disk before has not ended");
                assert!(size > 0);
                self.disks.push((size, Vec::new()));
            }
            XvaEvent::Data { disk, offset, data } => {
                assert!(!data.is_empty(), "an empty event");
                assert_eq!((disk + 1, disk), (self.disks.len(), self.ended), "data of another disk");
                let (size, runs) = self.disks.last_mut().expect("it has begun");
                let end = runs.last().map_or(0, |(start, run)| start + run.len() as u64);
                assert!(offset >= end && offset + data.len() as u64 <= *size, "out of place");
                match runs.last_mut() {
                    Some((_, run)) if end == offset => run.extend_from_slice(&data),
                    _ => runs.push((offset, data.to_vec())),
                }
            }
            XvaEvent::DiskEnd { disk } => {
                assert_eq!((disk + 1, disk), (self.disks.len(), self.ended), "the end of another disk");
                self.ended += 1;
            }
        }
    }

    /// The end of a sound archive.
    fn end(self, summary: XvaSummary) -> (Document, Vec<Disk>, XvaSummary) {
        let document = self.document.expect("there is no archive without");
        let sizes: Vec<_> = document.disks().iter().map(|disk| disk.virtual_size).collect();
        let found: Vec<_> = self.disks.iter().map(|disk| disk.0).collect();
        assert_eq!(found, sizes, "other disks than the document's");
        assert_eq!((self.ended, summary.disks), (sizes.len(), sizes.len()), "a disk has not ended");
        (document, self.disks, summary)
    }
}

/// Reads an archive in pieces of `cut` bytes.
fn read(archive: &[u8], cut: usize) -> Read {
    let mut decoder = XvaDecoder::new(LIMITS);
    let mut taken = Taken::default();
    for piece in archive.chunks(cut) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(event) = decoder.next_event()? {
            taken.take(event);
        }
    }
    let position = decoder.position();
    let summary = decoder.finish()?;
    assert_eq!(position, archive.len() as u64, "not everything was read");
    Ok(taken.end(summary))
}

/// What was read of an archive in any compression; `None` of one that unpacks to more than is looked at. Of one that is
/// refused, what was read before, and the error's code: its place in the compression depends on how it was cut.
type ReadAny = Option<Result<(Document, Vec<Disk>, XvaSummary), (Taken, &'static str)>>;

/// Reads an archive in any compression in pieces of `cut` bytes.
fn read_any(stream: &[u8], cut: usize) -> ReadAny {
    let mut decoder = ArchiveDecoder::new(LIMITS, FREE_WINDOW_BYTES);
    let mut taken = Taken::default();
    for piece in stream.chunks(cut) {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.advance() {
                Ok(ArchiveNext::Event(event)) => taken.take(event),
                Ok(ArchiveNext::NeedsInput) => break,
                Ok(ArchiveNext::NeedsWindow(bytes)) => {
                    assert!(bytes > FREE_WINDOW_BYTES && bytes <= MAX_WINDOW_BYTES, "a window of {bytes}");
                    return None;
                }
                Err(error) => {
                    assert!(decoder.position() <= stream.len() as u64);
                    if let ArchiveError::Frames(error) = &error {
                        assert!(error.offset() <= stream.len() as u64, "behind the end: {error}");
                    }
                    return Some(Err((taken, error.code())));
                }
            }
            if decoder.plain_position() > MAX_ARCHIVE as u64 * 2 {
                return None;
            }
        }
        assert!(decoder.position() <= stream.len() as u64);
    }
    let seen = decoder.seen();
    match decoder.finish() {
        Ok(summary) => {
            let (found, blocks) = (seen.xxh64 + seen.sha1, summary.blocks);
            assert!(seen.blocks <= blocks && found == blocks, "{blocks} blocks, but {seen:?}");
            Some(Ok(taken.end(summary)))
        }
        Err(error) => Some(Err((taken, error.code()))),
    }
}

/// The first byte says what the rest is: 0 a stream as it is, in any compression; 1, 2 and 3 a packed archive that is
/// read plain, in gzip members and in zstd frames. It is read to the same end however it is cut, and in any compression
/// as it is without.
pub fn archive(input: &[u8]) {
    let Some((&choice, rest)) = input.split_first() else { return };
    let cut = input.iter().fold(1usize, |cut, &byte| cut.wrapping_mul(31) + usize::from(byte)) % 9973 + 1;
    let codec = match choice % 4 {
        2 => Some(Codec::Gzip),
        3 => Some(Codec::Zstd),
        _ => None,
    };
    let plain = if choice % 4 == 0 { rest.to_vec() } else { unpack(rest) };
    let stream = codec.map_or_else(|| plain.clone(), |codec| compress(codec, &plain));
    let whole = read_any(&stream, stream.len().max(1));
    let pieces = read_any(&stream, cut);
    let is_compression = |read: &ReadAny| match read {
        Some(Err((_, code))) => code.starts_with("compressed_"),
        _ => false,
    };
    match (&whole, &pieces) {
        (None, _) | (_, None) => {}
        // Of a block that is wrong, a part may have been given out, as it came; and it may be no archive any more.
        (Some(Err(_)), Some(Err(_))) if is_compression(&whole) || is_compression(&pieces) => {}
        _ => assert!(whole == pieces, "the pieces of {cut} bytes make a difference"),
    }
    if choice % 4 != 0 {
        match (whole.expect("it is no longer than that"), read(&plain, plain.len().max(1))) {
            (Ok(found), Ok(expected)) => assert!(found == expected, "compressed it is another archive"),
            // What is no archive at all is told as that. Nothing is compressed to no frame.
            (Err((_, code)), Err(error)) => assert!(
                code == error.code() || code == "xva_unknown_format" || plain.is_empty(),
                "{code}, but plain {error}"
            ),
            (found, expected) => panic!("{} compressed, {} plain", found.is_ok(), expected.is_ok()),
        }
    }
}

/// A compressed stream of some frames.
fn compress(codec: Codec, plain: &[u8]) -> Vec<u8> {
    let mut encoder = FrameEncoder::new(Compression::default_of(codec)).expect("there is memory");
    let (mut stream, mut frame) = (Vec::new(), Vec::new());
    for window in plain.chunks(plain.len() / 3 + 1) {
        encoder.compress(window, &mut frame).expect("anything can be compressed");
        stream.extend_from_slice(&frame);
    }
    stream
}

/// An archive is read to the same end however it is cut.
pub fn xva_stream(input: &[u8]) {
    let archive = unpack(input);
    let cut = input.iter().fold(1usize, |cut, &byte| cut.wrapping_mul(31) + usize::from(byte)) % 9973 + 1;
    assert_eq!(read(&archive, archive.len().max(1)), read(&archive, cut));
}

/// A document is read or refused, at a place inside of it.
pub fn ova_xml(input: &[u8]) {
    match Document::parse(input) {
        Ok(document) => {
            assert!(document.of_class("VM").next().is_some());
            let disks = document.disks();
            assert!(disks.iter().all(|disk| disk.virtual_size > 0 && disk.virtual_size % 512 == 0));
            assert!(disks.is_sorted_by(|one, other| one.id.as_bytes() < other.id.as_bytes()));
        }
        Err(error) => assert!(error.offset() <= input.len() as u64, "{error}"),
    }
}
