//! One exact, unchanging string of bytes: a content in the form in which a client asks for it.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::backends::local::OpenContent;
use crate::formats::vhd::{VhdError, vhd_time};
use crate::ids::{ContentId, DiskFormat};
use crate::image::Layout;
use crate::image::raw_layout::RawLayout;
use crate::image::vhd_layout::VhdImageLayout;
use crate::state::disks::ContentRow;

/// Counts up whenever the same content comes out as other bytes; part of the entity tag, so that a download
/// that an older version began is not continued with the bytes of a newer one.
const RAW_LAYOUT_VERSION: u32 = 1;
/// As [`RAW_LAYOUT_VERSION`], for `.vhd`.
const VHD_LAYOUT_VERSION: u32 = 1;

/// A content in one form.
pub struct Representation {
    /// The content, open.
    pub content: Arc<OpenContent>,
    /// The form.
    pub format: DiskFormat,
    /// What lies where in it.
    pub layout: Arc<dyn Layout>,
    /// Its strong entity tag, quotes included.
    pub etag: String,
}

impl Representation {
    /// Describes a content in a form. Reads nothing.
    ///
    /// # Errors
    /// When the form cannot hold it: a VHD ends at 2040 GiB.
    pub fn new(content: Arc<OpenContent>, format: DiskFormat) -> Result<Self, VhdError> {
        let map = Arc::clone(&content.map);
        let layout: Arc<dyn Layout> = match format {
            DiskFormat::Raw => Arc::new(RawLayout::new(map)),
            DiskFormat::Vhd => {
                let (unique_id, timestamp) = vhd_identity(content.row.id, content.row.created_ms);
                Arc::new(VhdImageLayout::new(map, unique_id, timestamp)?)
            }
        };
        let etag = entity_tag(&content.row, format);
        Ok(Self { content, format, layout, etag })
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.layout.len()
    }

    /// Whether it has no byte at all.
    pub fn is_empty(&self) -> bool {
        self.layout.is_empty()
    }
}

/// The entity tag of a content in a form: the same for the same bytes, across restarts too, and another
/// whenever any byte may be another. The bytes of a `.raw` do not depend on the allocation map, those of a
/// `.vhd` do.
pub fn entity_tag(content: &ContentRow, format: DiskFormat) -> String {
    let identity = match format {
        DiskFormat::Raw => format!("vdi {} raw {RAW_LAYOUT_VERSION}", content.id),
        DiskFormat::Vhd => {
            let seconds = content.created_ms.div_euclid(1000);
            format!("vdi {} map {} vhd {VHD_LAYOUT_VERSION} {seconds}", content.id, content.map_version)
        }
    };
    let hash = Sha256::digest(identity.as_bytes());
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// The unique id and the timestamp (seconds since 2000) of a content's VHD, the same for every export of it.
pub fn vhd_identity(content: ContentId, created_ms: i64) -> ([u8; 16], u32) {
    let mut hash = Sha256::new();
    hash.update(b"gantry vhd unique id");
    hash.update(content.0);
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    // Marked as a custom UUID (RFC 9562, version 8), for tools that look at the bits.
    id[6] = (id[6] & 0x0F) | 0x80;
    id[8] = (id[8] & 0x3F) | 0x80;
    (id, vhd_time(created_ms.div_euclid(1000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::map::AllocationMap;
    use crate::formats::Piece;
    use crate::ids::SrId;

    fn row() -> ContentRow {
        ContentRow {
            id: "000102030405060708090a0b0c0d0e0f".parse().unwrap(),
            sr: SrId(uuid::Uuid::nil()),
            file: "x.raw".into(),
            format: DiskFormat::Raw,
            virtual_size: 1 << 20,
            physical_bytes: 0,
            map_version: 1,
            parent: None,
            created_ms: 1_700_000_000_000,
            dropped: false,
        }
    }

    #[test]
    fn entity_tags_are_pinned_because_clients_hold_on_to_them() {
        assert_eq!(entity_tag(&row(), DiskFormat::Raw), "\"66295b3a1a1f6e7edc35112f2451ae4b\"");
        assert_eq!(entity_tag(&row(), DiskFormat::Vhd), "\"3a0f1948d2662f367cf44bc2790aa1d1\"");
    }

    #[test]
    fn a_new_map_changes_the_tag_of_the_vhd_and_not_that_of_the_raw_bytes() {
        let newer = ContentRow { map_version: 2, ..row() };
        assert_eq!(entity_tag(&row(), DiskFormat::Raw), entity_tag(&newer, DiskFormat::Raw));
        assert_ne!(entity_tag(&row(), DiskFormat::Vhd), entity_tag(&newer, DiskFormat::Vhd));
    }

    #[test]
    fn where_the_content_lies_does_not_change_its_tag() {
        let moved = ContentRow { sr: SrId::random(), file: "y.vhd".into(), format: DiskFormat::Vhd, ..row() };
        assert_eq!(entity_tag(&row(), DiskFormat::Raw), entity_tag(&moved, DiskFormat::Raw));
        assert_eq!(entity_tag(&row(), DiskFormat::Vhd), entity_tag(&moved, DiskFormat::Vhd));
    }

    /// The whole export of a small disk: 7 MiB and three sectors, with data in its first, second and last block.
    fn whole_export(layout: &dyn Layout) -> String {
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < layout.len() {
            let piece = layout.piece_at(at, u64::MAX);
            at += piece.len();
            match piece {
                Piece::Bytes(bytes) => hash.update(&bytes),
                Piece::Zeros(len) => hash.update(vec![0; usize::try_from(len).unwrap()]),
                Piece::Digest { .. } => unreachable!("only archives have digests"),
                Piece::Disk { offset, len } => {
                    let inside = |byte: u64| if byte < SIZE { (byte / 512 % 251) as u8 } else { 0 };
                    hash.update((offset..offset + len).map(inside).collect::<Vec<u8>>());
                }
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const SIZE: u64 = (7 << 20) + 3 * 512;

    #[test]
    fn whole_exports_are_pinned_so_that_no_download_is_continued_with_other_bytes() {
        let mut map = AllocationMap::new(SIZE);
        map.set_range(0, 1);
        map.set_range(3 << 20, 200_000);
        map.set_range(SIZE - 1, 1);
        let (map, row) = (Arc::new(map), row());
        let (unique_id, timestamp) = vhd_identity(row.id, row.created_ms);
        let raw = RawLayout::new(Arc::clone(&map));
        let vhd = VhdImageLayout::new(map, unique_id, timestamp).unwrap();
        // Whoever has to change one of these has to raise its layout version above.
        assert_eq!(
            (RAW_LAYOUT_VERSION, whole_export(&raw).as_str()),
            (1, "3ed4ceb16a87af73818108c82dd6c6a03b0c2f2b21b7df907cb43415d2c3390f")
        );
        assert_eq!(
            (VHD_LAYOUT_VERSION, whole_export(&vhd).as_str()),
            (1, "9f5da6f16792e4fb2ea00649781ea6b0f208d770192c151d5b8b69c828886b54")
        );
    }
}
