//! What `gantry check` says, as text and as JSON.

use serde::Serialize;

use super::archive_facts::ArchiveFacts;
use super::source::Source;
use crate::formats::vhd::VhdError;

/// What was found in an image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) file: String,
    /// `vhd`, `raw` or `xva`.
    pub(super) format: &'static str,
    pub(super) sound: bool,
    /// Bytes of the file.
    pub(super) file_length: u64,
    /// Bytes that the file takes on its file system.
    pub(super) stored_bytes: u64,
    /// Bytes of the disk in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) virtual_size: Option<u64>,
    /// How the file is compressed, if it is: all else is then about what is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) compression: Option<CompressionFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vhd: Option<VhdFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) xva: Option<ArchiveFacts>,
    pub(super) problems: Vec<Problem>,
    /// What is legal, but worth knowing.
    pub(super) notes: Vec<Note>,
}

/// What only a compressed file has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CompressionFacts {
    /// `gzip` or `zstd`.
    pub(super) codec: &'static str,
    /// Frames or members that are whole; all there are, if the file is sound.
    pub(super) frames: u64,
    /// Whether its end has a table of the frames, which fits them; none when it has a table that could not be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seekable: Option<bool>,
    /// Bytes that it unpacks to, when it was read to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) plain_length: Option<u64>,
}

/// What only a VHD has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VhdFacts {
    /// `fixed`, `dynamic` or `differencing`.
    pub(super) kind: &'static str,
    pub(super) id: String,
    /// The creator application's four characters, those that cannot be shown left out.
    pub(super) creator: String,
    pub(super) creator_version: String,
    pub(super) hidden: bool,
    pub(super) saved_state: bool,
    /// Bytes of a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) block_bytes: Option<u64>,
    /// Blocks of the disk, and those in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) blocks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allocated_blocks: Option<u64>,
    /// Bytes of the disk for which the file has data.
    pub(super) data_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<ParentFacts>,
    /// The files of the chain above this one, parent first, as far as they were found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) chain: Vec<String>,
}

/// The parent that a differencing VHD needs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ParentFacts {
    pub(super) id: String,
    /// The names under which it was looked for.
    pub(super) names: Vec<String>,
    /// The name under which it was found, with the right id.
    pub(super) found: Option<String>,
}

/// What is wrong.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Problem {
    /// The file that it is about, when that is not the one that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<&'static str>,
    pub(super) code: &'static str,
    /// The member of the archive that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) member: Option<String>,
    /// Where, in bytes from the beginning of that file, or of what is in it when it is compressed.
    pub(super) offset: u64,
    /// Where in the file, when that is compressed: how much of it had been read, or where it is damaged itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file_offset: Option<u64>,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn vhd(file: Option<String>, error: &VhdError) -> Self {
        let (rule, code, offset) = (Some(error.rule()), error.code(), error.offset());
        Self { file, rule, code, member: None, offset, file_offset: None, message: error.to_string() }
    }
}

/// What is worth knowing.
#[derive(Debug, Serialize)]
pub(super) struct Note {
    pub(super) code: &'static str,
    /// Where it is first seen, in bytes from the beginning of the file.
    pub(super) offset: u64,
    pub(super) message: String,
}

impl Report {
    pub(super) fn new(source: &Source, format: &'static str) -> Self {
        Self {
            file: source.path.display().to_string(),
            format,
            sound: true,
            file_length: source.len,
            stored_bytes: source.stored,
            virtual_size: None,
            compression: None,
            vhd: None,
            xva: None,
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn problem(&mut self, problem: Problem) {
        self.sound = false;
        self.problems.push(problem);
    }

    /// One JSON object on a line.
    pub(super) fn json(&self) -> String {
        // Text keys and plain values: there is nothing in a report that JSON could not hold.
        serde_json::to_string(self).map(|json| json + "\n").unwrap_or_default()
    }

    /// The report for people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let kind = match &self.vhd {
            Some(facts) => format!("{} VHD", facts.kind),
            None if self.format == "vhd" => "VHD".to_owned(),
            None if self.format == "xva" => "XVA archive".to_owned(),
            None => "raw disk".to_owned(),
        };
        let codec = self.compression.as_ref().map(|facts| format!(" in {}", facts.codec)).unwrap_or_default();
        let verdict = if self.sound { "sound" } else { "damaged" };
        line(&mut text, format_args!("{}: {kind}{codec}, {verdict}", self.file));
        self.facts(&mut text);
        for problem in &self.problems {
            let file = problem.file.as_ref().map(|file| format!("{file}: ")).unwrap_or_default();
            let rule = problem.rule.map(|rule| format!(" ({rule})")).unwrap_or_default();
            // What breaks no rule is a fault of the compression, and names its place in the file itself.
            let place = match (problem.file_offset, &self.compression) {
                (Some(offset), Some(facts)) if problem.rule.is_some() => {
                    format!("; seen at byte {offset} of the {} file", facts.codec)
                }
                _ => String::new(),
            };
            line(&mut text, format_args!("  problem: {file}{}{place}{rule}", problem.message));
        }
        for note in &self.notes {
            line(&mut text, format_args!("  note: {}", note.message));
        }
        text
    }

    fn facts(&self, text: &mut String) {
        let mut fact = |name: &str, value: String| line(text, format_args!("  {name:<14}{value}"));
        if let Some(size) = self.virtual_size {
            fact("virtual size", bytes(size));
        }
        fact("file length", format!("{}, {} stored", bytes(self.file_length), bytes(self.stored_bytes)));
        if let Some(facts) = &self.compression {
            let seekable = if facts.seekable == Some(true) { ", seekable" } else { "" };
            let unit = if facts.codec == "gzip" { "member" } else { "frame" };
            let plural = if facts.frames == 1 { "" } else { "s" };
            let whole = if self.sound { "" } else { " read whole" };
            fact("compression", format!("{}, {} {unit}{plural}{whole}{seekable}", facts.codec, facts.frames));
            // That of an archive is told as its tar length.
            if let Some(length) = facts.plain_length.filter(|_| self.xva.is_none()) {
                fact("uncompressed", bytes(length));
            }
        }
        if let Some(facts) = &self.xva {
            facts.tell(&mut fact);
        }
        let Some(facts) = &self.vhd else { return };
        match (facts.blocks, facts.allocated_blocks, facts.block_bytes) {
            (Some(blocks), Some(allocated), Some(block)) => {
                fact("blocks", format!("{allocated} of {blocks}, {} each", bytes(block)));
            }
            (None, Some(allocated), _) => fact("blocks", format!("{allocated} present")),
            _ => {}
        }
        fact("data", bytes(facts.data_bytes));
        fact("creator", format!("{:?} {}", facts.creator, facts.creator_version));
        fact("id", facts.id.clone());
        if facts.hidden {
            fact("hidden", "yes, an inner node of a chain".to_owned());
        }
        if facts.saved_state {
            fact("saved state", "yes".to_owned());
        }
        if let Some(parent) = &facts.parent {
            let found =
                parent.found.as_ref().map_or("not found".to_owned(), |name| format!("found as {name}"));
            fact("parent", format!("{}, {found}", parent.id));
        }
        if facts.chain.len() > 1 {
            fact("chain", facts.chain.join(" < "));
        }
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.push_str(&line.to_string());
    text.push('\n');
}

/// A number of bytes, also in the largest unit of which there is at least one.
pub(super) fn bytes(count: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| count >> shift > 0) {
        Some((shift, unit)) => {
            let whole = count >> shift;
            let tenths = ((u128::from(count) * 10) >> shift) % 10;
            format!("{count} bytes ({whole}.{tenths} {unit})")
        }
        None => format!("{count} bytes"),
    }
}
