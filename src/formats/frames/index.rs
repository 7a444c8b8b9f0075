//! Where the frames of a compressed stream are, and what they were.
//!
//! Stored in segments of whole entries: per frame its length (u32) and the XXH64 of its bytes (u64), little-endian.

use std::ops::Range;

use xxhash_rust::xxh64::xxh64;

/// Version of the segments' encoding.
pub const INDEX_VERSION: u32 = 1;
/// Length in bytes of one frame's entry in a segment.
pub const ENTRY_BYTES: usize = 12;
/// The most frames that an index holds: as many as a seek table can name.
pub(super) const MAX_FRAMES: u64 = 0x0800_0000;
/// Number of frames from one kept sum of lengths to the next.
const FRAMES_PER_SUM: usize = 64;
/// Least number of entries by which the index grows.
const LEAST_GROWTH: usize = 64;

/// Why a frame index is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Of an encoding that this program does not know.
    #[error("the frame index's version is wrong: expected {INDEX_VERSION}, found {found}")]
    UnknownVersion {
        /// What it says.
        found: u32,
    },
    /// Not a whole number of entries.
    #[error(
        "the frame index's segment from frame {frame} on is wrong: expected a multiple of {ENTRY_BYTES} bytes, \
         found {found}"
    )]
    WrongLength {
        /// Number of the segment's first frame.
        frame: u64,
        /// The segment's length in bytes.
        found: usize,
    },
    /// A frame's length is none that a frame can have.
    #[error("the length of frame {frame} is wrong: expected 1 to {}, found {found}", u32::MAX)]
    BadFrame {
        /// The frame's number.
        frame: u64,
        /// Its length in bytes.
        found: u64,
    },
    /// More frames than an index can hold.
    #[error("too many frames: expected at most {MAX_FRAMES}, found {found}")]
    TooMany {
        /// How many there are, at least.
        found: u64,
    },
    /// The index is not that of a whole stream of that length.
    #[error("the frame index is of another stream: expected {expected} frames, found {found}")]
    WrongCount {
        /// How many such a stream has.
        expected: u64,
        /// How many there are.
        found: u64,
    },
}

impl IndexError {
    /// A stable name in snake case for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownVersion { .. } => "frame_index_version",
            Self::WrongLength { .. } => "frame_index_length",
            Self::BadFrame { .. } => "frame_index_bad_frame",
            Self::TooMany { .. } => "frame_index_too_many",
            Self::WrongCount { .. } => "frame_index_count",
        }
    }
}

/// What is known of one frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameEntry {
    /// Its length in bytes.
    pub len: u32,
    /// XXH64 of its bytes, with seed 0.
    pub hash: u64,
}

impl FrameEntry {
    /// The entry of a frame. `None` when no frame can be that long.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let len = u32::try_from(frame.len()).ok().filter(|&len| len > 0)?;
        Some(Self { len, hash: xxh64(frame, 0) })
    }

    /// Whether these are that frame's bytes.
    pub fn is_of(&self, frame: &[u8]) -> bool {
        Self::of(frame).as_ref() == Some(self)
    }
}

/// A place in a compressed stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePlace {
    /// The frame's number, from 0.
    pub frame: u64,
    /// Bytes of the frame that lie before the place.
    pub within: u32,
}

/// The frames of a compressed stream, from the first one on. Takes at most 16 bytes of memory a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameIndex {
    lengths: Vec<u32>,
    hashes: Vec<u64>,
    /// Bytes before frame 0, 64, 128, ...
    sums: Vec<u64>,
    bytes: u64,
}

impl FrameIndex {
    /// An index without frames.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads an index from its segments, in order.
    ///
    /// # Errors
    /// When the version is another, or a segment is refused.
    pub fn decode<'a>(
        version: u32,
        segments: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, IndexError> {
        if version != INDEX_VERSION {
            return Err(IndexError::UnknownVersion { found: version });
        }
        let mut index = Self::new();
        for segment in segments {
            index.append_segment(segment)?;
        }
        Ok(index)
    }

    /// Appends the frames of a segment; nothing of it when it is refused.
    ///
    /// # Errors
    /// When it is not whole, names an empty frame, or holds too many frames.
    pub fn append_segment(&mut self, segment: &[u8]) -> Result<(), IndexError> {
        let (entries, rest) = segment.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(IndexError::WrongLength { frame: self.frames(), found: segment.len() });
        }
        let read = |&[a, b, c, d, hash @ ..]: &[u8; ENTRY_BYTES]| FrameEntry {
            len: u32::from_le_bytes([a, b, c, d]),
            hash: u64::from_le_bytes(hash),
        };
        if let Some(at) = entries.iter().position(|entry| read(entry).len == 0) {
            return Err(IndexError::BadFrame { frame: self.frames() + at as u64, found: 0 });
        }
        self.check_room(entries.len() as u64)?;
        entries.iter().for_each(|entry| self.add(read(entry)));
        Ok(())
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// When its length is none that a frame can have, or there are too many.
    pub fn push(&mut self, entry: FrameEntry) -> Result<(), IndexError> {
        if entry.len == 0 {
            return Err(IndexError::BadFrame { frame: self.frames(), found: 0 });
        }
        self.check_room(1)?;
        self.add(entry);
        Ok(())
    }

    /// Appends the frame of these bytes.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_frame(&mut self, frame: &[u8]) -> Result<(), IndexError> {
        let refused = IndexError::BadFrame { frame: self.frames(), found: frame.len() as u64 };
        self.push(FrameEntry::of(frame).ok_or(refused)?)
    }

    fn check_room(&self, more: u64) -> Result<(), IndexError> {
        let found = self.frames().saturating_add(more);
        if found > MAX_FRAMES { Err(IndexError::TooMany { found }) } else { Ok(()) }
    }

    fn add(&mut self, entry: FrameEntry) {
        if self.lengths.len().is_multiple_of(FRAMES_PER_SUM) {
            grow(&mut self.sums);
            self.sums.push(self.bytes);
        }
        grow(&mut self.lengths);
        grow(&mut self.hashes);
        self.lengths.push(entry.len);
        self.hashes.push(entry.hash);
        self.bytes += u64::from(entry.len);
    }

    /// Number of frames.
    pub fn frames(&self) -> u64 {
        self.lengths.len() as u64
    }

    /// Length in bytes of all frames together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is known of a frame.
    pub fn entry(&self, frame: u64) -> Option<FrameEntry> {
        let at = usize::try_from(frame).ok()?;
        Some(FrameEntry { len: *self.lengths.get(at)?, hash: *self.hashes.get(at)? })
    }

    /// Where a frame begins, in bytes from the start of the stream; for the frame after the last one, where that ends.
    pub fn start_of(&self, frame: u64) -> Option<u64> {
        let at = usize::try_from(frame).ok()?;
        if at == self.lengths.len() {
            return Some(self.bytes);
        }
        let block = at / FRAMES_PER_SUM;
        let before = self.lengths.get(block * FRAMES_PER_SUM..at)?;
        Some(self.sums.get(block)? + before.iter().map(|&len| u64::from(len)).sum::<u64>())
    }

    /// The frame that holds byte `offset` of the stream. `None` past the recorded frames.
    pub fn locate(&self, offset: u64) -> Option<FramePlace> {
        if offset >= self.bytes {
            return None;
        }
        let block = self.sums.partition_point(|&sum| sum <= offset).checked_sub(1)?;
        let mut start = *self.sums.get(block)?;
        let first = block * FRAMES_PER_SUM;
        for (at, &len) in self.lengths.iter().enumerate().skip(first) {
            let within = offset - start;
            match u32::try_from(within) {
                Ok(within) if within < len => return Some(FramePlace { frame: at as u64, within }),
                _ => start += u64::from(len),
            }
        }
        None
    }

    /// The entries of some frames as a segment; what is not there is left out.
    pub fn segment(&self, frames: Range<u64>) -> Vec<u8> {
        let at = |frame| usize::try_from(frame).unwrap_or(usize::MAX).min(self.lengths.len());
        let (start, end) = (at(frames.start), at(frames.end));
        let lengths = self.lengths.get(start..end).unwrap_or_default();
        let hashes = self.hashes.get(start..end).unwrap_or_default();
        let mut segment = Vec::with_capacity(lengths.len() * ENTRY_BYTES);
        for (len, hash) in lengths.iter().zip(hashes) {
            segment.extend(len.to_le_bytes());
            segment.extend(hash.to_le_bytes());
        }
        segment
    }

    /// Memory in bytes that the entries take.
    pub fn memory_bytes(&self) -> u64 {
        let lengths = self.lengths.capacity() * size_of::<u32>();
        let others = (self.hashes.capacity() + self.sums.capacity()) * size_of::<u64>();
        (lengths + others) as u64
    }
}

/// Makes room for one more, a quarter at a time: doubling would leave up to half of the memory unused.
fn grow<T>(entries: &mut Vec<T>) {
    if entries.len() == entries.capacity() {
        entries.reserve_exact((entries.len() / 4).max(LEAST_GROWTH));
    }
}
