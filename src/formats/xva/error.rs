//! What can be wrong with an XVA archive.
//!
//! An error says which member of the archive it is about, at which byte of the uncompressed tar stream, what was
//! expected there and what was found. [`Rule`] says which rule was broken; the variants differ by where the fault is:
//! in a member, in the text of `ova.xml`, in what that text says, or in the archive's end.

use std::fmt;

use crate::formats::rules::rules;

/// Longest quotation in a message, in characters.
const MAX_QUOTED: usize = 120;

/// Why an archive is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XvaError {
    /// A member of the tar stream is not what it must be.
    #[error("the {field} of {member} at byte {offset} is wrong: expected {expected}, found {found}")]
    Member {
        /// The rule that is broken.
        rule: Rule,
        /// Which part of the member.
        field: &'static str,
        /// The member's name.
        member: Quoted,
        /// Where the part begins, in bytes from the start of the tar stream.
        offset: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The text of `ova.xml` is no XML-RPC value.
    #[error("line {line} of ova.xml (byte {offset}) is wrong: expected {expected}, found {found}")]
    Xml {
        /// The rule that is broken.
        rule: Rule,
        /// The line, counted from 1.
        line: u64,
        /// Where it is wrong: in bytes from the start of the tar stream, or of the text that was given alone.
        offset: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// `ova.xml` does not describe VMs that can be read.
    #[error("ova.xml (byte {offset}): the {place} is wrong: expected {expected}, found {found}")]
    Document {
        /// The rule that is broken.
        rule: Rule,
        /// The class, id and member that it is about.
        place: String,
        /// Where `ova.xml` begins: in bytes from the start of the tar stream, or 0 of a text that was given alone.
        offset: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The archive ends too early.
    #[error("the archive ends at byte {offset}, inside {place}: expected {expected}")]
    Truncated {
        /// [`Rule::T1`] within a member, [`Rule::D1`] within a disk.
        rule: Rule,
        /// What is not complete.
        place: String,
        /// Where the archive ends, in bytes of the tar stream.
        offset: u64,
        /// What should have followed.
        expected: String,
    },
}

impl XvaError {
    /// The rule that is broken.
    pub fn rule(&self) -> Rule {
        match self {
            Self::Member { rule, .. }
            | Self::Xml { rule, .. }
            | Self::Document { rule, .. }
            | Self::Truncated { rule, .. } => *rule,
        }
    }

    /// A stable name in snake case for programs.
    pub fn code(&self) -> &'static str {
        self.rule().code()
    }

    /// Where it is wrong, in bytes from the start of the uncompressed tar stream; of a text that was given alone, from
    /// its start.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Member { offset, .. }
            | Self::Xml { offset, .. }
            | Self::Document { offset, .. }
            | Self::Truncated { offset, .. } => *offset,
        }
    }

    /// The same fault in a text that begins at that byte of the stream.
    pub(super) fn of_text_at(mut self, start: u64) -> Self {
        match &mut self {
            Self::Member { offset, .. }
            | Self::Xml { offset, .. }
            | Self::Document { offset, .. }
            | Self::Truncated { offset, .. } => *offset += start,
        }
        self
    }
}

/// A name from an archive as messages show it: in quotation marks, what cannot be printed escaped, at most 120
/// characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    /// Quotes a name, which need not be text.
    pub fn new(name: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref();
        // Four bytes are one character at most.
        let start = name.get(..MAX_QUOTED * 4).unwrap_or(name);
        let text = String::from_utf8_lossy(start);
        let mut quoted = String::from('"');
        let mut count = 2;
        for character in text.chars() {
            let escaped = character.escape_debug();
            count += escaped.len();
            if count >= MAX_QUOTED {
                quoted.push('…');
                break;
            }
            quoted.extend(escaped);
        }
        quoted.push('"');
        Self(quoted)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

rules! {
    /// A rule that a sound archive keeps. `T` is about the tar stream, `O` the member `ova.xml`, `X` what it says,
    /// `D` the disks' blocks, `E` the end.
    Rule:
    /// A member is whole: its header, its bytes, the padding behind them.
    T1 "xva_truncated",
    /// A tar header's checksum is right.
    T2 "xva_header_checksum",
    /// A tar header's size field is octal.
    T3 "xva_member_size",
    /// A member is a regular file.
    T4 "xva_member_kind",
    /// What an extension header (pax, GNU) says of the next member is short and well-formed.
    T5 "xva_extension_header",
    /// The first member is `ova.xml`, with a plain header.
    O1 "xva_first_member",
    /// `ova.xml` is no longer than 64 MiB.
    O2 "xva_document_too_large",
    /// `ova.xml` has no document type and declares no entities.
    X0 "xva_doctype",
    /// `ova.xml` is well-formed XML in UTF-8, not nested too deep, and has a bounded number of values.
    X1 "xva_malformed_xml",
    /// `ova.xml` is one XML-RPC value.
    X2 "xva_not_xml_rpc",
    /// It is a struct of a version and objects.
    X3 "xva_no_objects",
    /// The version says by whom it was written.
    X4 "xva_version_member",
    /// The version of xapi is a pair of numbers, and not newer than any that is known.
    X5 "xva_xapi_version",
    /// The version of the format is 2.
    X6 "xva_export_version",
    /// An object has a class, an id and a snapshot.
    X7 "xva_object",
    /// No two objects have the same id.
    X8 "xva_duplicate_id",
    /// A snapshot has the members that its class requires.
    X9 "xva_missing_member",
    /// A VBD that is no CD drive names a VDI of the document, or none.
    X10 "xva_unknown_vdi",
    /// A VDI names an SR of the document.
    X11 "xva_unknown_sr",
    /// A disk's virtual size is a positive number of sectors that can be stored.
    X12 "xva_virtual_size",
    /// There is a VM.
    X13 "xva_no_vm",
    /// A member that importers read as a boolean or a number is one.
    X14 "xva_member_type",
    /// A device belongs to a VM of the document, and has a place in it of its own, which is a number.
    X15 "xva_device",
    /// The archive has every block of its disks.
    D1 "xva_disk_incomplete",
    /// A member belongs to the disk whose turn it is.
    D2 "xva_unexpected_member",
    /// A block's name is a number of eight digits.
    D3 "xva_block_name",
    /// The numbers of a disk's blocks increase.
    D4 "xva_block_order",
    /// A disk's first block is not empty, and no longer than 1 MiB.
    D5 "xva_first_block_length",
    /// A block is no longer than the disk's first one.
    D6 "xva_block_too_long",
    /// The number of a disk's first block is 0.
    D7 "xva_first_block_missing",
    /// A block lies inside of its disk.
    D8 "xva_block_past_end",
    /// Only a disk's last block is short.
    D9 "xva_block_too_short",
    /// A checksum follows each block.
    D10 "xva_checksum_missing",
    /// A checksum is no longer than its kind.
    D11 "xva_checksum_too_long",
    /// A block's bytes have its checksum.
    D12 "xva_checksum_mismatch",
    /// What pads a disk's last block is zero.
    D13 "xva_padding",
    /// Few empty blocks come in a row.
    D14 "xva_empty_blocks",
    /// Nothing but zeros follows the last disk.
    E1 "xva_trailing_data",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_code_of_its_own() {
        let mut codes: Vec<_> = Rule::ALL.iter().map(|rule| rule.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Rule::ALL.len());
        assert!(codes.iter().all(|code| {
            code.starts_with("xva_") && code.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())
        }));
    }

    #[test]
    fn a_quoted_name_is_short_and_has_nothing_that_a_terminal_would_obey() {
        assert_eq!(Quoted::new("Ref:0/00000000").to_string(), "\"Ref:0/00000000\"");
        assert_eq!(Quoted::new("a\"\u{1b}[2J\n\u{202e}").to_string(), r#""a\"\u{1b}[2J\n\u{202e}""#);
        assert_eq!(Quoted::new([0xFF]).to_string(), "\"\u{FFFD}\"");
        for name in ["x".repeat(4000), "\u{1b}".repeat(4000), "𝕏".repeat(4000)] {
            let quoted = Quoted::new(&name).to_string();
            assert!((110..=120).contains(&quoted.chars().count()), "{quoted}");
        }
    }
}
