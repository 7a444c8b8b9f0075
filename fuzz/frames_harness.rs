//! What must hold for any compressed stream, shared by the fuzz target and the library's tests.

use super::gantry::formats::frames::{
    Codec, Compression, Decompressor, FrameEncoder, FrameError, FrameIndex, MAX_CHUNK_BYTES, Next, SeekTable,
    Sniffed,
};
use bytes::Bytes;

/// As much of a bomb as is looked at.
const MAX_PLAIN: usize = 2 << 20;

/// What was read of a stream: plain bytes, compressed bytes used, and how it ended.
type Read = (Vec<u8>, Result<(), FrameError>);

fn read(sniffed: Sniffed, stream: &[u8], cut: usize) -> Read {
    let mut decompressor = Decompressor::with_free_window(sniffed, 1 << 20);
    let mut plain = Vec::new();
    for piece in stream.chunks(cut.max(1)) {
        decompressor.push(Bytes::copy_from_slice(piece));
        loop {
            match decompressor.next_chunk() {
                Ok(Next::Chunk(chunk)) => {
                    assert!(
                        !chunk.is_empty() && chunk.len() <= MAX_CHUNK_BYTES,
                        "a chunk of {}",
                        chunk.len()
                    );
                    plain.extend_from_slice(&chunk);
                }
                Ok(Next::NeedsWindow(bytes)) => {
                    assert!(bytes > 1 << 20 && bytes == decompressor.window_bytes(), "a window of {bytes}");
                    // What is larger takes its time.
                    if bytes > 8 << 20 {
                        return (plain, Ok(()));
                    }
                    decompressor.grant_window();
                }
                Ok(Next::NeedsInput) => break,
                Err(error) => {
                    assert!(error.offset() <= stream.len() as u64, "behind the end: {error}");
                    assert_eq!(decompressor.next_chunk(), Err(error.clone()));
                    return (plain, Err(error));
                }
            }
            if plain.len() >= MAX_PLAIN {
                plain.truncate(MAX_PLAIN);
                return (plain, Ok(()));
            }
        }
        assert!(decompressor.position() <= stream.len() as u64);
    }
    let end = decompressor.finish();
    (plain, end)
}

/// The first byte chooses codec, level and pieces, the rest is a stream. It is read to the same end however it is cut;
/// and, compressed itself, it is what comes back.
pub fn frames(input: &[u8]) {
    let Some((&choice, stream)) = input.split_first() else { return };
    let (codec, sniffed) = match choice % 3 {
        0 => (Codec::Gzip, Sniffed::Plain),
        1 => (Codec::Gzip, Sniffed::Gzip),
        _ => (Codec::Zstd, Sniffed::Zstd),
    };
    let whole = read(sniffed, stream, usize::MAX);
    for cut in [1, usize::from(choice) / 3 + 2] {
        let pieces = read(sniffed, stream, cut);
        // Of the block that is wrong, a part may have been given out, as it came.
        let (short, long) =
            if whole.0.len() < pieces.0.len() { (&whole, &pieces) } else { (&pieces, &whole) };
        let may_differ = if whole.1.is_err() { 128 << 10 } else { 0 };
        let surplus = long.0.len() - short.0.len();
        assert!(long.0.starts_with(&short.0) && surplus <= may_differ, "{surplus} bytes more or less");
        let code = |end: &Result<(), FrameError>| end.as_ref().err().map(FrameError::code);
        assert_eq!(code(&whole.1), code(&pieces.1), "{:?} and {:?}", whole.1, pieces.1);
    }
    let compression = Compression::new(codec, i32::from(choice / 3) % 9 + 1).expect("a legal level");
    let mut encoder = FrameEncoder::new(compression).expect("there is memory");
    let (mut index, mut made, mut frame) = (FrameIndex::new(), Vec::new(), Vec::new());
    let window = stream.len() / 3 + 1;
    for window in stream.chunks(window) {
        encoder.compress(window, &mut frame).expect("anything can be compressed");
        index.push_frame(&frame).expect("a frame");
        made.extend_from_slice(&frame);
    }
    assert_eq!(index.bytes(), made.len() as u64);
    let sniffed = match codec {
        Codec::Gzip => Sniffed::Gzip,
        Codec::Zstd => Sniffed::Zstd,
    };
    if codec == Codec::Zstd && !made.is_empty() {
        let table = SeekTable::new(&index, window as u64, stream.len() as u64).expect("a whole index");
        made.extend(table.part(0, usize::MAX));
    }
    if !made.is_empty() {
        let (plain, end) = read(sniffed, &made, 1000);
        assert_eq!(end, Ok(()));
        assert!(stream.starts_with(&plain) && plain.len() == stream.len().min(MAX_PLAIN));
    }
}
