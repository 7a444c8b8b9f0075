//! What can be wrong with a VHD.
//!
//! An error names the structure's field, its byte offset in the file or stream, what was expected there and
//! what was found. [`Rule`] says which rule of the format was broken; the variants differ by what the caller
//! can do: refuse the image, propose another format, ask for the parent, or read it from a seekable file.

use std::fmt;

use super::locator::ParentRef;
use crate::formats::rules::rules;

/// Largest virtual size that a VHD of any common implementation can have: 2040 GiB, the point to which 32-bit
/// sector numbers reach when every 2 MiB block carries its bitmap. XenServer, its exports and QEMU stop here.
pub const MAX_VIRTUAL_SIZE: u64 = 2040 << 30;

/// Why an image is refused, or (in [`super::VhdIndex::warnings`]) what is wrong with one that can still be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VhdError {
    /// A field holds what it must not hold.
    #[error("the {field} at byte {offset} is wrong: expected {expected}, found {found}")]
    Malformed {
        /// The rule that is broken.
        rule: Rule,
        /// The field's name.
        field: &'static str,
        /// Where the field is, in bytes from the start of the file or stream.
        offset: u64,
        /// What should be there.
        expected: Fact,
        /// What is there.
        found: Fact,
    },
    /// The virtual size is more than a VHD can hold. The same disk can be moved as `.raw`.
    #[error(
        "the virtual size at byte {offset} is too large for a VHD: expected at most {MAX_VIRTUAL_SIZE} bytes \
         (2040 GiB), found {found}; move this disk as .raw"
    )]
    TooLarge {
        /// Where the size is written, or would be.
        offset: u64,
        /// The size in bytes.
        found: u64,
    },
    /// A stream without a footer copy in front, so at best a fixed VHD, and its last 512 bytes are no footer.
    #[error(
        "the footer cookie at byte {offset} is wrong: expected \"conectix\", found {}; this is no VHD (a raw disk \
         must be sent as raw: add ?raw)",
        Fact::Cookie(*found)
    )]
    NotVhd {
        /// Where the footer should be.
        offset: u64,
        /// The eight bytes there.
        found: [u8; 8],
    },
    /// The stream or file ends too early.
    #[error(
        "the image ends inside the {field} at byte {offset}: expected at least {expected} bytes, found {found}"
    )]
    Truncated {
        /// The structure that is not complete.
        field: &'static str,
        /// Where that structure begins.
        offset: u64,
        /// Length in bytes that the image must have at least.
        expected: u64,
        /// Length in bytes that it has.
        found: u64,
    },
    /// A legal order of structures that can be read from a seekable file only.
    #[error(
        "the {field} at byte {offset} is not streamable: expected it at byte {expected} or later, found it at \
         {found}; send a VHD whose header, BAT and blocks follow each other"
    )]
    NotStreamable {
        /// The structure that lies behind the reader.
        field: &'static str,
        /// Where the structure's position is written.
        offset: u64,
        /// First byte that a reader could still use.
        expected: u64,
        /// The byte where it is.
        found: u64,
    },
    /// A differencing image, sound as far as it was read, which means nothing without its parent.
    #[error(
        "the disk type at byte {offset} is wrong: expected a fixed or dynamic disk, found a differencing disk \
         that needs its parent {parent}"
    )]
    ParentNeeded {
        /// Where the type is written.
        offset: u64,
        /// The parent.
        parent: Box<ParentRef>,
    },
}

impl VhdError {
    /// The broken rule's id, `F1` to `T` (see [`Rule`]). [`VhdError::NotStreamable`] breaks none and says `S`.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Malformed { rule, .. } => rule.id(),
            Self::TooLarge { .. } => Rule::F8.id(),
            Self::NotVhd { .. } => Rule::F2.id(),
            Self::Truncated { .. } => Rule::T.id(),
            Self::NotStreamable { .. } => "S",
            Self::ParentNeeded { .. } => Rule::P6.id(),
        }
    }

    /// A stable name in snake case for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { rule, .. } => rule.code(),
            Self::TooLarge { .. } => Rule::F8.code(),
            Self::NotVhd { .. } => Rule::F2.code(),
            Self::Truncated { .. } => Rule::T.code(),
            Self::NotStreamable { .. } => "vhd_not_streamable",
            Self::ParentNeeded { .. } => "vhd_parent_needed",
        }
    }

    /// Where it is wrong, in bytes from the start of the file or stream.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Malformed { offset, .. }
            | Self::TooLarge { offset, .. }
            | Self::NotVhd { offset, .. }
            | Self::Truncated { offset, .. }
            | Self::NotStreamable { offset, .. }
            | Self::ParentNeeded { offset, .. } => *offset,
        }
    }
}

rules! {
    /// A rule that a sound VHD keeps. `F` is about footers, `H` the dynamic header, `B` the block
    /// allocation table (BAT) and the blocks, `L` parent locators, `M` the batmap, `P` parents.
    Rule:
    /// An image has at least the 512 bytes of its footer.
    F1 "vhd_too_short",
    /// The footer begins with its cookie.
    F2 "vhd_no_footer",
    /// The footer's checksum is right.
    F3 "vhd_footer_checksum",
    /// The file format version is 1.0.
    F4 "vhd_format_version",
    /// The disk type is fixed (2), dynamic (3) or differencing (4).
    F5 "vhd_disk_type",
    /// The virtual size is not zero.
    F6 "vhd_size_zero",
    /// The virtual size is a whole number of sectors.
    F7 "vhd_size_unaligned",
    /// The virtual size is at most 2040 GiB.
    F8 "vhd_too_large",
    /// A fixed disk's data offset is all ones.
    F9 "vhd_fixed_data_offset",
    /// A fixed disk's file is its virtual size and the footer.
    F10 "vhd_fixed_length",
    /// The copy of the footer in front equals the footer at the end.
    F11 "vhd_footers_differ",
    /// The dynamic header lies on a sector behind the footer copy.
    H1 "vhd_header_offset",
    /// The dynamic header ends before the footer.
    H2 "vhd_header_past_end",
    /// The dynamic header begins with its cookie.
    H3 "vhd_header_cookie",
    /// The dynamic header's checksum is right.
    H4 "vhd_header_checksum",
    /// The dynamic header's version is 1.0.
    H5 "vhd_header_version",
    /// The dynamic header's data offset is all ones.
    H6 "vhd_header_data_offset",
    /// The block size is a power of two.
    H7 "vhd_block_size",
    /// The block size is 512 KiB to 256 MiB.
    H8 "vhd_block_size_unsupported",
    /// The BAT has an entry for each block of the disk.
    H9 "vhd_bat_too_small",
    /// The BAT is not absurdly larger than the disk needs.
    H10 "vhd_bat_too_large",
    /// The BAT begins on a sector.
    B1 "vhd_bat_unaligned",
    /// The BAT does not overlap the footer copy or the header.
    B2 "vhd_bat_overlap",
    /// The BAT ends before the footer.
    B3 "vhd_bat_past_end",
    /// BAT entries beyond the disk's end are unused.
    B4 "vhd_bat_entry_beyond_disk",
    /// Every block ends before the footer.
    B5 "vhd_block_past_end",
    /// No two structures overlap.
    B6 "vhd_overlap",
    /// A parent locator's platform code is known.
    L1 "vhd_locator_code",
    /// A parent locator's space is a whole number of sectors.
    L2 "vhd_locator_space",
    /// A parent locator's length is not zero, fits its space and is no more than a path can be long.
    L3 "vhd_locator_length",
    /// A parent locator's data ends before the footer.
    L4 "vhd_locator_past_end",
    /// The batmap's header lies inside the file.
    M1 "vhd_batmap_header_past_end",
    /// The batmap's map lies inside the file.
    M2 "vhd_batmap_past_end",
    /// The batmap begins with its cookie.
    M3 "vhd_batmap_cookie",
    /// The batmap has a bit for each block of the disk.
    M4 "vhd_batmap_too_small",
    /// The batmap's checksum is right.
    M5 "vhd_batmap_checksum",
    /// A differencing disk names its parent's id.
    P1 "vhd_no_parent_id",
    /// A disk is not its own parent.
    P2 "vhd_own_parent",
    /// A chain has at most 32 images.
    P3 "vhd_chain_too_deep",
    /// The parent that was found has the id that the child names.
    P4 "vhd_parent_mismatch",
    /// A chain has no cycle.
    P5 "vhd_chain_cycle",
    /// The parent is beside the child.
    P6 "vhd_parent_not_found",
    /// The image is complete.
    T "vhd_truncated",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// A value that was expected or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A number, shown in decimal.
    Number(u64),
    /// A number, shown in hexadecimal: checksums, versions, all-ones marks.
    Hex(u64),
    /// That number or a larger one.
    AtLeast(u64),
    /// That number or a smaller one.
    AtMost(u64),
    /// A number in that range, both ends included.
    Between(u64, u64),
    /// Eight characters that mark a structure.
    Cookie([u8; 8]),
    /// Four characters that name a program or platform.
    Tag([u8; 4]),
    /// An RFC 4122 id.
    Id([u8; 16]),
    /// What no single value says.
    Text(&'static str),
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Hex(n) => write!(f, "{n:#x}"),
            Self::AtLeast(n) => write!(f, "at least {n}"),
            Self::AtMost(n) => write!(f, "at most {n}"),
            Self::Between(low, high) => write!(f, "{low} to {high}"),
            Self::Cookie(bytes) => characters(f, bytes),
            Self::Tag(bytes) => characters(f, bytes),
            Self::Id(id) => write_id(f, id),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Shows bytes as quoted text when they are text, else in hexadecimal.
fn characters(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.bytes().all(|b| (0x20..0x7F).contains(&b)) => write!(f, "{text:?}"),
        _ => {
            f.write_str("0x")?;
            bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
        }
    }
}

/// Shows an id in the hyphenated form of RFC 4122.
pub(super) fn write_id(f: &mut fmt::Formatter<'_>, id: &[u8; 16]) -> fmt::Result {
    let n = u128::from_be_bytes(*id);
    write!(
        f,
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        n >> 96,
        (n >> 80) & 0xFFFF,
        (n >> 64) & 0xFFFF,
        (n >> 48) & 0xFFFF,
        n & 0xFFFF_FFFF_FFFF
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_an_id_and_a_code_of_its_own() {
        let mut ids: Vec<_> = Rule::ALL.iter().map(|rule| rule.id()).collect();
        let mut codes: Vec<_> = Rule::ALL.iter().map(|rule| rule.code()).collect();
        ids.sort_unstable();
        ids.dedup();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(ids.len(), Rule::ALL.len());
        assert_eq!(codes.len(), Rule::ALL.len());
        assert!(
            codes
                .iter()
                .all(|c| c.starts_with("vhd_") && c.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()))
        );
    }

    #[test]
    fn a_message_names_field_offset_expected_and_found_and_ends_without_a_dot() {
        let error = VhdError::Malformed {
            rule: Rule::F2,
            field: "footer cookie",
            offset: 1024,
            expected: Fact::Cookie(*b"conectix"),
            found: Fact::Cookie([0; 8]),
        };
        assert_eq!(
            error.to_string(),
            "the footer cookie at byte 1024 is wrong: expected \"conectix\", found 0x0000000000000000"
        );
        let large = VhdError::TooLarge { offset: 48, found: MAX_VIRTUAL_SIZE + 512 };
        assert_eq!((large.rule(), large.code()), ("F8", "vhd_too_large"));
        assert!(large.to_string().contains("2190433320960") && large.to_string().ends_with("as .raw"));
    }
}
