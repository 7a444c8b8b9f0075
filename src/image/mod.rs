//! Images as seekable files that do not exist yet: layouts say what each byte is, the producer makes them.

use crate::formats::Piece;

pub mod budget;
pub mod compress;
pub mod compute;
pub mod pools;
pub mod produce;
pub mod raw_layout;
pub mod vhd_layout;
pub mod xva_layout;

/// An image file as pure data: its length, and what lies at any place of it, without having made the bytes
/// before. Calls are arithmetic; they never block.
pub trait Layout: Send + Sync {
    /// The image's length in bytes.
    fn len(&self) -> u64;

    /// Whether the image has no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes of the disk that the layout was made for.
    fn virtual_size(&self) -> u64;

    /// What the image holds from byte `at` on: 1 to `limit` bytes of one kind, and as many as is simple to
    /// say; an empty piece only at or past the end, or when `limit` is 0.
    fn piece_at(&self, at: u64, limit: u64) -> Piece;

    /// Where a chunk of about `chunk` bytes that begins at `at` best ends, so that what belongs together is made
    /// together: behind `at`, and at most `chunk` and [`budget::CHUNK_ROOM_BYTES`] further. Zeros in such a chunk do not
    /// end it. `None`: it does not matter.
    fn cut_at(&self, at: u64, chunk: u64) -> Option<u64> {
        let _ = (at, chunk);
        None
    }
}
