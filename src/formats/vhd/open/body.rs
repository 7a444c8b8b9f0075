//! What is checked when BAT, locators and batmap of a file are known.

use super::super::batmap::{BATMAP_HEADER_LEN, BatmapHeader, MapSum};
use super::super::error::{Fact, Rule, VhdError};
use super::super::footer::DiskKind;
use super::super::index::VhdIndex;
use super::super::locator::Locator;
use super::super::placement::{Placement, UNUSED_ENTRY};
use super::{Found, OpenStep};

/// A file whose header was read.
#[derive(Debug, Clone)]
pub(super) struct Body {
    pub(super) found: Found,
    pub(super) placement: Placement,
    pub(super) bat: Vec<u32>,
    /// Number of entries that were checked, those beyond the disk included.
    pub(super) entries: u32,
    pub(super) names: Vec<String>,
}

/// The version of the first batmaps, in which the map's bytes are summed signed.
pub(super) const SIGNED_BATMAP: u32 = 0x0001_0001;

impl Body {
    pub(super) fn new(found: Found, placement: Placement) -> Self {
        Self { found, placement, bat: Vec::new(), entries: 0, names: Vec::new() }
    }

    pub(super) fn take_entries(&mut self, bytes: &[u8]) -> Result<(), VhdError> {
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

    pub(super) fn check_overlaps(&self) -> Result<(), VhdError> {
        let mut sectors: Vec<u32> = self.bat.iter().copied().filter(|&entry| entry != UNUSED_ENTRY).collect();
        sectors.sort_unstable();
        self.placement.check_overlaps(sectors.iter().copied(), |_, sector| {
            let index = self.bat.iter().rposition(|&entry| entry == sector).unwrap_or_default();
            u32::try_from(index).unwrap_or(u32::MAX)
        })
    }

    /// The locators from which the parent's name can be read; none when there is no parent.
    pub(super) fn readable_locators(&self) -> Vec<Locator> {
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
    pub(super) fn may_have_batmap(&self) -> bool {
        let footer = &self.found.footer;
        footer.promises_batmap()
            || (footer.creator_application.starts_with(b"tap") && footer.creator_version == SIGNED_BATMAP)
    }

    pub(super) fn warn_of_missing_batmap(&mut self) {
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
    pub(super) fn batmap_header(
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

    pub(super) fn check_map(&self, header: &BatmapHeader, sum: &MapSum) -> Option<VhdError> {
        let at = self.placement.table_end().saturating_add(24);
        let (written, computed) = (header.checksum, sum.checksum());
        let (expected, found) = (Fact::Hex(u64::from(computed)), Fact::Hex(u64::from(written)));
        (written != computed).then(|| batmap(Rule::M5, "batmap checksum", at, expected, found))
    }

    pub(super) fn done(self: Box<Self>) -> OpenStep {
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
