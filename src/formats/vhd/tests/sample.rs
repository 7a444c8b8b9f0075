//! Small images, made byte by byte without the codec's own encoders, and what is read from them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;

use super::super::{StreamDecoder, VhdError, VhdIndex, VhdSummary, checksum, open};
use crate::formats::ImageEvent;

/// Block size of the samples.
pub const BLOCK: u64 = 512 << 10;
/// The virtual size of the samples: the last of three blocks is cut short.
pub const SIZE: u64 = 3 * BLOCK - 1536;
/// Where the samples' BAT begins.
pub const TABLE: usize = 1536;
/// First sector of the first block that lies in the sample; a gap of four sectors is before it.
pub const FIRST: u32 = 8;
/// Sectors of a block with its bitmap.
pub const SLOT: u32 = 1 + 1024;

/// An image whose parts can be changed and sealed again.
#[derive(Clone)]
pub struct Sample {
    pub bytes: Vec<u8>,
}

impl Sample {
    /// A dynamic disk with block 2 before block 0, a gap before each, block 1 missing, and one in three sectors
    /// of block 0 missing.
    pub fn dynamic() -> Self {
        static MADE: LazyLock<Sample> = LazyLock::new(Sample::make_dynamic);
        MADE.clone()
    }

    fn make_dynamic() -> Self {
        let mut bytes = vec![0; TABLE];
        bytes[..512].copy_from_slice(&footer(3, SIZE));
        bytes[512..1536].copy_from_slice(&header(TABLE as u64, 4, BLOCK as u32));
        for entry in [FIRST + SLOT + 3, u32::MAX, FIRST, u32::MAX] {
            bytes.extend_from_slice(&entry.to_be_bytes());
        }
        bytes.resize(TABLE + 512, 0xFF);
        bytes.resize(FIRST as usize * 512, 0xEE);
        bytes.extend_from_slice(&[0xFF; 512]);
        bytes.extend(content(2));
        bytes.extend_from_slice(&[0xEE; 3 * 512]);
        let bitmap: Vec<u8> =
            (0..512).map(|at| if at < 128 { [0x6D, 0xB6, 0xDB][at % 3] } else { 0 }).collect();
        bytes.extend_from_slice(&bitmap);
        bytes.extend(content(0));
        let head = bytes[..512].to_vec();
        bytes.extend_from_slice(&head);
        Self { bytes }
    }

    /// A dynamic disk without any block, which is short.
    pub fn empty() -> Self {
        let mut bytes = Self::dynamic().bytes;
        bytes[TABLE..TABLE + 16].fill(0xFF);
        bytes.truncate(2048);
        let head = bytes[..512].to_vec();
        bytes.extend_from_slice(&head);
        Self { bytes }
    }

    /// A fixed disk.
    pub fn fixed() -> Self {
        let mut bytes: Vec<u8> = content(5).take(1536).collect();
        bytes.extend_from_slice(&footer(2, 1536));
        Self { bytes }
    }

    /// A differencing disk with the names of its parent in a locator and in the header.
    pub fn child() -> Self {
        let mut sample = Self::dynamic();
        sample.footers(|footer| put(footer, 60, &4u32.to_be_bytes()));
        sample.header(|header| {
            put(header, 40, &[9; 16]);
            let name: Vec<u8> =
                "C:\\elsewhere\\parent.vhd".encode_utf16().flat_map(u16::to_be_bytes).collect();
            put(header, 64, &name);
            put(header, 576, b"W2ru");
            put(header, 580, &512u32.to_be_bytes());
            put(header, 584, &24u32.to_be_bytes());
            put(header, 592, &2048u64.to_be_bytes());
        });
        let name: Vec<u8> = ".\\nearby.vhd".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(name.len(), 24);
        put(&mut sample.bytes, 2048, &name);
        sample
    }

    /// An empty disk of XenServer's kind: 2 MiB blocks, creator `tap` 1.3, a batmap behind the BAT.
    pub fn batmap() -> Self {
        let mut sample = Self::empty();
        sample.header(|header| put(header, 32, &(2u32 << 20).to_be_bytes()));
        sample.footers(|footer| {
            put(footer, 28, b"tap\0");
            put(footer, 32, &0x0001_0003u32.to_be_bytes());
        });
        let tail = sample.bytes.split_off(2048);
        let mut batmap = vec![0; 1024];
        put(&mut batmap, 0, b"tdbatmap");
        put(&mut batmap, 8, &2560u64.to_be_bytes());
        put(&mut batmap, 16, &1u32.to_be_bytes());
        put(&mut batmap, 20, &0x0001_0002u32.to_be_bytes());
        put(&mut batmap, 24, &u32::MAX.to_be_bytes());
        sample.bytes.extend(batmap);
        sample.bytes.extend(tail);
        sample
    }

    /// Where the trailing footer is.
    pub fn tail(&self) -> usize {
        self.bytes.len() - 512
    }

    /// Changes both footers, and makes their checksums right.
    pub fn footers(&mut self, change: impl Fn(&mut [u8])) {
        change(&mut self.bytes[..512]);
        seal(&mut self.bytes[..512], 64);
        self.trailing(change);
    }

    /// Changes the trailing footer, and makes its checksum right.
    pub fn trailing(&mut self, change: impl Fn(&mut [u8])) {
        let tail = self.tail();
        change(&mut self.bytes[tail..]);
        seal(&mut self.bytes[tail..], 64);
    }

    /// Changes the dynamic header, and makes its checksum right.
    pub fn header(&mut self, change: impl Fn(&mut [u8])) {
        change(&mut self.bytes[512..1536]);
        seal(&mut self.bytes[512..1536], 36);
    }

    /// Changes a BAT entry.
    pub fn entry(&mut self, index: usize, entry: u32) {
        put(&mut self.bytes, TABLE + index * 4, &entry.to_be_bytes());
    }
}

/// Writes bytes over others.
pub fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// Makes the checksum right whose field is at `at`.
pub fn seal(bytes: &mut [u8], at: usize) {
    let sum = checksum(bytes, at);
    put(bytes, at, &sum.to_be_bytes());
}

/// The data of a block: no two sectors of a sample are equal.
pub fn content(block: u64) -> impl Iterator<Item = u8> {
    (0..BLOCK).map(move |at| match at % 512 {
        0 => 0xA5,
        1 => block as u8,
        2 => (at >> 17) as u8,
        3 => (at >> 9) as u8,
        _ => 0x11,
    })
}

fn footer(kind: u32, size: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    put(&mut bytes, 0, b"conectix");
    put(&mut bytes, 8, &2u32.to_be_bytes());
    put(&mut bytes, 12, &0x0001_0000u32.to_be_bytes());
    put(&mut bytes, 16, &(if kind == 2 { u64::MAX } else { 512 }).to_be_bytes());
    put(&mut bytes, 28, b"win \x00\x06\x00\x01Wi2k");
    put(&mut bytes, 40, &size.to_be_bytes());
    put(&mut bytes, 48, &size.to_be_bytes());
    put(&mut bytes, 60, &kind.to_be_bytes());
    put(&mut bytes, 68, &[7; 16]);
    seal(&mut bytes, 64);
    bytes
}

fn header(table: u64, entries: u32, block: u32) -> [u8; 1024] {
    let mut bytes = [0; 1024];
    put(&mut bytes, 0, b"cxsparse");
    put(&mut bytes, 8, &u64::MAX.to_be_bytes());
    put(&mut bytes, 16, &table.to_be_bytes());
    put(&mut bytes, 24, &0x0001_0000u32.to_be_bytes());
    put(&mut bytes, 28, &entries.to_be_bytes());
    put(&mut bytes, 32, &block.to_be_bytes());
    seal(&mut bytes, 36);
    bytes
}

/// What was read from a stream: its size, and the data in runs that do not touch each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    pub size: u64,
    pub runs: BTreeMap<u64, Vec<u8>>,
}

impl Disk {
    /// Takes data, which must be new and inside of the disk.
    pub fn add(&mut self, offset: u64, data: &[u8]) {
        assert!(!data.is_empty(), "an empty event");
        if let Some((&before, run)) = self.runs.range_mut(..offset).next_back() {
            let end = before + run.len() as u64;
            assert!(end <= offset, "byte {offset} came twice");
            if end == offset {
                run.extend_from_slice(data);
                self.join(before);
                return;
            }
        }
        assert!(!self.runs.contains_key(&offset), "byte {offset} came twice");
        self.runs.insert(offset, data.to_vec());
        self.join(offset);
    }

    fn join(&mut self, at: u64) {
        let end = at + self.runs[&at].len() as u64;
        if let Some(next) = self.runs.remove(&end) {
            self.runs.get_mut(&at).unwrap().extend(next);
        } else if let Some((&next, _)) = self.runs.range(at + 1..).next() {
            assert!(next > end, "byte {next} came twice");
        }
    }

    /// The whole disk.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size as usize];
        self.runs.iter().for_each(|(&at, run)| put(&mut bytes, at as usize, run));
        bytes
    }
}

/// Reads a stream that comes in pieces of the given lengths, again and again.
pub fn decode(bytes: &[u8], length: Option<u64>, cuts: &[usize]) -> Result<(Disk, VhdSummary), VhdError> {
    let mut decoder = StreamDecoder::new(length);
    let mut disk = Disk::default();
    let mut sized = None;
    let mut input = Bytes::copy_from_slice(bytes);
    let mut cuts = cuts.iter().cycle();
    loop {
        while let Some(event) = decoder.next_event()? {
            match event {
                ImageEvent::Size(size) => assert_eq!(sized.replace(size), None, "a second size"),
                ImageEvent::Data { offset, data } => {
                    assert!(
                        sized.is_none_or(|size| offset + data.len() as u64 <= size),
                        "data behind the end"
                    );
                    disk.add(offset, &data);
                }
            }
        }
        if input.is_empty() {
            break;
        }
        let cut = (*cuts.next().unwrap()).clamp(1, input.len());
        decoder.push(input.split_to(cut));
    }
    assert_eq!(decoder.position(), bytes.len() as u64);
    let summary = decoder.finish()?;
    assert!(sized.is_none_or(|size| size == summary.virtual_size));
    let end = disk.runs.last_key_value().map_or(0, |(&at, run)| at + run.len() as u64);
    assert!(end <= summary.virtual_size, "data behind the end");
    disk.size = summary.virtual_size;
    Ok((disk, summary))
}

/// Opens bytes as a file.
pub fn open_bytes(bytes: &[u8]) -> Result<VhdIndex, VhdError> {
    open(bytes.len() as u64, |offset, buffer| {
        let at = offset as usize;
        buffer.copy_from_slice(&bytes[at..at + buffer.len()]);
        Ok::<_, VhdError>(())
    })
}

/// Reads the disk in a file that was opened, by its bitmaps.
pub fn read_index(index: &VhdIndex, bytes: &[u8]) -> Disk {
    let mut disk = Disk { size: index.virtual_size, ..Disk::default() };
    for (block, at) in index.blocks() {
        let start = block * index.block_bytes;
        let bitmap = &bytes[at.bitmap_offset as usize..][..at.bitmap_len as usize];
        let visible = index.block_bytes.min(index.virtual_size - start);
        for sector in 0..visible / 512 {
            if at.bitmap_len == 0 || bitmap[sector as usize / 8] & (0x80 >> (sector % 8)) != 0 {
                let from = (at.data_offset + sector * 512) as usize;
                disk.add(start + sector * 512, &bytes[from..from + 512]);
            }
        }
    }
    disk
}
