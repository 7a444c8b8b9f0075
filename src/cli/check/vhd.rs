//! Looks into a VHD: its structures, its bitmaps, its parents.

use super::chain;
use super::report::{Note, ParentFacts, Problem, Report, VhdFacts};
use super::source::{CheckError, Source, Stop};
use crate::formats::vhd::{BlockLocation, DiskKind, Fact, Footer, VhdError, VhdIndex, bitmap, open};

/// Bytes that are read at once.
const READ_BYTES: u64 = 64 << 10;

/// What is in a VHD.
pub(super) fn examine(source: &Source) -> Result<Report, CheckError> {
    let mut report = Report::new(source, "vhd");
    let index = match read_index(source) {
        Ok(index) => index,
        Err(Stop::File(error)) => return Err(error),
        Err(Stop::Image(error)) => {
            report.problem(Problem::vhd(None, &error));
            return Ok(report);
        }
    };
    index.warnings.iter().for_each(|warning| report.problem(Problem::vhd(None, warning)));
    let sectors = count_sectors(source, &index)?;
    if let Some(offset) = sectors.stale_at {
        report.notes.push(Note {
            code: "vhd_data_under_clear_bits",
            offset,
            message: format!(
                "{} sectors hold data although their bitmap says that they are not there, the first at byte {offset}: \
                 Gantry and XenServer read zeroes, programs that ignore bitmaps read the data",
                sectors.stale
            ),
        });
    }
    report.virtual_size = Some(index.virtual_size);
    let mut facts = facts(&index, sectors.present * 512);
    chain::examine(source, &index, &mut facts, &mut report)?;
    report.vhd = Some(facts);
    Ok(report)
}

/// Opens a file as a VHD.
pub(super) fn read_index(source: &Source) -> Result<VhdIndex, Stop> {
    open(source.len, |offset, buffer| source.read(offset, buffer).map_err(Stop::from))
}

fn facts(index: &VhdIndex, data_bytes: u64) -> VhdFacts {
    let sparse = index.kind != DiskKind::Fixed;
    VhdFacts {
        hidden: index.hidden,
        block_bytes: sparse.then_some(index.block_bytes),
        blocks: sparse.then(|| index.block_count()),
        allocated_blocks: sparse.then(|| index.allocated()),
        parent: index.parent.as_ref().map(|parent| ParentFacts {
            id: Fact::Id(parent.id).to_string(),
            names: parent.names.clone(),
            found: None,
        }),
        ..footer_facts(&index.footer, data_bytes)
    }
}

/// What a footer alone says.
pub(super) fn footer_facts(footer: &Footer, data_bytes: u64) -> VhdFacts {
    VhdFacts {
        kind: match footer.kind {
            DiskKind::Fixed => "fixed",
            DiskKind::Dynamic => "dynamic",
            DiskKind::Differencing => "differencing",
        },
        id: Fact::Id(footer.unique_id).to_string(),
        creator: footer
            .creator_application
            .iter()
            .filter(|b| b.is_ascii_graphic())
            .map(|&b| char::from(b))
            .collect(),
        creator_version: format!("{}.{}", footer.creator_version >> 16, footer.creator_version & 0xFFFF),
        hidden: footer.hidden,
        saved_state: footer.saved_state,
        block_bytes: None,
        blocks: None,
        allocated_blocks: None,
        data_bytes,
        parent: None,
        chain: Vec::new(),
    }
}

/// Sectors of the disk by what their bitmaps say.
#[derive(Debug, Default)]
struct Sectors {
    /// Those that are in the file.
    present: u64,
    /// Those of a dynamic disk that are not, although there is data in their place.
    stale: u64,
    /// Where the first of these is.
    stale_at: Option<u64>,
}

fn count_sectors(source: &Source, index: &VhdIndex) -> Result<Sectors, CheckError> {
    let mut sectors = Sectors::default();
    for (number, block) in index.blocks() {
        let start = number.saturating_mul(index.block_bytes);
        let visible = index.block_bytes.min(index.virtual_size.saturating_sub(start)) / 512;
        if block.bitmap_len == 0 {
            sectors.present += visible;
            continue;
        }
        // At most 64 KiB, for the largest blocks.
        let mut bits = vec![0; usize::try_from(block.bitmap_len).unwrap_or(0)];
        source.read(block.bitmap_offset, &mut bits)?;
        let visible = u32::try_from(visible).unwrap_or(u32::MAX);
        let mut at = 0;
        while at < visible {
            let (set, run) = bitmap::run_at(&bits, at, visible);
            if set {
                sectors.present += u64::from(run);
            } else if index.kind == DiskKind::Dynamic {
                sectors.find_stale(source, &block, at, run)?;
            }
            at += run;
        }
    }
    Ok(sectors)
}

impl Sectors {
    /// Looks for data in `run` sectors of a block that should hold none.
    fn find_stale(
        &mut self,
        source: &Source,
        block: &BlockLocation,
        at: u32,
        run: u32,
    ) -> Result<(), CheckError> {
        let mut offset = block.data_offset + u64::from(at) * 512;
        let end = offset + u64::from(run) * 512;
        let mut buffer = Vec::new();
        while offset < end {
            buffer.resize(usize::try_from(READ_BYTES.min(end - offset)).unwrap_or(0), 0);
            source.read(offset, &mut buffer)?;
            for (nth, _) in
                (0u64..).zip(buffer.chunks(512)).filter(|(_, sector)| sector.iter().any(|&b| b != 0))
            {
                self.stale += 1;
                self.stale_at.get_or_insert(offset + nth * 512);
            }
            offset += buffer.len() as u64;
        }
        Ok(())
    }
}

/// Where a child names its parent's id: for errors about parents.
pub(super) fn parent_id_offset(index: &VhdIndex) -> u64 {
    index.footer.data_offset.saturating_add(40)
}

/// A fault of the chain above `index`.
pub(super) fn chain_fault(
    rule: crate::formats::vhd::Rule,
    index: &VhdIndex,
    expected: Fact,
    found: Fact,
) -> VhdError {
    VhdError::Malformed { rule, field: "parent unique id", offset: parent_id_offset(index), expected, found }
}
