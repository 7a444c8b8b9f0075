//! Pins: who reads which content. Pinned content stays, whatever happens to the VDI that it belonged to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::ids::ContentId;

use super::caretaker::{Caretaker, Chore};
use super::content::OpenContent;

/// The contents that are being read.
#[derive(Debug)]
pub struct Pins {
    table: Mutex<HashMap<ContentId, Entry>>,
    caretaker: Caretaker,
    /// The server stops: what goes with its last pin is left to the next start.
    leaving: AtomicBool,
}

#[derive(Debug, Default)]
struct Entry {
    count: usize,
    dropped: bool,
    open: Weak<OpenContent>,
}

impl Pins {
    /// No pins yet. Content that was dropped while it was read is handed to `caretaker` with its last pin.
    pub fn new(caretaker: Caretaker) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), caretaker, leaving: AtomicBool::new(false) })
    }

    /// Pins a content. To be called on the state database's thread, in the same turn in which the caller
    /// read that a VDI refers to it: a commit that replaces it is then either before or after, never between.
    pub fn pin(self: &Arc<Self>, content: ContentId) -> Pin {
        self.table().entry(content).or_default().count += 1;
        Pin { content, pins: Arc::clone(self) }
    }

    /// Notes that nothing refers to a content any more. True when nobody reads it either, so that its file may
    /// go at once; otherwise it goes with its last pin. To be called on the state database's thread.
    pub fn drop_content(&self, content: ContentId) -> bool {
        match self.table().get_mut(&content) {
            Some(entry) => {
                entry.dropped = true;
                false
            }
            None => true,
        }
    }

    /// From now on content that was dropped stays when its last pin goes: the next start knows which of it is still
    /// needed, and removes the rest.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether somebody has pinned a content.
    pub fn is_pinned(&self, content: ContentId) -> bool {
        self.table().contains_key(&content)
    }

    /// Number of contents that are pinned.
    pub fn count(&self) -> usize {
        self.table().len()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ContentId, Entry>> {
        // Every change under the lock is a single step, so a panic elsewhere cannot have left it half done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds a content for a reader.
#[derive(Debug)]
pub struct Pin {
    content: ContentId,
    pins: Arc<Pins>,
}

impl Pin {
    /// The content that is held.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// The content as another reader has it open, if one has.
    pub fn opened(&self) -> Option<Arc<OpenContent>> {
        self.pins.table().get(&self.content).and_then(|entry| entry.open.upgrade())
    }

    /// Lets other readers share what this one opened.
    pub fn share(&self, open: &Arc<OpenContent>) {
        if let Some(entry) = self.pins.table().get_mut(&self.content) {
            entry.open = Arc::downgrade(open);
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut table = self.pins.table();
        let Some(entry) = table.get_mut(&self.content) else { return };
        entry.count = entry.count.saturating_sub(1);
        if entry.count > 0 {
            return;
        }
        let dropped = entry.dropped;
        table.remove(&self.content);
        drop(table);
        if dropped && !self.pins.leaving.load(Ordering::Acquire) {
            self.pins.caretaker.ask(Chore::Remove(self.content));
        }
    }
}
