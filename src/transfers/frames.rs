//! The frames of compressed exports: recorded as they are made, kept with the contents that they were made of, so that
//! an export whose frames are all known has a length and takes ranges.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Mutex;

use crate::formats::frames::{FrameEntry, FrameIndex, FramePlace, INDEX_VERSION, IndexError, SeekTable};
use crate::state::{Db, StateError, frames, now_ms};

use super::representation::Representation;

/// Frames whose recording may be lost by a crash; they are made again then.
const UNWRITTEN_FRAMES: u64 = 256;
/// Frame indexes that are kept; the ones that were not used for longest go.
const MOST_INDEXES: u64 = 1000;
/// Most bytes of all of them: those of 100 TiB.
const MOST_BYTES: u64 = 320 << 20;

/// Why a frame is not sent.
#[derive(Debug, thiserror::Error)]
pub enum FrameMismatch {
    /// It is not what was sent before under the same entity tag.
    #[error(
        "frame {number} came out as other bytes than it was recorded with: what the client has cannot be continued"
    )]
    Changed {
        /// Its number.
        number: u64,
    },
    /// The index cannot take it.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// The frame indexes of all compressed exports. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FrameDesk(Arc<Desk>);

#[derive(Debug)]
struct Desk {
    db: Db,
    known: Mutex<HashMap<String, Weak<Recorded>>>,
}

/// What is known of the frames of one compressed export.
#[derive(Debug)]
pub struct Recorded {
    db: Db,
    etag: String,
    windows: u64,
    window_bytes: u64,
    plain_bytes: u64,
    has_table: bool,
    contents: Vec<String>,
    state: StdMutex<State>,
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    index: FrameIndex,
    /// How many of its frames are in the database.
    written: u64,
    changed: bool,
}

impl FrameDesk {
    /// The indexes that a database keeps.
    pub fn new(db: Db) -> Self {
        Self(Arc::new(Desk { db, known: Mutex::default() }))
    }

    /// What is known of the frames of an export; `None` when it is not compressed.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn of(&self, export: &Representation) -> Result<Option<Arc<Recorded>>, StateError> {
        let Some(compression) = export.shape.compression else { return Ok(None) };
        let mut known = self.0.known.lock().await;
        if let Some(recorded) = known.get(&export.etag).and_then(Weak::upgrade) {
            return Ok(Some(recorded));
        }
        known.retain(|_, recorded| recorded.strong_count() > 0);
        let etag = export.etag.clone();
        let found = self.0.db.call(move |conn| frames::load(conn, &etag, now_ms())).await?;
        let windows = compression.frames_of(export.layout.len());
        let index = found.and_then(|found| {
            let segments = found.segments.iter().map(Vec::as_slice);
            let index = FrameIndex::decode(found.state.version, segments);
            // What cannot be read is made anew: it only ever saves work.
            index.ok().filter(|index| index.frames() <= windows && index.frames() == found.state.frames)
        });
        let index = index.unwrap_or_default();
        let recorded = Arc::new(Recorded {
            db: self.0.db.clone(),
            etag: export.etag.clone(),
            windows,
            window_bytes: compression.window_bytes(),
            plain_bytes: export.layout.len(),
            has_table: compression.has_seek_table(),
            contents: export.contents.iter().map(|content| content.row.id.to_string()).collect(),
            state: StdMutex::new(State { written: index.frames(), index, changed: false }),
            writing: Mutex::default(),
        });
        known.insert(export.etag.clone(), Arc::downgrade(&recorded));
        Ok(Some(recorded))
    }
}

impl Recorded {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of frames that the whole has.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Number of frames that are known, from the first one on.
    pub fn frames(&self) -> u64 {
        self.state().index.frames()
    }

    /// Whether all are.
    pub fn is_complete(&self) -> bool {
        self.frames() == self.windows
    }

    /// Whether it has turned out that the frames that were sent cannot be made again.
    pub fn has_changed(&self) -> bool {
        self.state().changed
    }

    /// Length of the whole in bytes, once all frames are known.
    pub fn len(&self) -> Option<u64> {
        let state = self.state();
        let complete = state.index.frames() == self.windows;
        complete.then(|| state.index.bytes().saturating_add(self.table_len()))
    }

    /// What the length of the whole will be by the look of the known frames.
    pub fn expected_len(&self) -> Option<u64> {
        let state = self.state();
        let (bytes, windows) = (u128::from(state.index.bytes()), u128::from(self.windows));
        let expected = (bytes * windows).checked_div(u128::from(state.index.frames()))?;
        Some(u64::try_from(expected).ok()?.saturating_add(self.table_len()))
    }

    /// Whether the whole has no byte: never, as far as is known.
    pub fn is_empty(&self) -> bool {
        false
    }

    fn table_len(&self) -> u64 {
        if self.has_table { SeekTable::len_for(self.windows).unwrap_or(0) } else { 0 }
    }

    /// Length in bytes of the known frames.
    pub fn bytes(&self) -> u64 {
        self.state().index.bytes()
    }

    /// The frame that holds a byte of the whole; `None` past the known ones.
    pub fn locate(&self, offset: u64) -> Option<FramePlace> {
        self.state().index.locate(offset)
    }

    /// A part of what stands after the frames, from byte `offset` of it on.
    ///
    /// # Errors
    /// When not all frames are known.
    pub fn table_part(&self, offset: u64, limit: usize) -> Result<Vec<u8>, FrameMismatch> {
        if !self.has_table {
            return Ok(Vec::new());
        }
        let state = self.state();
        Ok(SeekTable::new(&state.index, self.window_bytes, self.plain_bytes)?.part(offset, limit))
    }

    /// Notes a frame that was made, or holds it against what was noted before.
    ///
    /// # Errors
    /// [`FrameMismatch::Changed`]: it must not be sent.
    pub fn record(&self, number: u64, entry: FrameEntry) -> Result<(), FrameMismatch> {
        let mut state = self.state();
        if state.index.frames() == number {
            return Ok(state.index.push(entry)?);
        }
        if state.index.entry(number) != Some(entry) {
            state.changed = true;
            return Err(FrameMismatch::Changed { number });
        }
        Ok(())
    }

    /// Writes down what was recorded since the last time, if it is worth it, or the whole is complete, or `all` is
    /// wanted. Nothing is lost but work when that fails.
    pub async fn write_down(&self, all: bool) {
        // Who holds this may be a sizing pass that its job does not poll while it is here: waiting for it would be for ever.
        let _one_at_a_time = match self.writing.try_lock() {
            Ok(guard) => guard,
            Err(_) if !all => return,
            Err(_) => self.writing.lock().await,
        };
        let (first, entries, frames, bytes) = {
            let state = self.state();
            let frames = state.index.frames();
            let new = frames - state.written;
            if state.changed || new == 0 || !(all || new >= UNWRITTEN_FRAMES || frames == self.windows) {
                return;
            }
            let begin = state.index.start_of(state.written).unwrap_or(0);
            let entries = state.index.segment(state.written..frames);
            (state.written, entries, frames, state.index.bytes() - begin)
        };
        let (etag, contents, windows) = (self.etag.clone(), self.contents.clone(), self.windows);
        let written = self.db.transaction(move |tx| {
            let now = now_ms();
            let index =
                frames::NewIndex { etag: &etag, version: INDEX_VERSION, windows, contents: &contents };
            frames::begin(tx, &index, now)?;
            let segment = frames::NewSegment { first, frames: frames - first, bytes, entries: &entries };
            let fits = frames::append(tx, &etag, &segment, now)?;
            frames::forget_oldest(tx, MOST_INDEXES, MOST_BYTES)?;
            Ok(fits)
        });
        match written.await {
            Ok(true) => self.state().written = frames,
            Ok(false) => {
                tracing::warn!(etag = %self.etag, "the frames of an export were recorded by somebody else");
            }
            Err(error) => tracing::warn!(%error, "the frames of a compressed export are not written down"),
        }
    }
}
