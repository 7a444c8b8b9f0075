//! A VHD and the parents that it builds on, read as one disk.
//!
//! A sector that a differencing VHD does not hold is its parent's; past a parent's end, and where the root
//! holds nothing, it is zero. Block sizes may differ from file to file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::DiskReader;
use super::error::DiskError;
use super::map::AllocationMap;
use super::vhd_file::VhdFile;
use crate::formats::vhd::{DiskKind, ParentRef, VhdIndex};

/// Largest number of files in a chain.
pub const MAX_CHAIN: usize = 32;

/// Where a chain's parents are looked for.
#[derive(Debug, Clone, Default)]
pub struct ParentPlaces {
    /// Files whose VHD's unique id is known. Tried first; the id is checked all the same.
    pub known: Vec<([u8; 16], PathBuf)>,
    /// Folders in which the base names that a child gives are looked up, in this order.
    pub directories: Vec<PathBuf>,
}

/// A parent in a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentFile {
    /// Where it was found.
    pub path: PathBuf,
    /// Unique id of its VHD.
    pub unique_id: [u8; 16],
}

/// An open VHD of any kind with all its parents.
#[derive(Debug)]
pub struct VhdChain {
    /// The file that was opened, then its parent, and so on; the last is fixed or dynamic.
    levels: Vec<VhdFile>,
}

impl VhdChain {
    /// Opens the file at `path` and its parents.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is not a sound VHD, and when the chain has no parent where one is
    /// wanted, another one, one too many, or comes back to itself.
    pub fn open(path: &Path, places: &ParentPlaces) -> Result<Self, DiskError> {
        let mut levels = vec![VhdFile::open(path)?];
        let mut ids = HashSet::new();
        while let Some(child) = levels.last() {
            let unique_id = child.index().unique_id;
            if !ids.insert(unique_id) {
                let unique_id = Uuid::from_bytes(unique_id);
                return Err(DiskError::ChainCycle { path: path.to_path_buf(), unique_id });
            }
            let Some(wanted) = &child.index().parent else { break };
            if levels.len() >= MAX_CHAIN {
                return Err(DiskError::ChainTooDeep { path: path.to_path_buf(), limit: MAX_CHAIN });
            }
            let parent = find_parent(child.path(), wanted, places)?;
            levels.push(parent);
        }
        Ok(Self { levels })
    }

    /// The index of the file that was opened.
    pub(super) fn top(&self) -> Option<&VhdIndex> {
        self.levels.first().map(VhdFile::index)
    }

    /// Kind of the file that was opened.
    pub fn kind(&self) -> DiskKind {
        self.top().map_or(DiskKind::Dynamic, |index| index.kind)
    }

    /// The parents, nearest first.
    pub fn parents(&self) -> Vec<ParentFile> {
        let parents = self.levels.iter().skip(1);
        parents
            .map(|file| ParentFile { path: file.path().to_path_buf(), unique_id: file.index().unique_id })
            .collect()
    }

    /// Bytes that the file that was opened takes on its file system, its parents not counted.
    ///
    /// # Errors
    ///
    /// When it cannot be examined.
    pub fn physical_bytes(&self) -> Result<u64, DiskError> {
        self.levels.first().map_or(Ok(0), VhdFile::physical_bytes)
    }

    /// The parts that any file of the chain holds a block for.
    ///
    /// # Errors
    ///
    /// When the file system cannot say which parts of a fixed VHD are holes.
    pub fn capture_map(&self) -> Result<AllocationMap, DiskError> {
        let mut map = AllocationMap::new(self.virtual_size());
        self.levels.iter().try_for_each(|file| file.mark_data(&mut map))?;
        Ok(map)
    }

    fn read_level(&self, level: usize, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let Some(file) = self.levels.get(level) else {
            buf.fill(0);
            return Ok(());
        };
        let inside = file.index().virtual_size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (inside, past_end) = buf.split_at_mut_checked(inside).unwrap_or_default();
        past_end.fill(0);
        file.read_at(offset, inside, &mut |at, part| self.read_level(level + 1, at, part))
    }
}

impl DiskReader for VhdChain {
    fn virtual_size(&self) -> u64 {
        self.top().map_or(0, |index| index.virtual_size)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.read_level(0, offset, buf)
    }
}

/// Opens the parent that a child wants: by its id where that is known, else by the names that the child
/// gives. Only a file with the right id is taken.
fn find_parent(child: &Path, wanted: &ParentRef, places: &ParentPlaces) -> Result<VhdFile, DiskError> {
    if wanted.id == [0; 16] {
        return Err(DiskError::RawParent { path: child.to_path_buf() });
    }
    let known = places.known.iter().filter(|(id, _)| *id == wanted.id).map(|(_, path)| path.clone());
    let names = wanted.names.iter().filter(|name| is_base_name(name));
    let named = names.flat_map(|name| places.directories.iter().map(move |folder| folder.join(name)));
    let mut refused = None;
    for candidate in known.chain(named) {
        match VhdFile::open(&candidate) {
            Ok(file) if file.index().unique_id == wanted.id => return Ok(file),
            Ok(file) => {
                refused.get_or_insert(DiskError::ParentMismatch {
                    path: child.to_path_buf(),
                    parent: candidate,
                    expected: Uuid::from_bytes(wanted.id),
                    found: Uuid::from_bytes(file.index().unique_id),
                });
            }
            Err(DiskError::NotFound { .. }) => {}
            // Another candidate may be the right one; if none is, this says more than "not found".
            Err(error) => {
                refused.get_or_insert(error);
            }
        }
    }
    Err(refused.unwrap_or_else(|| DiskError::ParentNotFound {
        path: child.to_path_buf(),
        parent_id: Uuid::from_bytes(wanted.id),
        names: wanted.names.clone(),
    }))
}

/// Whether joining the name to a folder stays in that folder.
fn is_base_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0'])
}
