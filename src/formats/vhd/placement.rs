//! Where structures lie, and that none lies upon another.

use super::error::{Fact, Rule, VhdError};
use super::footer::{FOOTER_LEN, Footer};
use super::header::{DynamicHeader, HEADER_LEN};

/// A BAT entry that stands for no block.
pub const UNUSED_ENTRY: u32 = u32::MAX;

/// What is known about a dynamic or differencing image before its blocks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement {
    /// Where the header is.
    header_offset: u64,
    /// What the header says.
    pub(super) header: DynamicHeader,
    /// Number of entries that belong to blocks of the disk.
    pub(super) needed: u32,
    /// Where the trailing footer begins; `None` while a stream has not shown its end.
    end: Option<u64>,
}

/// Checks that the dynamic header to which the footer at byte `at` refers ends before `end`, when that is known.
///
/// # Errors
/// H2.
pub(super) fn check_header_offset(footer: &Footer, at: u64, end: Option<u64>) -> Result<(), VhdError> {
    let last = end.unwrap_or(u64::MAX).checked_sub(HEADER_LEN as u64);
    if last.is_some_and(|last| footer.data_offset <= last) {
        return Ok(());
    }
    let (expected, found) = (Fact::AtMost(last.unwrap_or_default()), Fact::Number(footer.data_offset));
    let offset = at.saturating_add(16);
    Err(VhdError::Malformed { rule: Rule::H2, field: "data offset", offset, expected, found })
}

impl Placement {
    /// Checks what header and footer say about positions.
    ///
    /// # Errors
    /// The first breach of the rules B2, B3, L4, and B6 as far as it is about locators.
    pub(super) fn new(footer: &Footer, header: DynamicHeader, end: Option<u64>) -> Result<Self, VhdError> {
        let header_offset = footer.data_offset;
        let needed = header.needed_entries(footer.current_size);
        let placement = Self { header_offset, header, needed, end };
        placement.check_table()?;
        placement.check_locators()?;
        Ok(placement)
    }

    /// Length of a block in the file: bitmap and data.
    pub(super) fn slot_bytes(&self) -> u64 {
        u64::from(self.header.bitmap_bytes()) + u64::from(self.header.block_bytes)
    }

    /// The byte behind the BAT.
    pub(super) fn table_end(&self) -> u64 {
        self.header.table_offset.saturating_add(self.header.table_bytes())
    }

    /// Where the BAT entry of block `index` is written.
    pub(super) fn entry_offset(&self, index: u32) -> u64 {
        self.header.table_offset.saturating_add(u64::from(index) * 4)
    }

    /// Footer copy and header: what lies at places that the BAT cannot change.
    fn fixed_parts(&self) -> [(u64, u64, &'static str); 2] {
        [
            (0, FOOTER_LEN as u64, "a place behind the footer copy"),
            (self.header_offset, self.header_end(), "a place outside of the dynamic header"),
        ]
    }

    /// The byte behind the header.
    pub(super) fn header_end(&self) -> u64 {
        self.header_offset.saturating_add(HEADER_LEN as u64)
    }

    fn check_table(&self) -> Result<(), VhdError> {
        let (start, len) = (self.header.table_offset, self.header.table_bytes());
        let bad = |rule, expected| {
            let (offset, found) = (self.header_offset.saturating_add(16), Fact::Number(start));
            Err(VhdError::Malformed { rule, field: "table offset", offset, expected, found })
        };
        // A table that wraps around 64 bits ends nowhere, not before everything.
        let Some(table_end) = start.checked_add(len) else {
            return bad(Rule::B3, Fact::AtMost(u64::MAX - len));
        };
        for (from, to, expected) in self.fixed_parts() {
            if start < to && from < table_end {
                return bad(Rule::B2, Fact::Text(expected));
            }
        }
        match self.end {
            Some(end) if table_end > end => bad(Rule::B3, Fact::AtMost(end.saturating_sub(len))),
            _ => Ok(()),
        }
    }

    fn check_locators(&self) -> Result<(), VhdError> {
        for (nth, locator) in self.header.locators.iter().enumerate() {
            let Some(locator) = locator else { continue };
            let bad = |rule, expected| {
                let offset = self.header_offset.saturating_add(576 + nth as u64 * 24 + 16);
                let found = Fact::Number(locator.offset);
                Err(VhdError::Malformed { rule, field: "parent locator offset", offset, expected, found })
            };
            let Some(locator_end) = locator.offset.checked_add(locator.space) else {
                return bad(Rule::L4, Fact::AtMost(u64::MAX - locator.space));
            };
            if let Some(end) = self.end.filter(|&end| locator_end > end) {
                return bad(Rule::L4, Fact::AtMost(end.saturating_sub(locator.space)));
            }
            let table = (self.header.table_offset, self.table_end(), "a place outside of the BAT");
            for (from, to, expected) in self.fixed_parts().into_iter().chain([table]) {
                if locator.offset < to && from < locator_end {
                    return bad(Rule::B6, Fact::Text(expected));
                }
            }
        }
        Ok(())
    }

    /// Checks locators against an end that became known only there.
    ///
    /// # Errors
    /// L4.
    pub(super) fn check_end(&self, end: u64) -> Result<(), VhdError> {
        Self { end: Some(end), ..self.clone() }.check_locators()
    }

    /// Checks the entry of block `index` by itself; `true` when it stands for a block.
    ///
    /// # Errors
    /// B4, B5.
    pub(super) fn check_entry(&self, index: u32, entry: u32) -> Result<bool, VhdError> {
        if entry == UNUSED_ENTRY {
            return Ok(false);
        }
        let bad = |rule, expected| {
            let (offset, found) = (self.entry_offset(index), Fact::Number(u64::from(entry)));
            Err(VhdError::Malformed { rule, field: "BAT entry", offset, expected, found })
        };
        if index >= self.needed {
            return bad(Rule::B4, Fact::Hex(u64::from(UNUSED_ENTRY)));
        }
        let last = self.end.map(|end| end.checked_sub(self.slot_bytes()));
        match last {
            Some(Some(last)) if u64::from(entry) * 512 <= last => Ok(true),
            Some(last) => bad(Rule::B5, Fact::AtMost(last.unwrap_or_default() / 512)),
            None => Ok(true),
        }
    }

    /// Checks that no block overlaps another one or any other structure.
    ///
    /// `sectors` are the used entries in ascending order; `index_of` finds the block of the nth of them.
    ///
    /// # Errors
    /// B6.
    pub(super) fn check_overlaps(
        &self,
        sectors: impl Iterator<Item = u32>,
        index_of: impl Fn(usize, u32) -> u32,
    ) -> Result<(), VhdError> {
        let mut others = self.fixed_parts().to_vec();
        others.push((self.header.table_offset, self.table_end(), "a place outside of the BAT"));
        others.extend(self.header.locators.iter().flatten().map(|locator| {
            (locator.offset, locator.offset.saturating_add(locator.space), "a place outside of locator data")
        }));
        let mut free_from = 0;
        for (nth, sector) in sectors.enumerate() {
            let bad = |expected| {
                let (offset, found) =
                    (self.entry_offset(index_of(nth, sector)), Fact::Number(u64::from(sector)));
                Err(VhdError::Malformed { rule: Rule::B6, field: "BAT entry", offset, expected, found })
            };
            let start = u64::from(sector) * 512;
            let end = start + self.slot_bytes();
            if start < free_from {
                return bad(Fact::AtLeast(free_from / 512));
            }
            if let Some((_, _, expected)) = others.iter().find(|(from, to, _)| start < *to && *from < end) {
                return bad(Fact::Text(expected));
            }
            free_from = end;
        }
        Ok(())
    }
}
