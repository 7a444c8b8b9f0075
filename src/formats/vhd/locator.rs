//! Parent locators and the names under which a child knows its parent.
//!
//! Facts: the VHD image format specification ("Parent Locator Entry"); blktap and Microsoft for the data space,
//! which the specification counts in sectors and both write in bytes.

use std::fmt;

use super::error::{Fact, Rule, VhdError, write_id};
use super::fields::{get, put, u32_at, u64_at};

/// Length of a locator in the header, in bytes.
pub const LOCATOR_LEN: usize = 24;
/// Longest locator data in bytes: more than twice the longest path that Windows knows would be absurd.
pub const MAX_LOCATOR_DATA: u32 = 64 << 10;

/// How a locator writes the parent's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Platform {
    /// `W2ru`: a relative path in UTF-16, little endian.
    WindowsRelative,
    /// `W2ku`: an absolute path in UTF-16, little endian.
    WindowsAbsolute,
    /// `MacX`: a `file:` URL in UTF-8.
    MacUrl,
    /// `Mac `: an alias blob that nothing but old Mac OS can read.
    MacAlias,
    /// `Wi2r` or `Wi2k`: deprecated; what they hold was never specified.
    Deprecated([u8; 4]),
}

impl Platform {
    fn of(code: [u8; 4]) -> Option<Self> {
        match &code {
            b"W2ru" => Some(Self::WindowsRelative),
            b"W2ku" => Some(Self::WindowsAbsolute),
            b"MacX" => Some(Self::MacUrl),
            b"Mac " => Some(Self::MacAlias),
            b"Wi2r" | b"Wi2k" => Some(Self::Deprecated(code)),
            _ => None,
        }
    }

    fn code(self) -> [u8; 4] {
        match self {
            Self::WindowsRelative => *b"W2ru",
            Self::WindowsAbsolute => *b"W2ku",
            Self::MacUrl => *b"MacX",
            Self::MacAlias => *b"Mac ",
            Self::Deprecated(code) => code,
        }
    }
}

/// A locator in use: where a name of the parent lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locator {
    /// How the name is written.
    pub platform: Platform,
    /// Bytes that are set aside for the name, a multiple of 512.
    pub space: u64,
    /// Bytes of the name, 1 to [`MAX_LOCATOR_DATA`].
    pub len: u32,
    /// Where the name begins, in bytes from the start of the file.
    pub offset: u64,
}

impl Locator {
    /// Reads the locator that lies at byte `at`; `None` is an unused slot.
    ///
    /// # Errors
    /// The first breach of the rules L1 to L3.
    pub fn parse(bytes: &[u8; LOCATOR_LEN], at: u64) -> Result<Option<Self>, VhdError> {
        let code = get::<0, 4, _>(bytes);
        if code == [0; 4] {
            return Ok(None);
        }
        let bad = |rule, field, offset, expected, found| {
            Err(VhdError::Malformed { rule, field, offset: at.saturating_add(offset), expected, found })
        };
        let Some(platform) = Platform::of(code) else {
            let expected = Fact::Text("W2ru, W2ku, MacX, Mac, Wi2r, Wi2k or none");
            return bad(Rule::L1, "parent locator code", 0, expected, Fact::Tag(code));
        };
        let written = u32_at::<4, _>(bytes);
        let space = if written < 512 { u64::from(written) * 512 } else { u64::from(written) };
        if !space.is_multiple_of(512) {
            let expected = Fact::Text("a number of sectors, or of bytes in whole sectors");
            return bad(Rule::L2, "parent locator space", 4, expected, Fact::Number(space));
        }
        let len = u32_at::<8, _>(bytes);
        let most = space.min(u64::from(MAX_LOCATOR_DATA));
        if len == 0 || u64::from(len) > most {
            let found = Fact::Number(u64::from(len));
            return bad(Rule::L3, "parent locator length", 8, Fact::Between(1, most), found);
        }
        Ok(Some(Self { platform, space, len, offset: u64_at::<16, _>(bytes) }))
    }

    /// The locator's bytes, space in bytes as Microsoft and XenServer write it.
    pub fn encode(&self) -> [u8; LOCATOR_LEN] {
        let mut bytes = [0; LOCATOR_LEN];
        put::<0, 4, _>(&mut bytes, self.platform.code());
        put::<4, 4, _>(&mut bytes, u32::try_from(self.space).unwrap_or(u32::MAX).to_be_bytes());
        put::<8, 4, _>(&mut bytes, self.len.to_be_bytes());
        put::<16, 8, _>(&mut bytes, self.offset.to_be_bytes());
        bytes
    }

    /// Whether the name can be read at all.
    pub fn is_readable(&self) -> bool {
        matches!(self.platform, Platform::WindowsRelative | Platform::WindowsAbsolute | Platform::MacUrl)
    }

    /// The base names that this locator's data gives: none, one, or for a URL with escapes two.
    pub fn base_names(&self, data: &[u8]) -> Vec<String> {
        let path = match self.platform {
            Platform::WindowsRelative | Platform::WindowsAbsolute => utf16(
                data.chunks_exact(2).filter_map(|c| c.first_chunk::<2>()).map(|c| u16::from_le_bytes(*c)),
            ),
            Platform::MacUrl => {
                let text = data.split(|&b| b == 0).next().unwrap_or_default();
                std::str::from_utf8(text).map(str::to_owned).ok()
            }
            Platform::MacAlias | Platform::Deprecated(_) => None,
        };
        let Some(path) = path else { return Vec::new() };
        let escaped = matches!(self.platform, Platform::MacUrl).then(|| unescape(&path)).flatten();
        [Some(path), escaped].into_iter().flatten().filter_map(|path| base_name(&path)).collect()
    }
}

/// The parent that a differencing disk needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentRef {
    /// The unique id in the parent's footer.
    pub id: [u8; 16],
    /// When the parent was last changed, as the child saw it, in seconds since 2000. Advisory.
    pub timestamp: u32,
    /// Names that the parent's file may have, the best first. Only base names: none leads out of the
    /// directory in which it is looked up.
    pub names: Vec<String>,
}

impl fmt::Display for ParentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_id(f, &self.id)?;
        match self.names.first() {
            Some(name) => write!(f, " ({name:?})"),
            None => Ok(()),
        }
    }
}

/// Text of UTF-16 units up to the first NUL; `None` when it is none.
pub(super) fn utf16(units: impl Iterator<Item = u16>) -> Option<String> {
    char::decode_utf16(units.take_while(|&unit| unit != 0)).collect::<Result<String, _>>().ok()
}

/// The last component of a path, whichever way its slashes lean; `None` when that is no file's name.
pub(super) fn base_name(path: &str) -> Option<String> {
    let name = path.rsplit(['/', '\\']).next()?;
    (!matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(char::is_control))
        .then(|| name.to_owned())
}

/// A URL's path with its percent escapes replaced; `None` when it has none, or they are not UTF-8.
fn unescape(url: &str) -> Option<String> {
    let mut parts = url.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    let mut escapes = 0;
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
        escapes += 1;
    }
    (escapes > 0).then(|| String::from_utf8(bytes).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locator(platform: Platform) -> Locator {
        Locator { platform, space: 512, len: 40, offset: 4096 }
    }

    #[test]
    fn space_is_read_in_sectors_and_in_bytes() {
        let good = locator(Platform::MacUrl);
        let mut bytes = good.encode();
        assert_eq!(Locator::parse(&bytes, 0), Ok(Some(good)));
        bytes[4..8].copy_from_slice(&1u32.to_be_bytes());
        assert_eq!(Locator::parse(&bytes, 0), Ok(Some(good)));
        bytes[..4].fill(0);
        assert_eq!(Locator::parse(&bytes, 0), Ok(None));
    }

    #[test]
    fn only_base_names_come_out_of_a_locator() {
        let windows = |path: &str| {
            let data: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
            locator(Platform::WindowsRelative).base_names(&data)
        };
        assert_eq!(windows(".\\parent.vhd"), ["parent.vhd"]);
        assert_eq!(windows("C:\\disks\\parent.vhd\0junk"), ["parent.vhd"]);
        assert_eq!(windows("..\\..\\etc\\passwd"), ["passwd"]);
        assert!(windows("..").is_empty() && windows("a\\..").is_empty() && windows("").is_empty());
        let mac = |url: &str| locator(Platform::MacUrl).base_names(url.as_bytes());
        assert_eq!(mac("file://./parent.vhd"), ["parent.vhd"]);
        assert_eq!(mac("file://./a%20b.vhd"), ["a%20b.vhd", "a b.vhd"]);
        assert_eq!(mac("file://./x%2F.."), ["x%2F.."]);
        assert_eq!(mac("file://./100%.vhd"), ["100%.vhd"]);
        assert!(locator(Platform::MacAlias).base_names(b"parent.vhd").is_empty());
        assert!(mac("\0\0\0\0").is_empty());
    }
}
