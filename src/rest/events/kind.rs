//! What can be subscribed to.

use crate::inventory::Collection;

/// Types that the contract knows and of which there are no objects here: nothing ever happens to them.
const WITHOUT_OBJECTS: [&str; 13] = [
    "PBD",
    "PCI",
    "PGPU",
    "PIF",
    "SM",
    "VDI-unmanaged",
    "VGPU",
    "VM-controller",
    "VTPM",
    "alarm",
    "gpuGroup",
    "message",
    "vgpuType",
];

/// A type of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Tasks.
    Task,
    /// The objects of a collection.
    Objects(Collection),
    /// One of which there are none.
    Empty(&'static str),
}

impl Kind {
    /// The kind of that name: the type that its objects have, not the collection's name in addresses.
    pub fn named(name: &str) -> Option<Self> {
        if name == Self::Task.name() {
            return Some(Self::Task);
        }
        let collection = Collection::ALL.into_iter().find(|one| one.kind() == name);
        let empty = || WITHOUT_OBJECTS.into_iter().find(|one| *one == name);
        collection.map(Self::Objects).or_else(|| empty().map(Self::Empty))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Objects(collection) => collection.kind(),
            Self::Empty(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_go_by_the_type_of_their_objects() {
        for name in ["VM", "VDI", "VDI-snapshot", "SR", "host", "task", "alarm", "message"] {
            assert_eq!(Kind::named(name).map(Kind::name), Some(name));
        }
        for name in ["", "vdis", "vdi", "tasks", "Task", "user"] {
            assert_eq!(Kind::named(name), None, "{name}");
        }
    }
}
