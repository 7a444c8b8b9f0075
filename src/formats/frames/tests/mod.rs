mod decoding;
mod encoding;
mod index;
mod seeds;
mod tools;

use bytes::Bytes;

use super::{Codec, Compression, Decompressor, FrameEncoder, FrameError, MAX_CHUNK_BYTES, Next, Sniffed};

const BOTH: [Codec; 2] = [Codec::Gzip, Codec::Zstd];

fn sniffed(codec: Codec) -> Sniffed {
    match codec {
        Codec::Gzip => Sniffed::Gzip,
        Codec::Zstd => Sniffed::Zstd,
    }
}

fn frame(compression: Compression, window: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    FrameEncoder::new(compression).unwrap().compress(window, &mut frame).unwrap();
    frame
}

/// A frame at the default level.
fn framed(codec: Codec, window: &[u8]) -> Vec<u8> {
    frame(Compression::default_of(codec), window)
}

/// Takes what there is; all windows are granted.
fn take(decompressor: &mut Decompressor, plain: &mut Vec<u8>) -> Result<(), FrameError> {
    loop {
        match decompressor.next_chunk()? {
            Next::Chunk(chunk) => {
                assert!(!chunk.is_empty() && chunk.len() <= MAX_CHUNK_BYTES);
                plain.extend_from_slice(&chunk);
            }
            Next::NeedsWindow(_) => decompressor.grant_window(),
            Next::NeedsInput => return Ok(()),
        }
    }
}

/// Reads a stream that comes in those pieces: the plain bytes up to the fault, if there is one.
fn read<'a>(sniffed: Sniffed, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Option<FrameError>) {
    let mut decompressor = Decompressor::new(sniffed);
    let mut plain = Vec::new();
    for piece in pieces {
        decompressor.push(Bytes::copy_from_slice(piece));
        if let Err(error) = take(&mut decompressor, &mut plain) {
            assert_eq!(decompressor.next_chunk(), Err(error.clone()), "the same again");
            return (plain, Some(error));
        }
    }
    (plain, decompressor.finish().err())
}

fn read_whole(codec: Codec, stream: &[u8]) -> (Vec<u8>, Option<FrameError>) {
    read(sniffed(codec), [stream])
}

fn refusal(codec: Codec, stream: &[u8]) -> FrameError {
    read_whole(codec, stream).1.expect("it is refused")
}

/// A source of numbers that are always the same.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Bytes like those of a disk with programs and text: words out of a few thousand, with numbers between.
fn like_a_disk(bytes: usize) -> Vec<u8> {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let words: Vec<Vec<u8>> = (0..4000)
        .map(|_| (0..3 + dice.roll() % 12).map(|_| b'a' + (dice.roll() % 26) as u8).collect())
        .collect();
    let mut content = Vec::with_capacity(bytes + 16);
    while content.len() < bytes {
        let number = dice.roll();
        // Some words are more frequent than others.
        let word = (number % 4000).min(number >> 20 & 4095);
        content.extend_from_slice(&words[word as usize % 4000]);
        if number >> 60 == 0 {
            content.extend(dice.roll().to_le_bytes());
        }
    }
    content.truncate(bytes);
    content
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut dice = Dice(88_172_645_463_325_252);
    let mut content: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| dice.roll().to_le_bytes()).collect();
    content.truncate(bytes);
    content
}
