//! One exact, unchanging string of bytes: contents in the shape in which a client asks for them.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::backends::local::OpenContent;
use crate::disk::DiskReader;
use crate::formats::frames::Compression;
use crate::formats::vhd::{VhdError, vhd_time};
use crate::formats::xva::{ChecksumKind, XvaLayoutError};
use crate::ids::{ContentId, DiskFormat};
use crate::image::Layout;
use crate::image::pools::Pools;
use crate::image::raw_layout::RawLayout;
use crate::image::vhd_layout::VhdImageLayout;
use crate::image::xva_layout::{XVA_LAYOUT_VERSION, XvaImageLayout};
use crate::state::disks::ContentRow;

use super::recipe::Shape;

/// Counts up whenever the same content comes out as other bytes; part of the entity tag, so that a download
/// that an older version began is not continued with the bytes of a newer one.
const RAW_LAYOUT_VERSION: u32 = 1;
/// As [`RAW_LAYOUT_VERSION`], for `.vhd`.
const VHD_LAYOUT_VERSION: u32 = 1;

/// One exact string of bytes, and what it is made from. Keeps its contents open.
pub struct Representation {
    /// The contents, open; of an XVA in the order of the archive.
    pub contents: Vec<Arc<OpenContent>>,
    /// Its shape.
    pub shape: Shape,
    /// What lies where in it before it is compressed.
    pub layout: Arc<dyn Layout>,
    /// The disk that the layout speaks of.
    pub disk: Arc<dyn DiskReader>,
    /// The threads that read it.
    pub pools: Pools,
    /// The strong entity tag that it has without compression, quotes included.
    pub plain_etag: String,
    /// Its strong entity tag, quotes included.
    pub etag: String,
}

impl Representation {
    /// Describes a content in a form. Reads nothing.
    ///
    /// # Errors
    /// When the form cannot hold it: a VHD ends at 2040 GiB.
    pub fn of_disk(content: Arc<OpenContent>, format: DiskFormat, shape: Shape) -> Result<Self, VhdError> {
        let map = Arc::clone(&content.map);
        let layout: Arc<dyn Layout> = match format {
            DiskFormat::Raw => Arc::new(RawLayout::new(map)),
            DiskFormat::Vhd => {
                let (unique_id, timestamp) = vhd_identity(content.row.id, content.row.created_ms);
                Arc::new(VhdImageLayout::new(map, unique_id, timestamp)?)
            }
        };
        let plain_etag = entity_tag(&content.row, format);
        Ok(Self {
            layout,
            disk: Arc::clone(&content.reader),
            pools: Pools::one(Arc::clone(&content.io)),
            etag: compressed_tag(&plain_etag, shape.compression),
            plain_etag,
            contents: vec![content],
            shape,
        })
    }

    /// Describes the archive of an `ova.xml` and of the disks that it names, in the order of their ids. Reads nothing.
    ///
    /// # Errors
    /// When an archive cannot hold the disks.
    pub fn of_vm(
        xml: Bytes,
        disks: Vec<(String, Arc<OpenContent>)>,
        checksum: ChecksumKind,
        shape: Shape,
    ) -> Result<Self, XvaLayoutError> {
        let plain_etag = archive_tag(&xml, disks.iter().map(|(_, content)| &content.row), checksum);
        let (ids, contents): (Vec<_>, Vec<_>) = disks.into_iter().unzip();
        let maps = ids.into_iter().zip(contents.iter().map(|content| Arc::clone(&content.map))).collect();
        let layout = XvaImageLayout::new(xml, maps, checksum)?;
        let disk =
            XvaImageLayout::reader(contents.iter().map(|content| Arc::clone(&content.reader)).collect());
        let pools = disk.starts().zip(&contents).map(|(start, content)| (start, Arc::clone(&content.io)));
        Ok(Self {
            pools: Pools::by_start(pools.collect()),
            disk: Arc::new(disk),
            layout: Arc::new(layout),
            etag: compressed_tag(&plain_etag, shape.compression),
            plain_etag,
            contents,
            shape,
        })
    }

    /// Number of bytes; `None` when it is compressed: then its frames tell.
    pub fn len(&self) -> Option<u64> {
        self.shape.compression.is_none().then(|| self.layout.len())
    }

    /// Whether it is known to have no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

/// The entity tag of a content in a form: the same for the same bytes, across restarts too, and another
/// whenever any byte may be another. The bytes of a `.raw` do not depend on the allocation map, those of a
/// `.vhd` do.
pub fn entity_tag(content: &ContentRow, format: DiskFormat) -> String {
    tag(&match format {
        DiskFormat::Raw => format!("vdi {} raw {RAW_LAYOUT_VERSION}", content.id),
        DiskFormat::Vhd => {
            let seconds = content.created_ms.div_euclid(1000);
            format!("vdi {} map {} vhd {VHD_LAYOUT_VERSION} {seconds}", content.id, content.map_version)
        }
    })
}

/// The entity tag of an archive: of its `ova.xml`, its contents with their maps, and the kind of its checksums.
fn archive_tag<'a>(
    xml: &[u8],
    contents: impl Iterator<Item = &'a ContentRow>,
    checksum: ChecksumKind,
) -> String {
    let hash = Sha256::digest(xml);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let contents: String =
        contents.map(|content| format!(" {} map {}", content.id, content.map_version)).collect();
    tag(&format!("vm {hash} xva {XVA_LAYOUT_VERSION} {}{contents}", checksum.suffix()))
}

/// The entity tag of what is compressed: of what it is, and of everything that the frames depend on.
fn compressed_tag(plain: &str, compression: Option<Compression>) -> String {
    compression
        .map_or_else(|| plain.to_owned(), |compression| tag(&format!("{plain} {}", compression.identity())))
}

fn tag(identity: &str) -> String {
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
