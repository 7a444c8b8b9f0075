//! Opens a VHD file that can be read at any place, without reading it itself: the opener says which bytes it
//! needs, and is given them.
//!
//! Compared with a stream a file may be in more disorder: the BAT may lie in front of the header, blocks in front of the
//! BAT, and the trailing footer may be missing or damaged when the copy in front is good. XenServer rewrites
//! the trailing one late, so that is how a file looks after a crash. That, and a batmap that is not what its
//! creator promises, are warnings; everything else is an error.

use super::batmap::{BATMAP_HEADER_LEN, BatmapHeader, MapSum};
use super::error::{Fact, Rule, VhdError};
use super::footer::{DiskKind, FOOTER_LEN, Footer, compare_copies};
use super::header::{DynamicHeader, HEADER_LEN};
use super::index::VhdIndex;
use super::locator::Locator;
use super::placement::{Placement, UNUSED_ENTRY, check_header_offset};

/// Most bytes that an opener asks for at once.
pub const MAX_NEED: usize = 64 << 10;

/// What an opener wants, or has found.
#[derive(Debug, Clone)]
pub enum OpenStep {
    /// More bytes: those that [`VhdOpener::need`] names.
    Need(VhdOpener),
    /// Nothing: this is the file.
    Done(Box<VhdIndex>),
}

/// Opens a VHD file in steps.
#[derive(Debug, Clone)]
pub struct VhdOpener {
    file_len: u64,
    stage: Stage,
}

/// What is needed next.
#[derive(Debug, Clone)]
enum Stage {
    /// The last 512 bytes.
    Tail,
    /// The first 512 bytes. The last ones are known, and what they say.
    Head { tail: Box<[u8; FOOTER_LEN]>, footer: Result<Box<Footer>, VhdError> },
    /// The dynamic header.
    Header(Box<Found>),
    /// BAT entries.
    Table(Box<Body>),
    /// The data of a locator, and of those after it.
    Names { body: Box<Body>, locator: Locator, rest: std::vec::IntoIter<Locator> },
    /// The batmap's header.
    BatmapHeader(Box<Body>),
    /// The batmap's map, from byte `at` of the file on.
    Map { body: Box<Body>, header: BatmapHeader, at: u64, end: u64, sum: MapSum },
}

/// A footer that is believed.
#[derive(Debug, Clone)]
struct Found {
    footer: Footer,
    /// Where that footer is.
    footer_offset: u64,
    /// Where the trailing footer begins; the file's end when there is none.
    end: u64,
    warnings: Vec<VhdError>,
}

/// A file whose header was read.
#[derive(Debug, Clone)]
struct Body {
    found: Found,
    placement: Placement,
    bat: Vec<u32>,
    /// Number of entries that were checked, those beyond the disk included.
    entries: u32,
    names: Vec<String>,
}

/// Opens a file of `file_len` bytes with `read_exact_at`, which fills a buffer from an offset on.
///
/// # Errors
/// What `read_exact_at` fails with, and what is wrong with the file.
pub fn open<E: From<VhdError>>(
    file_len: u64,
    mut read_exact_at: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<VhdIndex, E> {
    let mut opener = VhdOpener::new(file_len)?;
    let mut buffer = Vec::new();
    loop {
        let (offset, len) = opener.need();
        buffer.resize(len, 0);
        read_exact_at(offset, &mut buffer)?;
        match opener.supply(&buffer)? {
            OpenStep::Need(next) => opener = next,
            OpenStep::Done(index) => return Ok(*index),
        }
    }
}

impl VhdOpener {
    /// An opener for a file of `file_len` bytes.
    ///
    /// # Errors
    /// F1.
    pub fn new(file_len: u64) -> Result<Self, VhdError> {
        if file_len < FOOTER_LEN as u64 {
            let (expected, found) = (Fact::AtLeast(FOOTER_LEN as u64), Fact::Number(file_len));
            return Err(VhdError::Malformed {
                rule: Rule::F1,
                field: "file length",
                offset: 0,
                expected,
                found,
            });
        }
        Ok(Self { file_len, stage: Stage::Tail })
    }

    /// Offset and number of the bytes to [`supply`](Self::supply): at least 1, at most [`MAX_NEED`], all of them
    /// inside of the file.
    pub fn need(&self) -> (u64, usize) {
        match &self.stage {
            Stage::Tail => (self.file_len.saturating_sub(FOOTER_LEN as u64), FOOTER_LEN),
            Stage::Head { .. } => (0, FOOTER_LEN),
            Stage::Header(found) => (found.footer.data_offset, HEADER_LEN),
            Stage::Table(body) => {
                let left = body.placement.header.entries.saturating_sub(body.entries) as usize;
                (body.placement.entry_offset(body.entries), left.saturating_mul(4).min(MAX_NEED))
            }
            Stage::Names { locator, .. } => (locator.offset, locator.len as usize),
            Stage::BatmapHeader(body) => (body.placement.table_end(), BATMAP_HEADER_LEN),
            Stage::Map { at, end, .. } => {
                (*at, usize::try_from(end.saturating_sub(*at)).unwrap_or(MAX_NEED).min(MAX_NEED))
            }
        }
    }

    /// Takes the bytes that were needed, and says what is next.
    ///
    /// # Errors
    /// What is wrong with the file; T when there are fewer bytes than needed.
    pub fn supply(self, bytes: &[u8]) -> Result<OpenStep, VhdError> {
        let (offset, len) = self.need();
        let Some(bytes) = bytes.get(..len) else {
            let found = offset.saturating_add(bytes.len() as u64);
            let expected = offset.saturating_add(len as u64);
            return Err(VhdError::Truncated { field: "file", offset, expected, found });
        };
        let file_len = self.file_len;
        let next = |stage| Ok(OpenStep::Need(Self { file_len, stage }));
        match self.stage {
            Stage::Tail => {
                let tail = Box::new(array::<FOOTER_LEN>(bytes));
                match Footer::parse(&tail, offset) {
                    Ok(footer) if footer.kind == DiskKind::Fixed => fixed(footer, offset),
                    Ok(footer) => next(Stage::Head { tail, footer: Ok(Box::new(footer)) }),
                    Err(error @ VhdError::Malformed { rule: Rule::F2 | Rule::F3, .. }) => {
                        next(Stage::Head { tail, footer: Err(error) })
                    }
                    Err(error) => Err(error),
                }
            }
            Stage::Head { tail, footer } => {
                let found = believe(file_len, &array::<FOOTER_LEN>(bytes), &tail, footer)?;
                check_header_offset(&found.footer, found.footer_offset, Some(found.end))?;
                next(Stage::Header(Box::new(found)))
            }
            Stage::Header(found) => {
                let header = DynamicHeader::parse(&array::<HEADER_LEN>(bytes), &found.footer)?;
                let placement = Placement::new(&found.footer, header, Some(found.end))?;
                let body = Body { found: *found, placement, bat: Vec::new(), entries: 0, names: Vec::new() };
                next(Stage::Table(Box::new(body)))
            }
            Stage::Table(mut body) => {
                body.take_entries(bytes)?;
                if body.entries < body.placement.header.entries {
                    return next(Stage::Table(body));
                }
                body.check_overlaps()?;
                let locators = body.readable_locators().into_iter();
                Ok(names_or_batmap(file_len, body, locators))
            }
            Stage::Names { mut body, locator, rest } => {
                body.names.extend(locator.base_names(bytes));
                Ok(names_or_batmap(file_len, body, rest))
            }
            Stage::BatmapHeader(mut body) => {
                match body.batmap_header(&array::<BATMAP_HEADER_LEN>(bytes), offset) {
                    Ok(Some((header, end, sum))) => {
                        next(Stage::Map { at: header.map_offset, body, header, end, sum })
                    }
                    Ok(None) => Ok(body.done()),
                    Err(warning) => {
                        body.found.warnings.push(warning);
                        Ok(body.done())
                    }
                }
            }
            Stage::Map { mut body, header, at, end, mut sum } => {
                sum.add(bytes, header.version == SIGNED_BATMAP);
                let at = at.saturating_add(bytes.len() as u64);
                if at < end {
                    return next(Stage::Map { body, header, at, end, sum });
                }
                body.found.warnings.extend(body.check_map(&header, &sum));
                Ok(body.done())
            }
        }
    }
}

/// What comes when the BAT is known: names of the parent, then the batmap, then nothing.
fn names_or_batmap(
    file_len: u64,
    mut body: Box<Body>,
    mut locators: std::vec::IntoIter<Locator>,
) -> OpenStep {
    let stage = if let Some(locator) = locators.next() {
        Stage::Names { body, locator, rest: locators }
    } else if !body.may_have_batmap() {
        return body.done();
    } else if body.placement.table_end().saturating_add(BATMAP_HEADER_LEN as u64) > body.found.end {
        body.warn_of_missing_batmap();
        return body.done();
    } else {
        Stage::BatmapHeader(body)
    };
    OpenStep::Need(VhdOpener { file_len, stage })
}

/// A fixed disk whose footer is at byte `offset`.
fn fixed(footer: Footer, offset: u64) -> Result<OpenStep, VhdError> {
    let virtual_size = footer.current_size;
    if virtual_size != offset {
        return Err(VhdError::Malformed {
            rule: Rule::F10,
            field: "current size",
            offset: offset.saturating_add(48),
            expected: Fact::Number(offset),
            found: Fact::Number(virtual_size),
        });
    }
    Ok(OpenStep::Done(Box::new(VhdIndex {
        kind: footer.kind,
        virtual_size,
        block_bytes: virtual_size,
        hidden: footer.hidden,
        unique_id: footer.unique_id,
        parent: None,
        warnings: Vec::new(),
        bitmap_bytes: 0,
        bat: Vec::new(),
        footer,
    })))
}

/// Chooses between the trailing footer and its copy in front: the first when both are equal, the copy when the
/// trailing one is damaged.
fn believe(
    file_len: u64,
    head: &[u8; FOOTER_LEN],
    tail: &[u8; FOOTER_LEN],
    footer: Result<Box<Footer>, VhdError>,
) -> Result<Found, VhdError> {
    let tail_offset = file_len.saturating_sub(FOOTER_LEN as u64);
    match footer {
        Ok(footer) => {
            compare_copies(head, tail, tail_offset)?;
            Ok(Found { footer: *footer, footer_offset: tail_offset, end: tail_offset, warnings: Vec::new() })
        }
        Err(damage) => match Footer::parse(head, 0) {
            Ok(footer) if footer.kind != DiskKind::Fixed => {
                Ok(Found { footer, footer_offset: 0, end: file_len, warnings: vec![damage] })
            }
            Ok(_) | Err(_) => Err(damage),
        },
    }
}

/// The version of the first batmaps, in which the map's bytes are summed signed.
const SIGNED_BATMAP: u32 = 0x0001_0001;

impl Body {
    fn take_entries(&mut self, bytes: &[u8]) -> Result<(), VhdError> {
        for entry in bytes.chunks_exact(4).filter_map(|chunk| chunk.first_chunk::<4>()) {
            let entry = u32::from_be_bytes(*entry);
            self.placement.check_entry(self.entries, entry)?;
            if self.entries < self.placement.needed {
                self.bat.push(entry);
            }
            self.entries += 1;
        }
        Ok(())
    }

    fn check_overlaps(&self) -> Result<(), VhdError> {
        let mut sectors: Vec<u32> = self.bat.iter().copied().filter(|&entry| entry != UNUSED_ENTRY).collect();
        sectors.sort_unstable();
        self.placement.check_overlaps(sectors.iter().copied(), |_, sector| {
            let index = self.bat.iter().rposition(|&entry| entry == sector).unwrap_or_default();
            u32::try_from(index).unwrap_or(u32::MAX)
        })
    }

    /// The locators from which the parent's name can be read; none when there is no parent.
    fn readable_locators(&self) -> Vec<Locator> {
        let has_parent = self.found.footer.kind == DiskKind::Differencing;
        self.placement
            .header
            .locators
            .iter()
            .flatten()
            .filter(|l| has_parent && l.is_readable())
            .copied()
            .collect()
    }

    /// Whether the creator promises a batmap, or is the one version of which some files have one.
    fn may_have_batmap(&self) -> bool {
        let footer = &self.found.footer;
        footer.promises_batmap()
            || (footer.creator_application.starts_with(b"tap") && footer.creator_version == SIGNED_BATMAP)
    }

    fn warn_of_missing_batmap(&mut self) {
        if self.found.footer.promises_batmap() {
            let most = self.found.end.saturating_sub(BATMAP_HEADER_LEN as u64);
            let at = self.placement.table_end();
            self.found.warnings.push(batmap(
                Rule::M1,
                "batmap header",
                at,
                Fact::AtMost(most),
                Fact::Number(at),
            ));
        }
    }

    /// Reads the batmap's header, at byte `at`: what of the map is to be summed. `None` when there is no batmap
    /// and none was promised.
    fn batmap_header(
        &self,
        bytes: &[u8; BATMAP_HEADER_LEN],
        at: u64,
    ) -> Result<Option<(BatmapHeader, u64, MapSum)>, VhdError> {
        let header = match BatmapHeader::parse(bytes, at) {
            Ok(header) => header,
            Err(_) if !self.found.footer.promises_batmap() => return Ok(None),
            Err(error) => return Err(error),
        };
        let needed = u64::from(self.placement.needed).div_ceil(8).div_ceil(512);
        if u64::from(header.map_sectors) < needed {
            let found = Fact::Number(u64::from(header.map_sectors));
            return Err(batmap(
                Rule::M4,
                "batmap length",
                at.saturating_add(16),
                Fact::AtLeast(needed),
                found,
            ));
        }
        let end = header.map_offset.checked_add(header.map_bytes());
        if end.is_none_or(|end| end > self.found.end) {
            let most = Fact::AtMost(self.found.end.saturating_sub(header.map_bytes()));
            return Err(batmap(
                Rule::M2,
                "batmap offset",
                at.saturating_add(8),
                most,
                Fact::Number(header.map_offset),
            ));
        }
        let sum = MapSum::new(self.found.footer.current_size);
        let end = header.map_offset.saturating_add(sum.bytes().min(header.map_bytes()));
        Ok(Some((header, end, sum)))
    }

    fn check_map(&self, header: &BatmapHeader, sum: &MapSum) -> Option<VhdError> {
        let at = self.placement.table_end().saturating_add(24);
        let (written, computed) = (header.checksum, sum.checksum());
        let (expected, found) = (Fact::Hex(u64::from(computed)), Fact::Hex(u64::from(written)));
        (written != computed).then(|| batmap(Rule::M5, "batmap checksum", at, expected, found))
    }

    fn done(self: Box<Self>) -> OpenStep {
        let Body { found, placement, bat, names, .. } = *self;
        let footer = found.footer;
        let parent = (footer.kind == DiskKind::Differencing).then(|| placement.header.parent(names));
        OpenStep::Done(Box::new(VhdIndex {
            kind: footer.kind,
            virtual_size: footer.current_size,
            block_bytes: u64::from(placement.header.block_bytes),
            hidden: footer.hidden,
            unique_id: footer.unique_id,
            parent,
            warnings: found.warnings,
            bitmap_bytes: placement.header.bitmap_bytes(),
            bat,
            footer,
        }))
    }
}

fn batmap(rule: Rule, field: &'static str, offset: u64, expected: Fact, found: Fact) -> VhdError {
    VhdError::Malformed { rule, field, offset, expected, found }
}

/// The first `N` of bytes that are at least as many.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk::<N>().copied().unwrap_or([0; N])
}
