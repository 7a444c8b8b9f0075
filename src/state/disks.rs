//! Rows of storage repositories, VDIs, contents and intents. Every function is one or a few SQL statements
//! on a connection that the caller holds, so that several of them make one transaction.

use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::formats::xva::Record;
use crate::ids::{ContentId, DiskFormat, SrId, VdiId};

/// A storage repository: a directory of disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrRow {
    /// The SR's uuid, the one in its `sr.json`.
    pub id: SrId,
    /// Name that people see.
    pub name_label: String,
    /// Description that people see.
    pub name_description: String,
    /// Tags, in the order in which they were added.
    pub tags: Vec<String>,
    /// The directory, absolute.
    pub path: PathBuf,
    /// The form in which new content is stored.
    pub content_format: DiskFormat,
    /// Nothing in the directory is ever changed.
    pub read_only: bool,
    /// When it was made or attached, Unix milliseconds.
    pub created_ms: i64,
}

/// A virtual disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VdiRow {
    /// The VDI's uuid.
    pub id: VdiId,
    /// The SR that holds its content.
    pub sr: SrId,
    /// What its guest sees at the moment.
    pub content: ContentId,
    /// Name that people see.
    pub name_label: String,
    /// Description that people see.
    pub name_description: String,
    /// Tags, in the order in which they were added.
    pub tags: Vec<String>,
    /// `user`, `system`, … as the contract lists them.
    pub vdi_type: String,
    /// Virtual size, bytes.
    pub virtual_size: u64,
    /// When the VDI was made, Unix milliseconds.
    pub created_ms: i64,
    /// When its content was last replaced, Unix milliseconds; `None` = it still has its first.
    pub content_changed_ms: Option<i64>,
    /// The VDI that it is a snapshot of.
    pub snapshot_of: Option<VdiId>,
    /// When the snapshot was taken, Unix milliseconds.
    pub snapshot_ms: Option<i64>,
    /// What else is known of it in xapi's terms, from the archive that it came with.
    pub record: Record,
}

impl VdiRow {
    /// A snapshot of it, to be inserted: another VDI that refers to the same content.
    pub fn snapshot(&self, name_label: String, now_ms: i64) -> Self {
        Self {
            id: VdiId::random(),
            name_label,
            created_ms: now_ms,
            content_changed_ms: None,
            snapshot_of: Some(self.id),
            snapshot_ms: Some(now_ms),
            ..self.clone()
        }
    }
}

/// Guest-visible bytes in a file of an SR directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentRow {
    /// Its identity, never reused.
    pub id: ContentId,
    /// The SR in whose directory the file lies.
    pub sr: SrId,
    /// The file, relative to the SR's directory.
    pub file: String,
    /// The form of the file.
    pub format: DiskFormat,
    /// Virtual size, bytes.
    pub virtual_size: u64,
    /// Bytes that the file itself takes on its file system, as of the last look.
    pub physical_bytes: u64,
    /// Grows by one whenever the stored allocation map is replaced.
    pub map_version: u32,
    /// The content that a differencing file builds on.
    pub parent: Option<ContentId>,
    /// When it was committed, Unix milliseconds.
    pub created_ms: i64,
    /// Nothing refers to it any more; it goes with its last pin.
    pub dropped: bool,
}

/// What a commit is about to do to files; written before the first of them is touched, deleted by the
/// transaction that makes the new content visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntentRow {
    /// The new content.
    pub content: ContentId,
    /// The SR concerned.
    pub sr: SrId,
    /// The VDI that will refer to it.
    pub vdi: VdiId,
    /// Where the finished file lies, relative to the SR's directory.
    pub staged: String,
    /// Where it will lie.
    pub target: String,
    /// The content that is replaced, with its file and the place where that is kept meanwhile.
    pub old: Option<ReplacedContent>,
    /// The job that did the work.
    pub job: Option<String>,
    /// The fencing number under which it ran.
    pub epoch: u64,
}

/// The content that a commit replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplacedContent {
    /// Its identity.
    pub content: ContentId,
    /// Its file, relative to the SR's directory.
    pub file: String,
    /// A second name of that file, kept until the commit is through.
    pub aside: String,
}

/// One page of a listing, in the order of ids.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The id after which to go on; empty for the first page.
    pub after: &'a str,
    /// At most that many rows.
    pub rows: u32,
}

pub(super) fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|error| conversion(row, column, error))
}

pub(super) fn parsed_optional<T: std::str::FromStr>(
    row: &Row<'_>,
    column: &str,
) -> rusqlite::Result<Option<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|error| conversion(row, column, error))).transpose()
}

pub(super) fn conversion(
    row: &Row<'_>,
    column: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or_default();
    rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
}

pub(super) fn tags(row: &Row<'_>) -> rusqlite::Result<Vec<String>> {
    let text: String = row.get("tags")?;
    serde_json::from_str(&text).map_err(|error| conversion(row, "tags", error))
}

pub(super) fn unsigned(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|error| conversion(row, column, error))
}

fn signed(number: u64) -> rusqlite::Result<i64> {
    i64::try_from(number).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let text: String = row.get("record")?;
    serde_json::from_str(&text).map_err(|error| conversion(row, "record", error))
}

pub(super) fn json(list: &[String]) -> String {
    serde_json::Value::from(list.to_vec()).to_string()
}

fn sr(row: &Row<'_>) -> rusqlite::Result<SrRow> {
    let path: String = row.get("path")?;
    Ok(SrRow {
        id: parsed(row, "id")?,
        name_label: row.get("name_label")?,
        name_description: row.get("name_description")?,
        tags: tags(row)?,
        path: PathBuf::from(path),
        content_format: parsed(row, "content_format")?,
        read_only: row.get("read_only")?,
        created_ms: row.get("created_ms")?,
    })
}

fn vdi(row: &Row<'_>) -> rusqlite::Result<VdiRow> {
    Ok(VdiRow {
        id: parsed(row, "id")?,
        sr: parsed(row, "sr_id")?,
        content: parsed(row, "content_id")?,
        name_label: row.get("name_label")?,
        name_description: row.get("name_description")?,
        tags: tags(row)?,
        vdi_type: row.get("vdi_type")?,
        virtual_size: unsigned(row, "virtual_size")?,
        created_ms: row.get("created_ms")?,
        content_changed_ms: row.get("content_changed_ms")?,
        snapshot_of: parsed_optional(row, "snapshot_of")?,
        snapshot_ms: row.get("snapshot_ms")?,
        record: record(row)?,
    })
}

fn content(row: &Row<'_>) -> rusqlite::Result<ContentRow> {
    Ok(ContentRow {
        id: parsed(row, "id")?,
        sr: parsed(row, "sr_id")?,
        file: row.get("file")?,
        format: parsed(row, "format")?,
        virtual_size: unsigned(row, "virtual_size")?,
        physical_bytes: unsigned(row, "physical_bytes")?,
        map_version: row.get("map_version")?,
        parent: parsed_optional(row, "parent_id")?,
        created_ms: row.get("created_ms")?,
        dropped: row.get("dropped")?,
    })
}

fn intent(row: &Row<'_>) -> rusqlite::Result<IntentRow> {
    let old: Option<ContentId> = parsed_optional(row, "old_content_id")?;
    let (file, aside): (Option<String>, Option<String>) = (row.get("old_file")?, row.get("aside")?);
    Ok(IntentRow {
        content: parsed(row, "content_id")?,
        sr: parsed(row, "sr_id")?,
        vdi: parsed(row, "vdi_id")?,
        staged: row.get("staged")?,
        target: row.get("target")?,
        old: match (old, file, aside) {
            (Some(content), Some(file), Some(aside)) => Some(ReplacedContent { content, file, aside }),
            _ => None,
        },
        job: row.get("job_id")?,
        epoch: unsigned(row, "epoch")?,
    })
}

/// All SRs, oldest first.
pub fn srs(db: &Connection) -> rusqlite::Result<Vec<SrRow>> {
    db.prepare_cached("SELECT * FROM srs ORDER BY created_ms, id")?.query_map([], sr)?.collect()
}

/// One SR.
pub fn find_sr(db: &Connection, id: SrId) -> rusqlite::Result<Option<SrRow>> {
    db.prepare_cached("SELECT * FROM srs WHERE id = ?1")?.query_row([id.to_string()], sr).optional()
}

/// Adds an SR. Its path must be valid UTF-8 and new.
pub fn insert_sr(db: &Connection, row: &SrRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO srs (id, name_label, name_description, tags, path, content_format, read_only, created_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        row.id.to_string(),
        row.name_label,
        row.name_description,
        json(&row.tags),
        row.path.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(row.path.clone()))?,
        row.content_format.to_string(),
        row.read_only,
        row.created_ms,
    ])?;
    Ok(())
}

/// Stores an SR's name, description and tags anew.
pub fn update_sr(db: &Connection, row: &SrRow) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE srs SET name_label = ?2, name_description = ?3, tags = ?4 WHERE id = ?1")?
        .execute(params![row.id.to_string(), row.name_label, row.name_description, json(&row.tags)])?;
    Ok(())
}

/// Removes an SR with all that is known of its disks; touches no file.
pub fn forget_sr(db: &Connection, id: SrId) -> rusqlite::Result<()> {
    let id = id.to_string();
    db.execute("DELETE FROM vdis WHERE sr_id = ?1", [&id])?;
    db.execute("UPDATE contents SET parent_id = NULL WHERE sr_id = ?1", [&id])?;
    db.execute("DELETE FROM contents WHERE sr_id = ?1", [&id])?;
    db.execute("DELETE FROM intents WHERE sr_id = ?1", [&id])?;
    db.execute("DELETE FROM srs WHERE id = ?1", [&id])?;
    Ok(())
}

/// How many VDIs an SR holds, snapshots included.
pub fn count_vdis(db: &Connection, sr: SrId) -> rusqlite::Result<u64> {
    db.query_row("SELECT count(*) AS n FROM vdis WHERE sr_id = ?1", [sr.to_string()], |row| {
        unsigned(row, "n")
    })
}

/// The sum of the virtual sizes of the contents of an SR's VDIs, bytes: what several of them share counts once. Stops
/// at the largest number there is, as huge sparse disks may add up to more.
pub fn virtual_bytes(db: &Connection, sr: SrId) -> rusqlite::Result<u64> {
    db.prepare_cached(
        "SELECT virtual_size FROM contents WHERE id IN (SELECT content_id FROM vdis WHERE sr_id = ?1)",
    )?
    .query_map([sr.to_string()], |row| unsigned(row, "virtual_size"))?
    .try_fold(0_u64, |sum, size| Ok(sum.saturating_add(size?)))
}

/// The ids of an SR's VDIs, in their order.
pub fn vdi_ids(db: &Connection, sr: SrId) -> rusqlite::Result<Vec<VdiId>> {
    db.prepare_cached("SELECT id FROM vdis WHERE sr_id = ?1 ORDER BY id")?
        .query_map([sr.to_string()], |row| parsed(row, "id"))?
        .collect()
}

/// One VDI, snapshots included.
pub fn find_vdi(db: &Connection, id: VdiId) -> rusqlite::Result<Option<VdiRow>> {
    db.prepare_cached("SELECT * FROM vdis WHERE id = ?1")?.query_row([id.to_string()], vdi).optional()
}

/// A page of VDIs that are snapshots, or that are not, each with what its content tells.
pub fn vdis(db: &Connection, snapshots: bool, page: Page<'_>) -> rusqlite::Result<Vec<(VdiRow, ContentRow)>> {
    let mut rows = Vec::new();
    let mut statement = db.prepare_cached(
        "SELECT * FROM vdis WHERE (snapshot_of IS NOT NULL) = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
    )?;
    for row in statement.query_map(params![snapshots, page.after, page.rows], vdi)? {
        let row = row?;
        if let Some(content) = find_content(db, row.content)? {
            rows.push((row, content));
        }
    }
    Ok(rows)
}

/// All VDIs of an SR.
pub fn vdis_of_sr(db: &Connection, sr: SrId) -> rusqlite::Result<Vec<VdiRow>> {
    db.prepare_cached("SELECT * FROM vdis WHERE sr_id = ?1 ORDER BY id")?
        .query_map([sr.to_string()], vdi)?
        .collect()
}

/// The VDIs that refer to a content.
pub fn vdis_of_content(db: &Connection, id: ContentId) -> rusqlite::Result<Vec<VdiId>> {
    db.prepare_cached("SELECT id FROM vdis WHERE content_id = ?1 ORDER BY id")?
        .query_map([id.to_string()], |row| parsed(row, "id"))?
        .collect()
}

/// The snapshots of a VDI.
pub fn snapshots_of(db: &Connection, id: VdiId) -> rusqlite::Result<Vec<VdiId>> {
    db.prepare_cached("SELECT id FROM vdis WHERE snapshot_of = ?1 ORDER BY id")?
        .query_map([id.to_string()], |row| parsed(row, "id"))?
        .collect()
}

/// Adds a VDI.
pub fn insert_vdi(db: &Connection, row: &VdiRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO vdis (id, sr_id, content_id, name_label, name_description, tags, vdi_type, virtual_size,
                           created_ms, content_changed_ms, snapshot_of, snapshot_ms, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        row.id.to_string(),
        row.sr.to_string(),
        row.content.to_string(),
        row.name_label,
        row.name_description,
        json(&row.tags),
        row.vdi_type,
        signed(row.virtual_size)?,
        row.created_ms,
        row.content_changed_ms,
        row.snapshot_of.map(|id| id.to_string()),
        row.snapshot_ms,
        serde_json::to_string(&row.record)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?,
    ])?;
    Ok(())
}

/// Stores a VDI's name, description and tags anew.
pub fn update_vdi(db: &Connection, row: &VdiRow) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE vdis SET name_label = ?2, name_description = ?3, tags = ?4 WHERE id = ?1")?
        .execute(params![row.id.to_string(), row.name_label, row.name_description, json(&row.tags)])?;
    Ok(())
}

/// Points a VDI at another content.
pub fn switch_content(db: &Connection, id: VdiId, to: &ContentRow, now_ms: i64) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE vdis SET content_id = ?2, virtual_size = ?3, content_changed_ms = ?4 WHERE id = ?1",
    )?
    .execute(params![id.to_string(), to.id.to_string(), signed(to.virtual_size)?, now_ms])?;
    Ok(())
}

/// Removes a VDI; its content stays.
pub fn delete_vdi(db: &Connection, id: VdiId) -> rusqlite::Result<()> {
    db.execute("DELETE FROM vdis WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// One content.
pub fn find_content(db: &Connection, id: ContentId) -> rusqlite::Result<Option<ContentRow>> {
    db.prepare_cached("SELECT * FROM contents WHERE id = ?1")?.query_row([id.to_string()], content).optional()
}

/// The stored allocation map of a content, encoded.
pub fn content_map(db: &Connection, id: ContentId) -> rusqlite::Result<Option<Vec<u8>>> {
    db.prepare_cached("SELECT map FROM contents WHERE id = ?1")?
        .query_row([id.to_string()], |row| row.get(0))
        .optional()
}

/// What a content builds on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// What it and all that it builds on take on their file systems, bytes.
    pub physical_bytes: u64,
    /// The name, without extension, of the file that it builds on: a uuid.
    pub parent: Option<String>,
}

/// The chain of a content.
pub fn chain(db: &Connection, id: ContentId) -> rusqlite::Result<Chain> {
    let (mut chain, mut next) = (Chain::default(), Some(id));
    // A chain is at most 32 deep; one that the database holds wrongly must not keep this from ending.
    for depth in 0..64 {
        let Some(row) = next.map(|id| find_content(db, id)).transpose()?.flatten() else { break };
        chain.physical_bytes = chain.physical_bytes.saturating_add(row.physical_bytes);
        if depth == 1 {
            chain.parent = row.file.split('.').next().map(str::to_owned);
        }
        next = row.parent;
    }
    Ok(chain)
}

/// The VDIs, wherever they are, that have one of these ids.
pub fn known_vdis(db: &Connection, ids: &[VdiId]) -> rusqlite::Result<Vec<VdiRow>> {
    let mut known = Vec::new();
    for id in ids {
        known.extend(find_vdi(db, *id)?);
    }
    Ok(known)
}

/// All contents of an SR.
pub fn contents_of_sr(db: &Connection, sr: SrId) -> rusqlite::Result<Vec<ContentRow>> {
    db.prepare_cached("SELECT * FROM contents WHERE sr_id = ?1 ORDER BY id")?
        .query_map([sr.to_string()], content)?
        .collect()
}

/// The contents that a content is the parent of.
pub fn children_of(db: &Connection, id: ContentId) -> rusqlite::Result<Vec<ContentId>> {
    db.prepare_cached("SELECT id FROM contents WHERE parent_id = ?1 ORDER BY id")?
        .query_map([id.to_string()], |row| parsed(row, "id"))?
        .collect()
}

/// Adds a content with its allocation map.
pub fn insert_content(db: &Connection, row: &ContentRow, map: &[u8]) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO contents (id, sr_id, file, format, virtual_size, physical_bytes, map_version, map,
                               parent_id, created_ms, dropped)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        row.id.to_string(),
        row.sr.to_string(),
        row.file,
        row.format.to_string(),
        signed(row.virtual_size)?,
        signed(row.physical_bytes)?,
        row.map_version,
        map,
        row.parent.map(|id| id.to_string()),
        row.created_ms,
        row.dropped,
    ])?;
    Ok(())
}

/// Marks a content as referred to by nothing, its file now at `file`. False when it is not known.
pub fn drop_content(db: &Connection, id: ContentId, file: &str) -> rusqlite::Result<bool> {
    let changed = db
        .execute("UPDATE contents SET dropped = 1, file = ?2 WHERE id = ?1", params![id.to_string(), file])?;
    Ok(changed == 1)
}

/// Sets the content that a differencing content builds on.
pub fn set_parent(db: &Connection, id: ContentId, parent: ContentId) -> rusqlite::Result<()> {
    db.execute("UPDATE contents SET parent_id = ?2 WHERE id = ?1", [id.to_string(), parent.to_string()])?;
    Ok(())
}

/// Removes a content.
pub fn delete_content(db: &Connection, id: ContentId) -> rusqlite::Result<()> {
    db.execute("DELETE FROM contents WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// All intents of an SR: commits that were not finished. What [`super::moves`] keeps is not among them.
pub fn intents_of_sr(db: &Connection, sr: SrId) -> rusqlite::Result<Vec<IntentRow>> {
    db.prepare_cached("SELECT * FROM intents WHERE sr_id = ?1 AND old_content_id IS NOT content_id")?
        .query_map([sr.to_string()], intent)?
        .collect()
}

/// Whether the commit of a content is still to be finished.
pub fn has_intent(db: &Connection, content: ContentId) -> rusqlite::Result<bool> {
    db.query_row(
        "SELECT EXISTS (SELECT 1 FROM intents WHERE content_id = ?1)",
        [content.to_string()],
        |row| row.get(0),
    )
}

/// Adds an intent.
pub fn insert_intent(db: &Connection, row: &IntentRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO intents (content_id, sr_id, vdi_id, staged, target, old_content_id, old_file, aside,
                              job_id, epoch)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        row.content.to_string(),
        row.sr.to_string(),
        row.vdi.to_string(),
        row.staged,
        row.target,
        row.old.as_ref().map(|old| old.content.to_string()),
        row.old.as_ref().map(|old| old.file.as_str()),
        row.old.as_ref().map(|old| old.aside.as_str()),
        row.job,
        signed(row.epoch)?,
    ])?;
    Ok(())
}

/// Notes where a content's file is.
pub fn set_file(db: &Connection, id: ContentId, file: &str) -> rusqlite::Result<()> {
    db.execute("UPDATE contents SET file = ?2 WHERE id = ?1", params![id.to_string(), file])?;
    Ok(())
}

/// Removes an intent whose moves were undone: the old content has its old name again.
pub fn undo_intent(db: &Connection, intent: &IntentRow) -> rusqlite::Result<()> {
    if let Some(old) = &intent.old {
        set_file(db, old.content, &old.file)?;
    }
    delete_intent(db, intent.content)
}

/// Removes an intent.
pub fn delete_intent(db: &Connection, content: ContentId) -> rusqlite::Result<()> {
    db.execute("DELETE FROM intents WHERE content_id = ?1", [content.to_string()])?;
    Ok(())
}
