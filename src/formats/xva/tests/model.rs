//! Archives of any shape that the format allows, and what a simple reading of its rules makes of them; and archives that
//! were spoilt at random.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::ChecksumKind;
use super::archive::{Archive, document, small};
use super::streams::{Disk, read};

/// A step through a disk.
#[derive(Debug, Clone)]
enum Step {
    /// A block of this fill.
    Block(u8),
    /// An empty block.
    Empty,
    /// Numbers that are left out: zeros.
    Skip(u32),
}

/// A disk of which the first block and the last one frame some steps.
#[derive(Debug, Clone)]
struct Shape {
    unit: usize,
    steps: Vec<Step>,
    /// Bytes of the last block, in sectors of the unit; and whether it is padded.
    last: usize,
    padded: bool,
    kind: ChecksumKind,
}

fn shape() -> impl Strategy<Value = Shape> {
    let step = prop_oneof![
        3 => (1u8..).prop_map(Step::Block),
        1 => Just(Step::Empty),
        1 => (1u32..4).prop_map(Step::Skip),
    ];
    let kind = prop_oneof![Just(ChecksumKind::Xxh64), Just(ChecksumKind::Sha1)];
    (
        prop_oneof![Just(512usize), Just(1024), Just(4096)],
        vec(step, 0..12),
        any::<usize>(),
        any::<bool>(),
        kind,
    )
        .prop_map(|(unit, steps, last, padded, kind)| Shape {
            unit,
            steps,
            last: (last % (unit / 512) + 1) * 512,
            padded,
            kind,
        })
}

impl Shape {
    /// The disk's bytes.
    fn content(&self) -> Vec<u8> {
        let mut content = vec![0xF1; self.unit];
        for step in &self.steps {
            match step {
                Step::Block(fill) => content.resize(content.len() + self.unit, *fill),
                Step::Empty => {}
                Step::Skip(count) => content.resize(content.len() + *count as usize * self.unit, 0),
            }
        }
        content.resize(content.len() + self.last, 0xF2);
        content
    }

    /// Adds its blocks to an archive.
    fn write(&self, mut archive: Archive, id: &str) -> Archive {
        archive = archive.block(id, 0, vec![0xF1; self.unit], self.kind);
        let mut number = 1;
        for step in &self.steps {
            match step {
                Step::Block(fill) => archive = archive.block(id, number, vec![*fill; self.unit], self.kind),
                Step::Empty => archive = archive.block(id, number, [], self.kind),
                Step::Skip(count) => {
                    number += count;
                    continue;
                }
            }
            number += 1;
        }
        let mut last = vec![0xF2; self.last];
        if self.padded {
            last.resize(self.unit, 0);
        }
        archive.block(id, number, last, self.kind)
    }
}

fn content(disk: &Disk) -> Vec<u8> {
    let mut content = vec![0; disk.0 as usize];
    for (offset, run) in &disk.1 {
        content[*offset as usize..][..run.len()].copy_from_slice(run);
    }
    content
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_archive_of_a_legal_shape_gives_its_disks(shapes in vec(shape(), 0..4), cut in 1usize..20_000) {
        // Ids that do not sort as their numbers do.
        let ids: Vec<_> = [9, 10, 11, 12].map(|n| format!("Ref:{n}")).into_iter().take(shapes.len()).collect();
        let contents: Vec<_> = shapes.iter().map(Shape::content).collect();
        let mut disks: Vec<_> =
            ids.iter().zip(&shapes).zip(&contents).map(|((id, shape), content)| (id, shape, content)).collect();
        let sizes: Vec<_> = disks.iter().map(|(id, _, content)| (id.as_str(), content.len() as u64)).collect();
        let mut archive = Archive::of(&document(&sizes));
        disks.sort_by_key(|disk| disk.0);
        for (id, shape, _) in &disks {
            archive = shape.write(archive, id);
        }
        let found = read(&archive.bytes(), cut).unwrap().1;
        let expected: Vec<_> = disks.iter().map(|disk| disk.2.clone()).collect();
        prop_assert_eq!(found.iter().map(content).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn members_that_are_left_out_doubled_or_moved_are_noticed(
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        what in 0..3,
    ) {
        let sound = small();
        let mut members = sound.members.clone();
        let entry = match what {
            0 => { members.remove(from.index(members.len())); None }
            1 => Some(members[from.index(members.len())].clone()),
            _ => Some(members.remove(from.index(members.len()))),
        };
        if let Some(entry) = entry {
            members.insert(to.index(members.len() + 1), entry);
        }
        let names = |members: &[super::archive::Entry]| members.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
        let same = names(&members) == names(&sound.members);
        let archive = Archive { members, end: vec![0; 1024] };
        prop_assert_eq!(read(&archive.bytes(), usize::MAX).is_ok(), same);
    }
}
