//! What must be there after a kill: what was answered, and of what was under way either all or nothing.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use crate::support::disk::noise;
use crate::support::vhd::{BLOCK, Vhd};

const SECTOR: usize = 512;
/// Content is cut into pieces of this size, some of which are zero, so that it has holes.
const PIECE: usize = 64 << 10;

/// The guest's bytes.
pub type Content = Arc<Vec<u8>>;

/// Content that the seed fixes: pieces of noise, no two alike, and pieces of zeros.
pub fn content(size: usize, seed: u64) -> Content {
    let mut bytes = vec![0; size];
    for (index, piece) in bytes.chunks_mut(PIECE).enumerate() {
        let own = seed.wrapping_mul(1_000_003).wrapping_add(index as u64);
        let sector = noise(SECTOR, own);
        if !sector[0].is_multiple_of(3) {
            piece.chunks_mut(SECTOR).for_each(|part| part.copy_from_slice(&sector[..part.len()]));
        }
    }
    Arc::new(bytes)
}

/// The same disk with more room.
pub fn grown(content: &Content, size: usize) -> Content {
    let mut bytes = content.to_vec();
    bytes.resize(size, 0);
    Arc::new(bytes)
}

/// The content as a dynamic VHD without the blocks that are zero.
pub fn vhd(content: &Content) -> Vec<u8> {
    let blocks: Vec<(u32, &[u8])> = (0..)
        .zip(content.chunks(BLOCK as usize))
        .filter(|(_, block)| block.iter().any(|byte| *byte != 0))
        .collect();
    Vhd::dynamic(content.len() as u64, &blocks).bytes()
}

/// A disk as its clients know it.
pub struct Disk {
    pub id: String,
    /// What it holds by the last answer.
    pub sure: Content,
    /// What it may hold instead, when the answer did not come any more.
    pub maybe: Option<Content>,
    pub label: String,
    pub maybe_label: Option<String>,
    /// Its removal was asked for, and not answered.
    pub going: bool,
}

impl Disk {
    pub fn new(id: String, content: Content, label: String) -> Self {
        Self { id, sure: content, maybe: None, label, maybe_label: None, going: false }
    }

    /// Insists that the disk is what it may be; from then on that is what it is.
    pub fn settle(&mut self, bytes: Vec<u8>, label: &str) {
        let maybe = self.maybe.take();
        if *self.sure != bytes {
            let maybe = maybe.filter(|maybe| **maybe == bytes);
            self.sure = maybe.unwrap_or_else(|| {
                panic!("{} holds {} bytes that nobody has put there as a whole", self.id, bytes.len())
            });
        }
        let maybe = self.maybe_label.take();
        assert!(self.label == label || maybe.as_deref() == Some(label), "{} is named {label:?}", self.id);
        label.clone_into(&mut self.label);
    }
}

/// What all clients have seen, kept over all rounds.
#[derive(Default)]
pub struct Seen {
    /// Ids of tasks, from headers of answers and from lists.
    tasks: Mutex<HashSet<String>>,
    /// Digests of everything that each disk has ever been told to hold.
    contents: Mutex<HashMap<String, HashSet<u64>>>,
}

fn digest(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

impl Seen {
    pub fn task(&self, id: &str) {
        self.tasks.lock().expect("no client has failed").insert(id.to_owned());
    }

    /// Tasks that a client has seen and that are not among these.
    pub fn forgotten(&self, now: &HashSet<String>) -> Vec<String> {
        self.tasks.lock().expect("no client has failed").difference(now).cloned().collect()
    }

    pub fn tasks(&self) -> usize {
        self.tasks.lock().expect("no client has failed").len()
    }

    /// This is about to be put into a disk.
    pub fn content(&self, disk: &str, content: &[u8]) {
        let mut contents = self.contents.lock().expect("no client has failed");
        contents.entry(disk.to_owned()).or_default().insert(digest(content));
    }

    /// Whether a disk was ever told to hold this.
    pub fn has_held(&self, disk: &str, content: &[u8]) -> bool {
        let contents = self.contents.lock().expect("no client has failed");
        contents.get(disk).is_some_and(|held| held.contains(&digest(content)))
    }
}
