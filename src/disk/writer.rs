//! Writes a new disk from data that arrives in any order and in pieces of any size.
//!
//! Small pieces that follow each other are gathered, so that the file sees writes of up to 1 MiB. Zeros are
//! not written: what the file does not hold is zero already. Everything blocks; an import runs it on a
//! thread of its own.

use std::ops::Range;
use std::path::Path;

use super::error::DiskError;
use super::file::DiskFile;
use super::map::AllocationMap;
use super::vhd_placement::VhdPlacement;
use crate::ids::DiskFormat;

/// Bytes that are gathered into one write; writes do not cross multiples of it.
const WINDOW_BYTES: u64 = 1 << 20;
/// What is tested for zeros as a whole, and the file systems' usual block.
const PAGE_BYTES: u64 = 4096;
/// Shorter runs of zeros between data are written with it: a hole there would cost more than it saves.
const MIN_HOLE_BYTES: u64 = 16 << 10;
/// The kernel is asked to begin writing back each time that this much was written.
const WRITEBACK_BYTES: u64 = 16 << 20;
/// Largest raw disk: a whole number of sectors, and a length that a file can have.
const MAX_RAW_BYTES: u64 = i64::MAX as u64 / 512 * 512;

/// What a VHD calls itself. Derived from the content, so that the same content gives the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VhdIdentity {
    /// The VHD's unique id.
    pub unique_id: [u8; 16],
    /// Seconds since 2000-01-01T00:00:00Z.
    pub timestamp: u32,
}

/// A disk that was written and is on stable storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Which parts were written with anything but zeros.
    pub map: AllocationMap,
    /// The disk's size in bytes.
    pub virtual_size: u64,
    /// Bytes that the file takes on its file system.
    pub physical_bytes: u64,
}

/// A new disk in the making. Dropped before [`finish`](Self::finish), it leaves a file that is no disk yet,
/// for its owner to remove.
#[derive(Debug)]
pub struct DiskWriter {
    file: DiskFile,
    placement: Placement,
    /// The size, if it was known from the start.
    size: Option<u64>,
    map: AllocationMap,
    /// First byte after everything that was written, zeros included.
    end: u64,
    gathered: Gathered,
    pieces: Vec<Piece>,
    bytes_written: u64,
    dirty: Dirty,
}

/// How addresses of the disk become addresses in the file.
#[derive(Debug)]
enum Placement {
    Raw,
    Vhd(Box<VhdPlacement>),
}

/// Data that follows on itself and waits for more, within one window.
#[derive(Debug, Default)]
struct Gathered {
    offset: u64,
    data: Vec<u8>,
}

/// Part of one window, by position in it.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: usize,
    end: usize,
    kind: PieceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PieceKind {
    /// Has to be written as it is.
    Data,
    /// Zeros where the file holds nothing.
    Hole,
    /// Zeros where the file may hold something else.
    Cleared,
}

/// What was written since the kernel was last asked to write back.
#[derive(Debug, Default)]
struct Dirty {
    start: u64,
    end: u64,
    bytes: u64,
}

impl DiskWriter {
    /// Makes the file at `path`, which must not exist. With `size` the disk's size in bytes is known from
    /// the start; without, [`finish`](Self::finish) tells it, and a VHD keeps room for the largest table.
    ///
    /// # Errors
    ///
    /// Before anything is made: [`DiskError::BadSize`], and [`DiskError::VhdLimit`] for a VHD above
    /// 2040 GiB. Then what the file system says; a raw disk that is too large for it is refused here.
    pub fn create(
        path: &Path,
        format: DiskFormat,
        size: Option<u64>,
        identity: VhdIdentity,
    ) -> Result<Self, DiskError> {
        if let Some(size) = size {
            check_size(size)?;
        }
        let placement = match format {
            DiskFormat::Raw => Placement::Raw,
            DiskFormat::Vhd => Placement::Vhd(Box::new(VhdPlacement::new(size, identity)?)),
        };
        let file = DiskFile::create(path)?;
        if let (Placement::Raw, Some(size)) = (&placement, size) {
            file.set_len(size)?;
        }
        Ok(Self {
            file,
            placement,
            size,
            map: AllocationMap::new(size.unwrap_or(0)),
            end: 0,
            gathered: Gathered::default(),
            pieces: Vec::new(),
            bytes_written: 0,
            dirty: Dirty::default(),
        })
    }

    /// Writes `data` at `offset`. What is written twice ends as the last one wrote it.
    ///
    /// # Errors
    ///
    /// [`DiskError::BeyondEnd`] past the size, [`DiskError::VhdLimit`] past what a VHD can hold,
    /// [`DiskError::NoSpace`], and what else the file system says. The disk cannot be finished then.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.check_end(offset, data.len() as u64)?;
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            if !self.gathered.data.is_empty() && self.gathered.end() != at {
                self.flush()?;
            }
            let left_in_window = WINDOW_BYTES - at % WINDOW_BYTES;
            let (part, after) = rest.split_at_checked(left_in_window as usize).unwrap_or((rest, &[]));
            if part.len() as u64 == WINDOW_BYTES {
                // A whole window needs no copy. Nothing is gathered: it would end here, and had been flushed.
                self.store(at, part)?;
            } else {
                self.gathered.push(at, part);
                if part.len() as u64 == left_in_window {
                    self.flush()?;
                }
            }
            at += part.len() as u64;
            rest = after;
        }
        self.end = self.end.max(at);
        Ok(())
    }

    /// Ends the disk at `virtual_size` bytes, writes what its format asks for, and waits until everything
    /// is on stable storage. (The folder's entry is not: that is for whoever puts the file in its place.)
    ///
    /// # Errors
    ///
    /// [`DiskError::SizeMismatch`] when another size was announced, [`DiskError::BeyondEnd`] when more was
    /// written, [`DiskError::BadSize`] and [`DiskError::VhdLimit`] for sizes that cannot be, and what the
    /// file system says.
    pub fn finish(mut self, virtual_size: u64) -> Result<Written, DiskError> {
        check_size(virtual_size)?;
        if let Some(expected) = self.size.filter(|size| *size != virtual_size) {
            return Err(DiskError::SizeMismatch { expected, found: virtual_size });
        }
        if self.end > virtual_size {
            return Err(DiskError::BeyondEnd { offset: 0, len: self.end, size: virtual_size });
        }
        self.flush()?;
        self.map.grow_to(virtual_size);
        match &self.placement {
            Placement::Raw => self.file.set_len(virtual_size)?,
            Placement::Vhd(placement) => placement.finish(&self.file, virtual_size)?,
        }
        self.file.sync()?;
        let physical_bytes = self.file.physical_bytes()?;
        Ok(Written { map: self.map, virtual_size, physical_bytes })
    }

    /// Bytes of the disk that went to the file so far; zeros that became holes are not among them.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    fn check_end(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let size = self.size.unwrap_or(MAX_RAW_BYTES);
        match offset.checked_add(len) {
            Some(end) if end <= size => match &self.placement {
                Placement::Vhd(placement) => placement.check_end(end),
                Placement::Raw => Ok(()),
            },
            _ => Err(DiskError::BeyondEnd { offset, len, size }),
        }
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        let gathered = std::mem::take(&mut self.gathered);
        if !gathered.data.is_empty() {
            self.store(gathered.offset, &gathered.data)?;
        }
        // Keeps the allocation.
        self.gathered = gathered;
        self.gathered.data.clear();
        Ok(())
    }

    /// Puts a part of one window in the file.
    fn store(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.map.grow_to(offset + data.len() as u64);
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.clear();
        cut_into_pieces(&self.map, offset, data, &mut pieces);
        let mut run = 0..0;
        for &Piece { start, end, kind } in &pieces {
            let is_short = ((end - start) as u64) < MIN_HOLE_BYTES;
            match kind {
                PieceKind::Hole => {}
                PieceKind::Cleared if !is_short => self.clear(offset + start as u64, (end - start) as u64)?,
                PieceKind::Cleared | PieceKind::Data => {
                    if run.is_empty() || (start - run.end) as u64 >= MIN_HOLE_BYTES {
                        self.write_out(offset, data, run)?;
                        run = start..end;
                    } else {
                        run.end = end;
                    }
                }
            }
        }
        self.pieces = pieces;
        self.write_out(offset, data, run)
    }

    /// Writes a run of `data`, which belongs at `offset` of the disk, and marks it in the map.
    fn write_out(&mut self, offset: u64, data: &[u8], run: Range<usize>) -> Result<(), DiskError> {
        let offset = offset + run.start as u64;
        let data = data.get(run).unwrap_or_default();
        // Marked first: whatever part of it reaches the file, the map knows.
        self.map.set_range(offset, data.len() as u64);
        match &mut self.placement {
            Placement::Raw => {
                self.file.write_all_at(data, offset)?;
                self.dirty.add(&self.file, offset, data.len() as u64);
            }
            Placement::Vhd(placement) => {
                for (file_offset, part) in placement.allocate(&self.file, offset, data)? {
                    self.file.write_all_at(part, file_offset)?;
                    self.dirty.add(&self.file, file_offset, part.len() as u64);
                }
            }
        }
        self.bytes_written += data.len() as u64;
        Ok(())
    }

    fn clear(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        match &self.placement {
            Placement::Raw => self.file.write_zeros_at(len, offset),
            Placement::Vhd(placement) => {
                placement.allocated(offset, len).try_for_each(|(at, len)| self.file.write_zeros_at(len, at))
            }
        }
    }
}

impl Gathered {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    fn push(&mut self, offset: u64, data: &[u8]) {
        if self.data.is_empty() {
            self.offset = offset;
        }
        self.data.extend_from_slice(data);
    }
}

impl Dirty {
    fn add(&mut self, file: &DiskFile, offset: u64, len: u64) {
        let end = offset + len;
        (self.start, self.end) = match self.bytes {
            0 => (offset, end),
            _ => (self.start.min(offset), self.end.max(end)),
        };
        self.bytes += len;
        if self.bytes >= WRITEBACK_BYTES {
            file.begin_writeback(self.start, self.end - self.start);
            *self = Self::default();
        }
    }
}

fn check_size(size: u64) -> Result<(), DiskError> {
    if size == 0 || !size.is_multiple_of(512) || size > MAX_RAW_BYTES {
        return Err(DiskError::BadSize { size });
    }
    Ok(())
}

/// Cuts `data` at page boundaries of the disk and puts pages of one kind together.
fn cut_into_pieces(map: &AllocationMap, offset: u64, data: &[u8], pieces: &mut Vec<Piece>) {
    let mut start = 0;
    while start < data.len() {
        let at = offset + start as u64;
        let length = (PAGE_BYTES - at % PAGE_BYTES).min((data.len() - start) as u64) as usize;
        let page = data.get(start..start + length).unwrap_or_default();
        let kind = match (is_zero(page), map.is_data(at)) {
            (false, _) => PieceKind::Data,
            (true, false) => PieceKind::Hole,
            (true, true) => PieceKind::Cleared,
        };
        match pieces.last_mut() {
            Some(last) if last.kind == kind => last.end = start + length,
            _ => pieces.push(Piece { start, end: start + length, kind }),
        }
        start += length;
    }
}

/// Whether all bytes are zero. Reads 64 bytes at a time, and stops at the first that are not.
fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    let none_set = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) == 0;
    chunks.iter().all(|chunk| none_set(chunk)) && none_set(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::open::open_disk;
    use proptest::prelude::*;
    use tempfile::TempDir;

    const IDENTITY: VhdIdentity = VhdIdentity { unique_id: [0x5A; 16], timestamp: 700_000_000 };
    const MIB: u64 = 1 << 20;

    fn writer(dir: &TempDir, format: DiskFormat, size: Option<u64>) -> Result<DiskWriter, DiskError> {
        DiskWriter::create(&dir.path().join("disk"), format, size, IDENTITY)
    }

    fn read_all(dir: &TempDir, format: DiskFormat) -> Vec<u8> {
        let disk = open_disk(&dir.path().join("disk"), format).unwrap();
        let mut bytes = vec![0xEE; disk.virtual_size() as usize];
        disk.reader().read_at(0, &mut bytes).unwrap();
        bytes
    }

    /// What one write puts down: a byte repeated, or a mix of data and zero pages.
    #[derive(Debug, Clone)]
    struct Put {
        offset: u64,
        data: Vec<u8>,
    }

    fn put(size: u64) -> impl Strategy<Value = Put> {
        let offset = prop_oneof![0..size, (0..size / 4096).prop_map(|page| page * 4096)];
        let len = prop_oneof![1..2000_usize, 1..200_000_usize, Just(1_usize << 20), Just(3_usize << 20)];
        (offset, len, 0..4_u8, any::<u8>()).prop_map(move |(offset, len, shape, seed)| {
            let len = len.min((size - offset) as usize);
            let data = (0..len).map(|at| match shape {
                0 => 0,
                1 => seed | 1,
                // Runs of zeros of 4, 8, 12… KiB between data.
                2 if (at / 4096) % 7 < 1 + usize::from(seed % 6) => 0,
                3 if at % 9973 != 0 => 0,
                _ => (at / 512) as u8 | 1,
            });
            Put { offset, data: data.collect() }
        })
    }

    fn check_random_writes(
        format: DiskFormat,
        known: bool,
        size: u64,
        puts: &[Put],
    ) -> Result<(), TestCaseError> {
        let dir = tempfile::tempdir().unwrap();
        let mut model = vec![0; size as usize];
        let mut writer = writer(&dir, format, known.then_some(size)).unwrap();
        for Put { offset, data } in puts {
            writer.write(*offset, data).unwrap();
            model[*offset as usize..][..data.len()].copy_from_slice(data);
        }
        let written = writer.finish(size).unwrap();
        prop_assert!(read_all(&dir, format) == model, "content differs");
        for extent in written.map.extents().filter(|extent| !extent.data) {
            let range = extent.start as usize..extent.end() as usize;
            prop_assert!(is_zero(&model[range]), "{extent:?} is promised to be zero");
        }
        prop_assert_eq!(written.virtual_size, size);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn writes_in_any_order_and_over_each_other_give_what_a_plain_buffer_gives(
            raw in any::<bool>(),
            known in any::<bool>(),
            puts in prop::collection::vec(put(7 * MIB + 1536), 0..12),
        ) {
            let format = if raw { DiskFormat::Raw } else { DiskFormat::Vhd };
            check_random_writes(format, known, 7 * MIB + 1536, &puts)?;
        }

        #[test]
        fn how_the_data_is_cut_changes_neither_content_nor_map(cuts in prop::collection::vec(1..90_000_usize, 1..60)) {
            let mut body = vec![0; 4 << 20];
            for (page, bytes) in body.chunks_mut(4096).enumerate() {
                if page % 50 < 13 { bytes.fill(page as u8 | 1) }
            }
            let whole = tempfile::tempdir().unwrap();
            let mut in_one = writer(&whole, DiskFormat::Raw, None).unwrap();
            in_one.write(0, &body).unwrap();
            let cut = tempfile::tempdir().unwrap();
            let mut in_pieces = writer(&cut, DiskFormat::Raw, None).unwrap();
            let (mut at, mut sizes) = (0, cuts.iter().cycle());
            while at < body.len() {
                let end = (at + sizes.next().unwrap()).min(body.len());
                in_pieces.write(at as u64, &body[at..end]).unwrap();
                at = end;
            }
            let (one, pieces) = (in_one.finish(4 * MIB).unwrap(), in_pieces.finish(4 * MIB).unwrap());
            prop_assert_eq!(one, pieces);
            prop_assert!(read_all(&cut, DiskFormat::Raw) == body);
        }
    }

    #[test]
    fn zeros_become_holes_and_are_not_counted_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(&dir, DiskFormat::Raw, None).unwrap();
        writer.write(0, &vec![0; 64 << 20]).unwrap();
        writer.write(64 * MIB, &[1; 4096]).unwrap();
        writer.write(64 * MIB + 4096, &vec![0; 8 << 20]).unwrap();
        let written = writer.finish(100 * MIB).unwrap();
        assert_eq!(written.map.data_bytes(), 64 << 10);
        assert!(written.physical_bytes <= 64 << 10, "{}", written.physical_bytes);
        assert_eq!(std::fs::metadata(dir.path().join("disk")).unwrap().len(), 100 * MIB);
    }

    #[test]
    fn small_pieces_are_gathered_into_writes_of_a_mebibyte() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(&dir, DiskFormat::Raw, None).unwrap();
        let mut seen = Vec::new();
        for at in 0..3 * 1024 {
            writer.write(at * 1024, &[7; 1024]).unwrap();
            if seen.last() != Some(&writer.bytes_written()) {
                seen.push(writer.bytes_written());
            }
        }
        assert_eq!(seen, [0, MIB, 2 * MIB, 3 * MIB]);
    }

    #[test]
    fn a_size_that_no_disk_has_is_refused_before_a_file_is_made() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, 511, 513, u64::MAX, 1 << 63] {
            for format in [DiskFormat::Raw, DiskFormat::Vhd] {
                let found = writer(&dir, format, Some(size));
                assert!(matches!(found, Err(DiskError::BadSize { .. })), "{size}: {found:?}");
            }
        }
        let found = writer(&dir, DiskFormat::Vhd, Some((2040 << 30) + 512));
        assert!(matches!(found, Err(DiskError::VhdLimit { .. })), "{found:?}");
        assert!(!dir.path().join("disk").exists());
    }

    #[test]
    fn data_past_the_size_is_refused_and_so_is_another_size_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut known = writer(&dir, DiskFormat::Raw, Some(4096)).unwrap();
        let found = known.write(4095, &[1, 2]);
        assert!(matches!(found, Err(DiskError::BeyondEnd { offset: 4095, len: 2, size: 4096 })), "{found:?}");
        let found = known.write(u64::MAX, &[1, 2]);
        assert!(matches!(found, Err(DiskError::BeyondEnd { .. })), "{found:?}");
        let found = known.finish(8192);
        assert!(matches!(found, Err(DiskError::SizeMismatch { expected: 4096, found: 8192 })), "{found:?}");

        let dir = tempfile::tempdir().unwrap();
        let mut unknown = writer(&dir, DiskFormat::Vhd, None).unwrap();
        let found = unknown.write((2040 << 30) - 1, &[0, 0]);
        assert!(matches!(found, Err(DiskError::VhdLimit { .. })), "{found:?}");
        unknown.write(8192, &[0]).unwrap();
        let found = unknown.finish(8192);
        assert!(matches!(found, Err(DiskError::BeyondEnd { len: 8193, size: 8192, .. })), "{found:?}");
    }

    #[test]
    fn a_raw_disk_that_the_file_system_cannot_hold_is_refused_at_once() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let disk = dir.path().join("disk");
        // tmpfs takes any size that a file can have; ext4 ends at 16 TiB. Either way nothing is cut short.
        match DiskWriter::create(&disk, DiskFormat::Raw, Some(MAX_RAW_BYTES), IDENTITY) {
            Ok(writer) => {
                let written = writer.finish(MAX_RAW_BYTES).unwrap();
                assert_eq!(std::fs::metadata(disk).unwrap().len(), MAX_RAW_BYTES);
                assert_eq!(written.map.data_bytes(), 0);
            }
            Err(error) => {
                assert!(matches!(error, DiskError::FileTooLarge { size: MAX_RAW_BYTES, .. }), "{error:?}")
            }
        }
    }
}
