//! VHD files made by hand, from the format's description and not from Gantry's code: good ones in layouts that
//! qemu-img does not write, chains, and bad ones.

use std::ops::Range;

pub const SECTOR: u64 = 512;
pub const BLOCK: u64 = 2 * super::MIB;
/// A 2 MiB block on disk: one sector of bitmap, then the data.
pub const BLOCK_ON_DISK: u64 = SECTOR + BLOCK;
const UNUSED: u32 = 0xFFFF_FFFF;

/// One block of a disk: which sectors are present (MSB first), and the data.
#[derive(Clone)]
pub struct Block {
    pub bitmap: Vec<u8>,
    pub data: Vec<u8>,
}

impl Block {
    /// A block that is all there; `data` is padded with zeros.
    pub fn full(data: &[u8]) -> Self {
        Self { bitmap: vec![0xFF; SECTOR as usize], data: padded(data) }
    }

    /// A block of which only these sectors are there. What lies in the others is kept: it must not be read.
    pub fn sectors(data: &[u8], present: &[Range<usize>]) -> Self {
        let mut bitmap = vec![0; SECTOR as usize];
        for sector in present.iter().cloned().flatten() {
            bitmap[sector / 8] |= 0x80 >> (sector % 8);
        }
        Self { bitmap, data: padded(data) }
    }
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(BLOCK as usize, 0);
    data
}

/// How a VHD is to be laid out. The defaults are what blktap and Xen Orchestra write.
#[derive(Clone)]
pub struct Vhd {
    pub size: u64,
    /// In the order in which they lie in the file.
    pub blocks: Vec<(u32, Block)>,
    pub entries: u32,
    pub table_offset: u64,
    /// Unused bytes before each block.
    pub gap: u64,
    pub creator: [u8; 4],
    pub original_size: u64,
    pub geometry: [u8; 4],
    pub timestamp: u32,
    pub hidden: bool,
    pub saved: bool,
    pub id: [u8; 16],
    pub parent: Option<Parent>,
    pub batmap: bool,
}

/// The parent that a differencing VHD names.
#[derive(Clone)]
pub struct Parent {
    pub id: [u8; 16],
    /// Goes into the unicode name and, unless empty, into locators.
    pub name: String,
    pub locators: Vec<Locator>,
}

/// A parent locator and the text that it points to.
#[derive(Clone)]
pub struct Locator {
    pub code: [u8; 4],
    pub data: Vec<u8>,
    /// "Data space" as written: bytes (a multiple of 512) or sectors.
    pub space: u32,
}

impl Locator {
    /// `file://./name`, UTF-8, space in bytes as blktap writes it.
    pub fn macx(name: &str) -> Self {
        Self { code: *b"MacX", data: format!("file://./{name}").into_bytes(), space: 512 }
    }

    /// `.\name`, UTF-16LE, space in sectors as the specification has it.
    pub fn w2ru(name: &str) -> Self {
        Self { code: *b"W2ru", data: utf16(&format!(".\\{name}"), u16::to_le_bytes), space: 1 }
    }
}

fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(bytes).collect()
}

impl Vhd {
    /// A dynamic VHD with these blocks, all sectors present.
    pub fn dynamic(size: u64, blocks: &[(u32, &[u8])]) -> Self {
        Self {
            size,
            blocks: blocks.iter().map(|(index, data)| (*index, Block::full(data))).collect(),
            entries: size.div_ceil(BLOCK) as u32,
            table_offset: 1536,
            gap: 0,
            creator: *b"win ",
            original_size: size,
            geometry: [0x0F, 0xFF, 16, 63],
            timestamp: 0x2A00_0000,
            hidden: false,
            saved: false,
            id: *b"gantry test disk",
            parent: None,
            batmap: false,
        }
    }

    /// Where the first block's bitmap lies.
    pub fn first_block(&self) -> u64 {
        let mut at = self.table_offset + up(4 * u64::from(self.entries));
        if self.batmap {
            at += SECTOR + up(u64::from(self.entries).div_ceil(8));
        }
        if let Some(parent) = &self.parent {
            at += SECTOR * parent.locators.len() as u64;
        }
        at + self.gap
    }

    /// The footer, sealed.
    pub fn footer(&self) -> [u8; 512] {
        let mut footer = [0; 512];
        footer[..8].copy_from_slice(b"conectix");
        put32(&mut footer, 8, 2);
        put32(&mut footer, 12, 0x0001_0000);
        put64(&mut footer, 16, 512);
        put32(&mut footer, 24, self.timestamp);
        footer[28..32].copy_from_slice(&self.creator);
        put32(&mut footer, 32, 0x0001_0003);
        put64(&mut footer, 40, self.original_size);
        put64(&mut footer, 48, self.size);
        footer[56..60].copy_from_slice(&self.geometry);
        put32(&mut footer, 60, if self.parent.is_some() { 4 } else { 3 });
        footer[68..84].copy_from_slice(&self.id);
        footer[84] = self.saved.into();
        footer[85] = self.hidden.into();
        seal_footer(&mut footer);
        footer
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = self.footer().to_vec();
        let mut header = [0; 1024];
        header[..8].copy_from_slice(b"cxsparse");
        put64(&mut header, 8, u64::MAX);
        put64(&mut header, 16, self.table_offset);
        put32(&mut header, 24, 0x0001_0000);
        put32(&mut header, 28, self.entries);
        put32(&mut header, 32, BLOCK as u32);
        let table_end = self.table_offset + up(4 * u64::from(self.entries));
        let batmap_length = if self.batmap { SECTOR + up(u64::from(self.entries).div_ceil(8)) } else { 0 };
        let locators_at = table_end + batmap_length;
        if let Some(parent) = &self.parent {
            header[40..56].copy_from_slice(&parent.id);
            let name = utf16(&parent.name, u16::to_be_bytes);
            header[64..64 + name.len()].copy_from_slice(&name);
            for (slot, locator) in parent.locators.iter().enumerate() {
                let at = 576 + 24 * slot;
                header[at..at + 4].copy_from_slice(&locator.code);
                put32(&mut header, at + 4, locator.space);
                put32(&mut header, at + 8, locator.data.len() as u32);
                put64(&mut header, at + 16, locators_at + SECTOR * slot as u64);
            }
        }
        seal_header(&mut header);
        file.extend_from_slice(&header);
        file.resize(self.table_offset as usize, 0);

        let mut table = vec![0xFF; up(4 * u64::from(self.entries)) as usize];
        let mut at = self.first_block();
        for (index, _) in &self.blocks {
            put32(&mut table, 4 * *index as usize, (at / SECTOR) as u32);
            at += BLOCK_ON_DISK + self.gap;
        }
        file.extend_from_slice(&table);
        if self.batmap {
            file.extend_from_slice(&self.batmap_bytes(table_end));
        }
        for locator in self.parent.iter().flat_map(|parent| &parent.locators) {
            let mut data = locator.data.clone();
            data.resize(SECTOR as usize, 0);
            file.extend_from_slice(&data);
        }
        for (_, block) in &self.blocks {
            file.resize(file.len() + self.gap as usize, 0);
            file.extend_from_slice(&block.bitmap);
            file.extend_from_slice(&block.data);
        }
        file.extend_from_slice(&self.footer());
        file
    }

    fn batmap_bytes(&self, table_end: u64) -> Vec<u8> {
        let mut map = vec![0; up(u64::from(self.entries).div_ceil(8)) as usize];
        for (index, block) in &self.blocks {
            if block.bitmap.iter().all(|byte| *byte == 0xFF) {
                map[*index as usize / 8] |= 0x80 >> (index % 8);
            }
        }
        let mut bytes = vec![0; SECTOR as usize];
        bytes[..8].copy_from_slice(b"tdbatmap");
        put64(&mut bytes, 8, table_end + SECTOR);
        put32(&mut bytes, 16, (map.len() as u64 / SECTOR) as u32);
        put32(&mut bytes, 20, 0x0001_0002);
        put32(&mut bytes, 24, complement_of_sum(&map));
        bytes.extend_from_slice(&map);
        bytes
    }
}

/// A fixed VHD: the disk, then the footer.
pub fn fixed(disk: &[u8]) -> Vec<u8> {
    let mut footer = Vhd::dynamic(disk.len() as u64, &[]).footer();
    put64(&mut footer, 16, u64::MAX);
    put32(&mut footer, 60, 2);
    seal_footer(&mut footer);
    [disk, &footer].concat()
}

/// Changes both footers of a dynamic VHD in the same way and seals them again.
pub fn edit_footers(file: &mut [u8], edit: impl Fn(&mut [u8])) {
    edit_footer_at(file, 0, &edit);
    edit_footer_at(file, file.len() - 512, &edit);
}

/// Changes one footer and seals it again.
pub fn edit_footer_at(file: &mut [u8], at: usize, edit: impl Fn(&mut [u8])) {
    let footer = &mut file[at..at + 512];
    edit(footer);
    seal_footer(footer);
}

/// Changes the header and seals it again.
pub fn edit_header(file: &mut [u8], edit: impl Fn(&mut [u8])) {
    let header = &mut file[512..1536];
    edit(header);
    seal_header(header);
}

fn seal_footer(footer: &mut [u8]) {
    put32(footer, 64, 0);
    let sum = complement_of_sum(footer);
    put32(footer, 64, sum);
}

fn seal_header(header: &mut [u8]) {
    put32(header, 36, 0);
    let sum = complement_of_sum(header);
    put32(header, 36, sum);
}

fn complement_of_sum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)))
}

/// Rounded up to whole sectors.
pub fn up(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR)
}

/// Writes a big-endian number.
pub fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Writes a big-endian number.
pub fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// Reads a big-endian number.
pub fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Reads a big-endian number.
pub fn get64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The block numbers that a dynamic VHD's table says are allocated.
pub fn allocated(file: &[u8]) -> Vec<u32> {
    let (table, entries) = (get64(file, 512 + 16) as usize, get32(file, 512 + 28));
    (0..entries).filter(|index| get32(file, table + 4 * *index as usize) != UNUSED).collect()
}
