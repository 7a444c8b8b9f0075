//! Headers of a tar stream as a reader of XVA archives takes them: V7 (what xapi writes), ustar (Xen Orchestra), and the
//! extension headers of pax and GNU tar that give long names. Matches what xapi's ocaml-tar takes, and no more: sizes in
//! base 256 are refused.

use super::error::{Quoted, Rule, XvaError};

/// Length of a tar record: of a header, and the unit to which members are padded.
pub(super) const RECORD: usize = 512;

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The member's name, with its prefix.
    pub(super) name: Vec<u8>,
    /// Bytes of the member, without the padding behind them.
    pub(super) size: u64,
    pub(super) kind: Kind,
}

/// What a header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file. So are all kinds that nobody knows.
    Regular,
    /// What pax says of the next member.
    Pax,
    /// GNU tar's name of the next member.
    LongName,
    /// An extension that says nothing about a regular file: pax for all members, GNU tar's target of a link.
    Skipped,
    /// A link, a device, a directory, or a file of which only parts are there.
    Other(u8),
}

/// Whether the first 512 bytes of a stream are a tar header: whether the checksum is right.
pub fn looks_like_tar(start: &[u8]) -> bool {
    start.first_chunk::<RECORD>().is_some_and(|record| !is_zero(record) && checksum_is_right(record))
}

/// Whether a record marks the end.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

impl Header {
    /// Reads the header that begins at byte `offset` of the stream.
    pub(super) fn parse(record: &[u8; RECORD], offset: u64) -> Result<Self, XvaError> {
        let name = name(record);
        if !checksum_is_right(record) {
            let (unsigned, _) = sums(record);
            return Err(XvaError::Member {
                rule: Rule::T2,
                field: "header checksum",
                member: Quoted::new(&name),
                offset: offset + 148,
                expected: format!("{unsigned:o} in octal"),
                found: Quoted::new(until_nul(field(record, 148, 8))).to_string(),
            });
        }
        let size = octal(field(record, 124, 12)).ok_or_else(|| XvaError::Member {
            rule: Rule::T3,
            field: "size",
            member: Quoted::new(&name),
            offset: offset + 124,
            expected: "an octal number".into(),
            found: Quoted::new(until_nul(field(record, 124, 12))).to_string(),
        })?;
        let kind = match field(record, 156, 1).first().copied().unwrap_or(0) {
            b'x' => Kind::Pax,
            b'L' => Kind::LongName,
            b'g' | b'K' => Kind::Skipped,
            // 1 to 6 are links, devices, directories; GNU tar's D, M and S directories, parts and sparse files.
            other @ (b'1'..=b'6' | b'D' | b'M' | b'S') => Kind::Other(other),
            _ => Kind::Regular,
        };
        Ok(Self { name, size, kind })
    }
}

fn field(record: &[u8; RECORD], start: usize, len: usize) -> &[u8] {
    record.get(start..start + len).unwrap_or_default()
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn name(record: &[u8; RECORD]) -> Vec<u8> {
    let name = until_nul(field(record, 0, 100));
    // GNU tar's magic ends with spaces, and it keeps other things in the prefix's place.
    let prefix = match field(record, 257, 6) {
        b"ustar\0" => until_nul(field(record, 345, 155)),
        _ => &[],
    };
    match prefix {
        [] => name.to_vec(),
        prefix => [prefix, b"/", name].concat(),
    }
}

/// An octal number with spaces before, and spaces or NULs behind.
fn octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|&byte| byte != b' ')?;
    let digits = field.get(start..)?;
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at_checked(end)?;
    if digits.is_empty() || rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// The sums of a header's bytes, its checksum taken as spaces: as unsigned bytes, and as the signed ones of old
/// programs.
fn sums(record: &[u8; RECORD]) -> (i64, i64) {
    let bytes =
        record.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte });
    bytes
        .fold((0, 0), |(unsigned, signed), byte| (unsigned + i64::from(byte), signed + i64::from(byte as i8)))
}

fn checksum_is_right(record: &[u8; RECORD]) -> bool {
    let (unsigned, signed) = sums(record);
    let written = octal(field(record, 148, 8)).and_then(|sum| i64::try_from(sum).ok());
    written.is_some_and(|written| written == unsigned || written == signed)
}

/// What a pax header says of the next member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PaxRecords {
    pub(super) path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
}

impl PaxRecords {
    /// Reads `<length> <key>=<value>` lines; `None` when they are not that.
    pub(super) fn parse(mut text: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        while !text.is_empty() {
            let space = text.iter().position(|&byte| byte == b' ')?;
            let len = usize::try_from(decimal(text.get(..space)?)?).ok()?;
            let (line, rest) = text.split_at_checked(len)?;
            let record = line.get(space + 1..)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|&byte| byte == b'=')?;
            match record.split_at_checked(equals)? {
                (b"path", value) => found.path = Some(value.get(1..)?.to_vec()),
                (b"size", value) => found.size = Some(decimal(value.get(1..)?)?),
                _ => {}
            }
            text = rest;
        }
        Some(found)
    }
}

/// A decimal number without a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(set: impl FnOnce(&mut tar::Header)) -> [u8; RECORD] {
        let mut header = tar::Header::new_old();
        header.set_path("Ref:0/00000000").unwrap();
        header.set_size(1 << 20);
        set(&mut header);
        header.set_cksum();
        *header.as_bytes()
    }

    #[test]
    fn plain_headers_are_read_with_name_size_and_kind() {
        let header = Header::parse(&record(|_| {}), 0).unwrap();
        assert_eq!(
            (header.name.as_slice(), header.size, header.kind),
            (&b"Ref:0/00000000"[..], 1 << 20, Kind::Regular)
        );
        for (flag, kind) in [(b'0', Kind::Regular), (b'7', Kind::Regular), (b'z', Kind::Regular)] {
            let record = record(|header| header.as_mut_bytes()[156] = flag);
            assert_eq!(Header::parse(&record, 0).unwrap().kind, kind);
        }
        for flag in *b"123456DMS" {
            let record = record(|header| header.as_mut_bytes()[156] = flag);
            assert_eq!(Header::parse(&record, 0).unwrap().kind, Kind::Other(flag));
        }
    }

    #[test]
    fn a_prefix_belongs_to_the_name_in_ustar_only() {
        let with = |magic: &[u8; 8]| {
            let record = record(|header| {
                header.as_mut_bytes()[257..265].copy_from_slice(magic);
                header.as_mut_bytes()[345..348].copy_from_slice(b"pre");
            });
            String::from_utf8(Header::parse(&record, 0).unwrap().name).unwrap()
        };
        assert_eq!(with(b"ustar\x0000"), "pre/Ref:0/00000000");
        assert_eq!(with(b"ustar  \0"), "Ref:0/00000000");
        assert_eq!(with(&[0; 8]), "Ref:0/00000000");
    }

    #[test]
    fn both_ways_to_add_up_a_checksum_are_taken_and_no_third() {
        let mut bytes = record(|header| header.as_mut_bytes()[0] = 0xFF);
        assert!(looks_like_tar(&bytes));
        let (unsigned, signed) = sums(&bytes);
        assert_ne!(unsigned, signed);
        bytes[148..156].copy_from_slice(format!("{signed:06o}\0 ").as_bytes());
        assert!(looks_like_tar(&bytes));
        bytes[148..156].copy_from_slice(format!("{:06o}\0 ", signed + 1).as_bytes());
        assert!(!looks_like_tar(&bytes));
        assert_eq!(Header::parse(&bytes, 1024).unwrap_err().offset(), 1024 + 148);
        assert!(!looks_like_tar(&[0; 512]) && !looks_like_tar(&bytes[..511]));
    }

    #[test]
    fn numbers_are_octal_and_padded_by_spaces_and_nuls() {
        assert_eq!(octal(b"00000001750\0"), Some(1000));
        assert_eq!(octal(b"   1750 \0  "), Some(1000));
        assert_eq!(octal(b"777777777777"), Some((1 << 36) - 1));
        for wrong in
            [&b"0000000019 \0"[..], b"", b"            ", b"\0\0\0\0", b"\x80\0\0\x01", b"17 50\0", b"-1\0"]
        {
            assert_eq!(octal(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn pax_records_give_path_and_size() {
        let records = PaxRecords::parse(b"12 path=a/b\n11 size=77\n19 mtime=12345.678\n").unwrap();
        assert_eq!(records, PaxRecords { path: Some(b"a/b".to_vec()), size: Some(77) });
        assert_eq!(PaxRecords::parse(b""), Some(PaxRecords::default()));
        for wrong in [
            &b"99 path=a\n"[..],
            b"x path=a\n",
            b"10 path=abc",
            b"0 path=a\n",
            b"11 size=-7\n",
            b"8 path\n\n",
        ] {
            assert_eq!(PaxRecords::parse(wrong), None, "{wrong:?}");
        }
    }
}
