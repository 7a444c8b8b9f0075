//! The footer: 512 bytes at the end of every VHD, and in front of one that is not fixed.
//!
//! Facts: the VHD image format specification ("Hard Disk Footer Format"); blktap's libvhd for the hidden flag
//! in the first reserved byte and for the checksum of files by `tap` 0.1 and 1.1.

use super::checksum::checksum;
use super::error::{Fact, MAX_VIRTUAL_SIZE, Rule, VhdError};
use super::fields::{get, put, u16_at, u32_at, u64_at};
use super::geometry::Geometry;

/// Length of a footer in bytes.
pub const FOOTER_LEN: usize = 512;
/// What a footer begins with.
pub const FOOTER_COOKIE: [u8; 8] = *b"conectix";

/// Seconds from 1970-01-01 to 2000-01-01, both at midnight UTC: where a VHD's time begins.
const EPOCH: i64 = 946_684_800;
/// The only version of the format.
const FORMAT_VERSION: u32 = 0x0001_0000;
/// The value of an offset that points nowhere.
const NOWHERE: u64 = u64::MAX;
/// Our creator application: XenServer's, because readers that do not know an application believe the geometry
/// instead of the size (QEMU before 10.0), and this one is known to all.
const CREATOR: [u8; 4] = *b"tap\0";
/// Version 1.3, which promises a batmap.
const CREATOR_VERSION: u32 = 0x0001_0003;

/// What a VHD holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskKind {
    /// The whole disk, byte by byte.
    Fixed,
    /// The blocks that are in use.
    Dynamic,
    /// What differs from a parent.
    Differencing,
}

impl DiskKind {
    /// The disk type's number in the footer.
    fn number(self) -> u32 {
        match self {
            Self::Fixed => 2,
            Self::Dynamic => 3,
            Self::Differencing => 4,
        }
    }
}

/// A footer that was read, or is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// Feature bits. Bit 1 is always set; bit 0 marks a temporary disk.
    pub features: u32,
    /// Where the dynamic header is, in bytes; all ones on a fixed disk.
    pub data_offset: u64,
    /// Seconds since 2000-01-01 UTC. Not to be relied on: some programs write Unix time, or zero.
    pub timestamp: u32,
    /// The program that made the image.
    pub creator_application: [u8; 4],
    /// That program's version, major in the upper half.
    pub creator_version: u32,
    /// The system on which it ran.
    pub creator_host_os: [u8; 4],
    /// Size in bytes when the image was made; informative.
    pub original_size: u64,
    /// The virtual size in bytes: a multiple of 512, from 512 to 2040 GiB.
    pub current_size: u64,
    /// The geometry that the footer claims.
    pub geometry: Geometry,
    /// What the image holds.
    pub kind: DiskKind,
    /// The image's own id, as RFC 4122 orders its bytes.
    pub unique_id: [u8; 16],
    /// Whether the image belongs to a machine with saved state.
    pub saved_state: bool,
    /// XenServer's mark of an inner node of a chain, which no VDI refers to any more.
    pub hidden: bool,
}

impl Footer {
    /// Reads a footer that lies at byte `at`, and checks all that it says by itself.
    ///
    /// # Errors
    /// The first breach of the rules F2 to F9 and H1.
    pub fn parse(bytes: &[u8; FOOTER_LEN], at: u64) -> Result<Self, VhdError> {
        let bad = |rule, field, offset, expected, found| {
            Err(VhdError::Malformed { rule, field, offset: at.saturating_add(offset), expected, found })
        };
        let cookie = get::<0, 8, _>(bytes);
        if cookie != FOOTER_COOKIE {
            let expected = Fact::Cookie(FOOTER_COOKIE);
            return bad(Rule::F2, "footer cookie", 0, expected, Fact::Cookie(cookie));
        }
        let (written, computed) = (u32_at::<64, _>(bytes), checksum(bytes, 64));
        if written != computed && !(may_sum_unhidden(bytes) && written == computed.wrapping_add(1)) {
            return bad(Rule::F3, "footer checksum", 64, hex(computed), hex(written));
        }
        let version = u32_at::<12, _>(bytes);
        if version != FORMAT_VERSION {
            return bad(Rule::F4, "file format version", 12, hex(FORMAT_VERSION), hex(version));
        }
        let kind = match u32_at::<60, _>(bytes) {
            2 => DiskKind::Fixed,
            3 => DiskKind::Dynamic,
            4 => DiskKind::Differencing,
            other => {
                let expected = Fact::Text("2 (fixed), 3 (dynamic) or 4 (differencing)");
                return bad(Rule::F5, "disk type", 60, expected, Fact::Number(u64::from(other)));
            }
        };
        let current_size = u64_at::<48, _>(bytes);
        check_virtual_size(current_size, at.saturating_add(48))?;
        let data_offset = u64_at::<16, _>(bytes);
        if kind == DiskKind::Fixed {
            if data_offset != NOWHERE {
                return bad(Rule::F9, "data offset", 16, Fact::Hex(NOWHERE), Fact::Hex(data_offset));
            }
        } else if data_offset < FOOTER_LEN as u64
            || !data_offset.is_multiple_of(512)
            || data_offset == NOWHERE
        {
            let expected = Fact::Text("a multiple of 512 from 512 on");
            return bad(Rule::H1, "data offset", 16, expected, Fact::Number(data_offset));
        }
        Ok(Self {
            features: u32_at::<8, _>(bytes),
            data_offset,
            timestamp: u32_at::<24, _>(bytes),
            creator_application: get::<28, 4, _>(bytes),
            creator_version: u32_at::<32, _>(bytes),
            creator_host_os: get::<36, 4, _>(bytes),
            original_size: u64_at::<40, _>(bytes),
            current_size,
            geometry: Geometry {
                cylinders: u16_at::<56, _>(bytes),
                heads: u8::from_be_bytes(get::<58, 1, _>(bytes)),
                sectors_per_track: u8::from_be_bytes(get::<59, 1, _>(bytes)),
            },
            kind,
            unique_id: get::<68, 16, _>(bytes),
            saved_state: get::<84, 1, _>(bytes) != [0],
            hidden: get::<85, 1, _>(bytes) != [0],
        })
    }

    /// The footer of a dynamic disk as Gantry writes it: creator `tap` 1.3, which obliges the writer to add a
    /// [batmap](super::batmap), and the dynamic header right behind the footer copy.
    ///
    /// # Errors
    /// F6, F7, F8: the size is none that a VHD can have.
    pub fn dynamic(virtual_size: u64, unique_id: [u8; 16], timestamp: u32) -> Result<Self, VhdError> {
        Self::new(DiskKind::Dynamic, virtual_size, unique_id, timestamp)
    }

    /// The footer that makes a raw disk a fixed VHD when it is put behind the disk's last byte.
    ///
    /// # Errors
    /// F6, F7, F8: the size is none that a VHD can have.
    pub fn fixed(virtual_size: u64, unique_id: [u8; 16], timestamp: u32) -> Result<Self, VhdError> {
        Self::new(DiskKind::Fixed, virtual_size, unique_id, timestamp)
    }

    fn new(kind: DiskKind, virtual_size: u64, unique_id: [u8; 16], timestamp: u32) -> Result<Self, VhdError> {
        check_virtual_size(virtual_size, 48)?;
        Ok(Self {
            features: 2,
            data_offset: if kind == DiskKind::Fixed { NOWHERE } else { FOOTER_LEN as u64 },
            timestamp,
            creator_application: CREATOR,
            creator_version: CREATOR_VERSION,
            creator_host_os: [0; 4],
            original_size: virtual_size,
            current_size: virtual_size,
            geometry: Geometry::of(virtual_size),
            kind,
            unique_id,
            saved_state: false,
            hidden: false,
        })
    }

    /// The footer's bytes, checksum included.
    pub fn encode(&self) -> [u8; FOOTER_LEN] {
        let mut bytes = [0; FOOTER_LEN];
        put::<0, 8, _>(&mut bytes, FOOTER_COOKIE);
        put::<8, 4, _>(&mut bytes, self.features.to_be_bytes());
        put::<12, 4, _>(&mut bytes, FORMAT_VERSION.to_be_bytes());
        put::<16, 8, _>(&mut bytes, self.data_offset.to_be_bytes());
        put::<24, 4, _>(&mut bytes, self.timestamp.to_be_bytes());
        put::<28, 4, _>(&mut bytes, self.creator_application);
        put::<32, 4, _>(&mut bytes, self.creator_version.to_be_bytes());
        put::<36, 4, _>(&mut bytes, self.creator_host_os);
        put::<40, 8, _>(&mut bytes, self.original_size.to_be_bytes());
        put::<48, 8, _>(&mut bytes, self.current_size.to_be_bytes());
        put::<56, 2, _>(&mut bytes, self.geometry.cylinders.to_be_bytes());
        put::<58, 2, _>(&mut bytes, [self.geometry.heads, self.geometry.sectors_per_track]);
        put::<60, 4, _>(&mut bytes, self.kind.number().to_be_bytes());
        put::<68, 16, _>(&mut bytes, self.unique_id);
        put::<84, 2, _>(&mut bytes, [u8::from(self.saved_state), u8::from(self.hidden)]);
        let sum = checksum(&bytes, 64);
        put::<64, 4, _>(&mut bytes, sum.to_be_bytes());
        bytes
    }

    /// Whether the creator promises a batmap. `tap` 1.1 may have written one; only its cookie tells.
    pub fn promises_batmap(&self) -> bool {
        self.creator_application.starts_with(b"tap") && self.creator_version >= 0x0001_0002
    }
}

/// Whether a footer's checksum may be that of the same footer without its hidden flag.
fn may_sum_unhidden(bytes: &[u8; FOOTER_LEN]) -> bool {
    let version = u32_at::<32, _>(bytes);
    get::<85, 1, _>(bytes) == [1]
        && get::<28, 4, _>(bytes).starts_with(b"tap")
        && (version == 0x0000_0001 || version == 0x0001_0001)
}

/// Checks a virtual size that is written at byte `offset`: rules F6, F7 and F8.
pub(super) fn check_virtual_size(size: u64, offset: u64) -> Result<(), VhdError> {
    let bad = |rule, expected| {
        let found = Fact::Number(size);
        Err(VhdError::Malformed { rule, field: "virtual size", offset, expected, found })
    };
    match size {
        0 => bad(Rule::F6, Fact::AtLeast(512)),
        _ if !size.is_multiple_of(512) => bad(Rule::F7, Fact::Text("a multiple of 512")),
        _ if size > MAX_VIRTUAL_SIZE => Err(VhdError::TooLarge { offset, found: size }),
        _ => Ok(()),
    }
}

/// Checks that the trailing footer, at byte `offset`, equals its copy in front.
///
/// # Errors
/// What is wrong with the trailing footer by itself, else F11 at its first byte that differs.
pub(super) fn compare_copies(
    head: &[u8; FOOTER_LEN],
    tail: &[u8; FOOTER_LEN],
    offset: u64,
) -> Result<(), VhdError> {
    let differing = (offset..).zip(head.iter().zip(tail)).find(|(_, (head, tail))| head != tail);
    let Some((at, (&head, &found))) = differing else { return Ok(()) };
    Footer::parse(tail, offset)?;
    Err(VhdError::Malformed {
        rule: Rule::F11,
        field: "trailing footer, which must equal the copy in front,",
        offset: at,
        expected: Fact::Hex(u64::from(head)),
        found: Fact::Hex(u64::from(found)),
    })
}

/// A time as VHDs write it, seconds since 2000-01-01 UTC; the nearest possible one when it lies outside.
pub fn vhd_time(unix_seconds: i64) -> u32 {
    let seconds = unix_seconds.saturating_sub(EPOCH);
    u32::try_from(seconds).unwrap_or(if seconds < 0 { 0 } else { u32::MAX })
}

fn hex(n: u32) -> Fact {
    Fact::Hex(u64::from(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_parsed_again() {
        let mut footer = Footer::dynamic(64 << 20, [7; 16], 42).unwrap();
        assert_eq!(Footer::parse(&footer.encode(), 0), Ok(footer.clone()));
        footer = Footer {
            kind: DiskKind::Fixed,
            data_offset: u64::MAX,
            hidden: true,
            saved_state: true,
            ..footer
        };
        assert_eq!(Footer::parse(&footer.encode(), 99), Ok(footer));
        assert!(Footer::fixed(512, [1; 16], 0).is_ok());
    }

    #[test]
    fn every_flipped_bit_of_a_footer_is_an_error() {
        let good = Footer::dynamic(64 << 20, [7; 16], 42).unwrap().encode();
        for bit in 0..FOOTER_LEN * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = Footer::parse(&bytes, 0).expect_err("a flipped bit must not pass");
            assert!(matches!(error.rule(), "F2" | "F3"), "bit {bit}: {error}");
        }
    }

    #[test]
    fn old_tap_may_sum_a_hidden_footer_as_if_it_were_not() {
        for (version, accepted) in
            [(1, true), (0x0001_0001, true), (0x0001_0003, false), (0x0001_0000, false)]
        {
            let plain = Footer { creator_version: version, ..Footer::dynamic(2 << 20, [1; 16], 0).unwrap() };
            let mut bytes = plain.encode();
            bytes[85] = 1;
            let parsed = Footer::parse(&bytes, 0);
            assert_eq!(parsed.is_ok(), accepted, "version {version:#x}");
            bytes[28] = b'x';
            assert_eq!(Footer::parse(&bytes, 0).unwrap_err().rule(), "F3");
            // With the flag summed it is right for everyone.
            let hidden = Footer { hidden: true, ..plain };
            assert_eq!(Footer::parse(&hidden.encode(), 0), Ok(hidden));
        }
    }

    #[test]
    fn sizes_that_no_vhd_can_have_are_refused() {
        let rule = |size| Footer::dynamic(size, [0; 16], 0).map_err(|e| e.rule());
        assert_eq!(rule(0).unwrap_err(), "F6");
        assert_eq!(rule(513).unwrap_err(), "F7");
        assert_eq!(rule(MAX_VIRTUAL_SIZE + 512).unwrap_err(), "F8");
        assert!(rule(MAX_VIRTUAL_SIZE).is_ok());
    }

    #[test]
    fn time_begins_in_2000_and_never_wraps() {
        assert_eq!(vhd_time(946_684_800), 0);
        assert_eq!(vhd_time(946_684_801), 1);
        assert_eq!(vhd_time(-5), 0);
        assert_eq!(vhd_time(i64::MAX), u32::MAX);
    }
}
