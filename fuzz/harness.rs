//! What must hold for any input, shared by the fuzz targets and the tests over the seeds.
#![allow(dead_code, reason = "each target uses one of these functions")]

use super::gantry::formats::raw::RawDecoder;
use super::gantry::formats::vhd::{MAX_NEED, StreamDecoder, VhdError, VhdIndex, open};
use super::gantry::formats::{ImageDecoder, ImageError, ImageEvent};
use bytes::Bytes;

/// Longest image that is unpacked.
const MAX_IMAGE: usize = 4 << 20;

/// An image from its packed form. A byte below 0x80 is followed by that many bytes and one more, as they are; any
/// other byte `n` by one byte that fills `n - 0x7F` times 512 bytes.
pub fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut image = Vec::new();
    let mut rest = packed;
    while let [operation, left @ ..] = rest {
        let count = if *operation < 0x80 { usize::from(*operation) + 1 } else { 1 };
        let (bytes, left) = left.split_at(count.min(left.len()));
        match bytes {
            [fill] if *operation >= 0x80 => {
                image.resize(image.len() + usize::from(*operation - 0x7F) * 512, *fill)
            }
            bytes => image.extend_from_slice(bytes),
        }
        if image.len() > MAX_IMAGE {
            image.truncate(MAX_IMAGE);
            break;
        }
        rest = left;
    }
    image
}

/// What was read: the size, and each byte of data with its place, without regard to how it was cut.
type Read = Result<(u64, u64, Vec<(u64, Vec<u8>)>), ImageError>;

/// Reads a stream in pieces of `cut` bytes.
fn read(mut decoder: ImageDecoder, image: &[u8], cut: usize) -> Read {
    let mut size = None;
    let mut data: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut pieces = image.chunks(cut.max(1));
    loop {
        while let Some(event) = decoder.next_event()? {
            match event {
                ImageEvent::Size(found) => assert!(size.replace(found).is_none(), "a second size"),
                ImageEvent::Data { offset, data: bytes } => {
                    assert!(!bytes.is_empty(), "an empty event");
                    match data.last_mut() {
                        Some((start, run)) if *start + run.len() as u64 == offset => {
                            run.extend_from_slice(&bytes)
                        }
                        _ => data.push((offset, bytes.to_vec())),
                    }
                }
            }
        }
        let Some(piece) = pieces.next() else { break };
        decoder.push(Bytes::copy_from_slice(piece));
    }
    let position = decoder.position();
    let virtual_size = decoder.finish()?.virtual_size;
    assert!(size.is_none_or(|size| size == virtual_size), "two sizes");
    data.sort_unstable();
    let mut end = 0;
    for (offset, run) in &data {
        assert!(*offset >= end, "byte {offset} came twice");
        end = offset + run.len() as u64;
    }
    assert!(end <= virtual_size, "data behind the disk's end");
    Ok((virtual_size, position, data))
}

/// A stream is read to the same end however it is cut; what is read with its length announced is read without,
/// and from a file.
pub fn vhd_stream(input: &[u8]) {
    let image = unpack(input);
    let length = Some(image.len() as u64);
    let decoder = |length| ImageDecoder::Vhd(StreamDecoder::new(length));
    let announced = read(decoder(length), &image, usize::MAX);
    let unannounced = read(decoder(None), &image, usize::MAX);
    let cut = input.iter().fold(1usize, |cut, &byte| cut.wrapping_mul(31) + usize::from(byte)) % 9973 + 1;
    assert_eq!(announced, read(decoder(length), &image, cut));
    assert_eq!(unannounced, read(decoder(None), &image, cut));
    if let Ok((virtual_size, position, _)) = &announced {
        assert_eq!(*position, image.len() as u64, "not everything was read");
        assert_eq!(announced, unannounced);
        let index = open_bytes(&image).expect("what streams can be opened");
        assert_eq!(index.virtual_size, *virtual_size);
    }
}

/// A file is opened or refused, and what is found in it lies inside of it.
pub fn vhd_open(input: &[u8]) {
    let image = unpack(input);
    let Ok(index) = open_bytes(&image) else { return };
    assert!(index.block_bytes > 0 && index.virtual_size > 0);
    let mut ends: Vec<(u64, u64)> = Vec::new();
    for (number, block) in index.blocks() {
        assert_eq!(index.block(number), Some(block));
        assert!(number < index.block_count(), "a block behind the disk's end");
        let end = block.data_offset + index.block_bytes;
        assert!(block.bitmap_offset + block.bitmap_len == block.data_offset && end <= image.len() as u64);
        ends.push((block.bitmap_offset, end));
    }
    ends.sort_unstable();
    assert!(ends.is_sorted_by(|a, b| a.1 <= b.0), "blocks overlap");
    for name in index.parent.iter().flat_map(|parent| &parent.names) {
        assert!(
            !name.contains(['/', '\\', '\0']) && !matches!(name.as_str(), "" | "." | ".."),
            "{name:?} leads away"
        );
    }
}

/// A raw disk is its bytes, however they are cut.
pub fn raw(input: &[u8]) {
    let decoder = |size, length| ImageDecoder::Raw(RawDecoder::new(size, length));
    let (size, image) = match input {
        [byte, image @ ..] if byte % 2 == 1 => (Some(u64::from(*byte) * 256), image),
        image => (None, image),
    };
    let cut = image.len() / 3 + 1;
    let length = Some(image.len() as u64);
    let whole = read(decoder(size, None), image, usize::MAX);
    assert_eq!(whole.is_ok(), read(decoder(size, length), image, cut).is_ok());
    if let Ok((virtual_size, position, data)) = whole {
        assert!(virtual_size % 512 == 0 && virtual_size >= position);
        assert!(data.iter().flat_map(|(_, run)| run).eq(image), "other bytes than those that came");
    }
}

fn open_bytes(image: &[u8]) -> Result<VhdIndex, VhdError> {
    open(image.len() as u64, |offset, buffer| {
        assert!(!buffer.is_empty() && buffer.len() <= MAX_NEED, "asked for {} bytes", buffer.len());
        let at = usize::try_from(offset).expect("inside of the file");
        buffer.copy_from_slice(image.get(at..at + buffer.len()).expect("inside of the file"));
        Ok(())
    })
}
