//! What must hold for any XVA archive, shared by the fuzz targets and the library's tests.
#![allow(dead_code, reason = "each target uses one of these functions")]

use super::gantry::formats::xva::{Document, XvaDecoder, XvaError, XvaEvent, XvaLimits, XvaSummary};
use bytes::Bytes;

/// Longest archive that is unpacked.
const MAX_ARCHIVE: usize = 4 << 20;

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

/// Reads an archive in pieces of `cut` bytes.
fn read(archive: &[u8], cut: usize) -> Read {
    let mut decoder = XvaDecoder::new(XvaLimits { largest_disk: 1 << 40 });
    let mut document = None;
    let mut disks: Vec<Disk> = Vec::new();
    let mut ended = 0;
    for piece in archive.chunks(cut) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(event) = decoder.next_event()? {
            match event {
                XvaEvent::Document(found) => {
                    assert!(document.replace(*found).is_none(), "a second document");
                }
                XvaEvent::DiskBegin { disk, size } => {
                    assert_eq!((disk, ended), (disks.len(), disks.len()), "the disk before has not ended");
                    assert!(size > 0);
                    disks.push((size, Vec::new()));
                }
                XvaEvent::Data { disk, offset, data } => {
                    assert!(!data.is_empty(), "an empty event");
                    assert_eq!((disk + 1, disk), (disks.len(), ended), "data of another disk");
                    let (size, runs) = disks.last_mut().expect("it has begun");
                    let end = runs.last().map_or(0, |(start, run)| start + run.len() as u64);
                    assert!(offset >= end && offset + data.len() as u64 <= *size, "out of place");
                    match runs.last_mut() {
                        Some((_, run)) if end == offset => run.extend_from_slice(&data),
                        _ => runs.push((offset, data.to_vec())),
                    }
                }
                XvaEvent::DiskEnd { disk } => {
                    assert_eq!((disk + 1, disk), (disks.len(), ended), "the end of another disk");
                    ended += 1;
                }
            }
        }
    }
    let position = decoder.position();
    let summary = decoder.finish()?;
    let document = document.expect("there is no archive without");
    assert_eq!(position, archive.len() as u64, "not everything was read");
    let sizes: Vec<_> = document.disks().iter().map(|disk| disk.virtual_size).collect();
    assert_eq!(disks.iter().map(|disk| disk.0).collect::<Vec<_>>(), sizes, "other disks than the document's");
    assert_eq!((ended, summary.disks), (sizes.len(), sizes.len()), "a disk has not ended");
    Ok((document, disks, summary))
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
