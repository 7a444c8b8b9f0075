//! The dynamic header: 1024 bytes that say where the BAT is, how large blocks are and who the parent is.
//!
//! Facts: the VHD image format specification ("Dynamic Disk Header Format").

use super::checksum::checksum;
use super::error::{Fact, Rule, VhdError};
use super::fields::{get, put, u32_at, u64_at};
use super::footer::{DiskKind, Footer};
use super::locator::{LOCATOR_LEN, Locator, ParentRef, base_name, utf16};

/// Length of a dynamic header in bytes.
pub const HEADER_LEN: usize = 1024;
/// What a dynamic header begins with.
pub const HEADER_COOKIE: [u8; 8] = *b"cxsparse";
/// Smallest and largest block size that is read, in bytes.
const BLOCK_BYTES: (u32, u32) = (512 << 10, 256 << 20);
/// BAT entries beyond those that the disk needs which are taken for room to grow, not for an attack.
const SPARE_ENTRIES: u64 = 4 << 20;
/// The only version of the header.
const HEADER_VERSION: u32 = 0x0001_0000;
/// Where the parent locators are in the header.
const LOCATORS_AT: usize = 576;
/// Number of parent locators.
const LOCATORS: usize = 8;

/// A dynamic header that was read, or is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicHeader {
    /// Where the BAT is, in bytes.
    pub table_offset: u64,
    /// Number of BAT entries; at least as many as the disk has blocks.
    pub entries: u32,
    /// Size of a block's data in bytes: a power of two from 512 KiB to 256 MiB.
    pub block_bytes: u32,
    /// The parent's unique id; zero unless differencing.
    pub parent_id: [u8; 16],
    /// The parent file's time of change, seconds since 2000. Advisory.
    pub parent_timestamp: u32,
    /// The parent's name: a base name, a relative or an absolute path, depending on who wrote it.
    pub parent_name: String,
    /// The parent locators, unused slots included.
    pub locators: [Option<Locator>; LOCATORS],
}

impl DynamicHeader {
    /// The header of a dynamic disk.
    pub fn new(table_offset: u64, entries: u32, block_bytes: u32) -> Self {
        Self {
            table_offset,
            entries,
            block_bytes,
            parent_id: [0; 16],
            parent_timestamp: 0,
            parent_name: String::new(),
            locators: [None; LOCATORS],
        }
    }

    /// Reads the header that `footer` refers to, and checks all that it says by itself and about the footer.
    ///
    /// # Errors
    /// The first breach of the rules H3 to H10, B1, L1 to L3, P1 and P2.
    pub fn parse(bytes: &[u8; HEADER_LEN], footer: &Footer) -> Result<Self, VhdError> {
        let at = footer.data_offset;
        let bad = |rule, field, offset, expected, found| {
            Err(VhdError::Malformed { rule, field, offset: at.saturating_add(offset), expected, found })
        };
        let cookie = get::<0, 8, _>(bytes);
        if cookie != HEADER_COOKIE {
            let expected = Fact::Cookie(HEADER_COOKIE);
            return bad(Rule::H3, "dynamic header cookie", 0, expected, Fact::Cookie(cookie));
        }
        let (written, computed) = (u32_at::<36, _>(bytes), checksum(bytes, 36));
        if written != computed {
            return bad(Rule::H4, "dynamic header checksum", 36, hex(computed), hex(written));
        }
        let version = u32_at::<24, _>(bytes);
        if version != HEADER_VERSION {
            return bad(Rule::H5, "dynamic header version", 24, hex(HEADER_VERSION), hex(version));
        }
        let data_offset = u64_at::<8, _>(bytes);
        if data_offset != u64::MAX {
            let expected = Fact::Hex(u64::MAX);
            return bad(Rule::H6, "dynamic header data offset", 8, expected, Fact::Hex(data_offset));
        }
        let block_bytes = u32_at::<32, _>(bytes);
        if !block_bytes.is_power_of_two() {
            let expected = Fact::Text("a power of two");
            return bad(Rule::H7, "block size", 32, expected, Fact::Number(u64::from(block_bytes)));
        }
        let (smallest, largest) = BLOCK_BYTES;
        if !(smallest..=largest).contains(&block_bytes) {
            let expected = Fact::Between(u64::from(smallest), u64::from(largest));
            return bad(Rule::H8, "block size", 32, expected, Fact::Number(u64::from(block_bytes)));
        }
        let entries = u32_at::<28, _>(bytes);
        let needed = footer.current_size.div_ceil(u64::from(block_bytes));
        if u64::from(entries) < needed {
            let found = Fact::Number(u64::from(entries));
            return bad(Rule::H9, "max table entries", 28, Fact::AtLeast(needed), found);
        }
        if u64::from(entries) > needed + SPARE_ENTRIES {
            let (expected, found) = (Fact::AtMost(needed + SPARE_ENTRIES), Fact::Number(u64::from(entries)));
            return bad(Rule::H10, "max table entries", 28, expected, found);
        }
        let table_offset = u64_at::<16, _>(bytes);
        if !table_offset.is_multiple_of(512) {
            let expected = Fact::Text("a multiple of 512");
            return bad(Rule::B1, "table offset", 16, expected, Fact::Number(table_offset));
        }
        let mut locators = [None; LOCATORS];
        let slots = bytes.iter().as_slice().get(LOCATORS_AT..).unwrap_or_default().chunks_exact(LOCATOR_LEN);
        for ((nth, slot), locator) in slots.enumerate().zip(&mut locators) {
            if let Some(slot) = slot.first_chunk::<LOCATOR_LEN>() {
                *locator = Locator::parse(slot, at.saturating_add((LOCATORS_AT + nth * LOCATOR_LEN) as u64))?;
            }
        }
        let parent_id = get::<40, 16, _>(bytes);
        if footer.kind == DiskKind::Differencing {
            if parent_id == [0; 16] {
                let expected = Fact::Text("the id of a parent");
                return bad(Rule::P1, "parent unique id", 40, expected, Fact::Id(parent_id));
            }
            if parent_id == footer.unique_id {
                let expected = Fact::Text("another id than the disk's own");
                return bad(Rule::P2, "parent unique id", 40, expected, Fact::Id(parent_id));
            }
        }
        let name = get::<64, 512, _>(bytes);
        let units = name.chunks_exact(2).filter_map(|c| c.first_chunk::<2>()).map(|c| u16::from_be_bytes(*c));
        Ok(Self {
            table_offset,
            entries,
            block_bytes,
            parent_id,
            parent_timestamp: u32_at::<56, _>(bytes),
            parent_name: utf16(units).unwrap_or_default(),
            locators,
        })
    }

    /// The header's bytes, checksum included. A parent's name is cut to the 256 units that fit.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        put::<0, 8, _>(&mut bytes, HEADER_COOKIE);
        put::<8, 8, _>(&mut bytes, u64::MAX.to_be_bytes());
        put::<16, 8, _>(&mut bytes, self.table_offset.to_be_bytes());
        put::<24, 4, _>(&mut bytes, HEADER_VERSION.to_be_bytes());
        put::<28, 4, _>(&mut bytes, self.entries.to_be_bytes());
        put::<32, 4, _>(&mut bytes, self.block_bytes.to_be_bytes());
        put::<40, 16, _>(&mut bytes, self.parent_id);
        put::<56, 4, _>(&mut bytes, self.parent_timestamp.to_be_bytes());
        let name = self.parent_name.encode_utf16().flat_map(u16::to_be_bytes);
        bytes.iter_mut().skip(64).take(512).zip(name).for_each(|(to, from)| *to = from);
        let locators = self.locators.iter().flat_map(|l| l.map_or([0; LOCATOR_LEN], |l| l.encode()));
        bytes.iter_mut().skip(LOCATORS_AT).zip(locators).for_each(|(to, from)| *to = from);
        let sum = checksum(&bytes, 36);
        put::<36, 4, _>(&mut bytes, sum.to_be_bytes());
        bytes
    }

    /// Bytes of the BAT, padding to a whole sector included.
    pub fn table_bytes(&self) -> u64 {
        (u64::from(self.entries) * 4).next_multiple_of(512)
    }

    /// Number of blocks that a disk of `virtual_size` bytes has; not more than there are entries.
    pub fn needed_entries(&self, virtual_size: u64) -> u32 {
        let needed = virtual_size.div_ceil(u64::from(self.block_bytes));
        u32::try_from(needed).unwrap_or(u32::MAX).min(self.entries)
    }

    /// Bytes of a block's bitmap: a bit for each sector, padded to a whole sector.
    pub fn bitmap_bytes(&self) -> u32 {
        (self.block_bytes / 512 / 8).next_multiple_of(512)
    }

    /// The parent, with the names that locators gave before the one in this header.
    pub(super) fn parent(&self, mut names: Vec<String>) -> ParentRef {
        names.extend(base_name(&self.parent_name));
        let mut seen = Vec::new();
        names.retain(|name| {
            let fresh = !seen.contains(name);
            if fresh {
                seen.push(name.clone());
            }
            fresh
        });
        ParentRef { id: self.parent_id, timestamp: self.parent_timestamp, names }
    }
}

fn hex(n: u32) -> Fact {
    Fact::Hex(u64::from(n))
}

#[cfg(test)]
mod tests {
    use super::super::locator::Platform;
    use super::*;

    fn child() -> (Footer, DynamicHeader) {
        let footer =
            Footer { kind: DiskKind::Differencing, ..Footer::dynamic(64 << 20, [7; 16], 42).unwrap() };
        let mut header = DynamicHeader::new(2048, 40, 2 << 20);
        header.parent_id = [9; 16];
        header.parent_timestamp = 5;
        header.parent_name = "/var/run/eltern-größe.vhd".to_owned();
        header.locators[7] = Some(Locator { platform: Platform::MacUrl, space: 512, len: 20, offset: 1536 });
        (footer, header)
    }

    #[test]
    fn what_is_encoded_is_parsed_again() {
        let (footer, header) = child();
        assert_eq!(DynamicHeader::parse(&header.encode(), &footer), Ok(header.clone()));
        let parent = header.parent(vec!["a.vhd".into(), "eltern-größe.vhd".into()]);
        assert_eq!(parent.names, ["a.vhd", "eltern-größe.vhd"]);
        assert_eq!(parent.to_string(), "09090909-0909-0909-0909-090909090909 (\"a.vhd\")");
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_an_error() {
        let (footer, header) = child();
        let good = header.encode();
        for bit in 0..HEADER_LEN * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = DynamicHeader::parse(&bytes, &footer).expect_err("a flipped bit must not pass");
            assert!(matches!(error.rule(), "H3" | "H4"), "bit {bit}: {error}");
        }
    }
}
