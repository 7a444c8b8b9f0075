//! What an `ova.xml` says: who wrote it, and the objects that it describes.

use std::collections::HashSet;

use super::{Record, Value};

/// The reference that points at nothing.
pub const NULL_REFERENCE: &str = "OpaqueRef:NULL";

/// One object of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its class: `VM`, `VBD`, `VDI`, …
    pub class: String,
    /// What the document calls it: `Ref:12`. Of a VDI also the name of its directory.
    pub id: String,
    /// Its members. A reference is the id of another object, or [`NULL_REFERENCE`].
    pub snapshot: Record,
}

/// An `ova.xml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Who wrote it: hostname, date, product_version, product_brand, build_number, xapi_major, xapi_minor, export_vsn.
    pub version: Record,
    /// Its objects, in their order.
    pub objects: Vec<Object>,
}

/// A disk of which an archive holds the blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedDisk {
    /// The VDI's id, and the name of its directory.
    pub id: String,
    /// Size in bytes.
    pub virtual_size: u64,
}

impl Document {
    /// The objects of a class, in their order.
    pub fn of_class<'a>(&'a self, class: &'a str) -> impl Iterator<Item = &'a Object> {
        self.objects.iter().filter(move |object| object.class == class)
    }

    /// The object of an id.
    pub fn object(&self, id: &str) -> Option<&Object> {
        self.objects.iter().find(|object| object.id == id)
    }

    /// The disks whose blocks the archive holds, in its order: VDIs of VBDs that are no CD drives, unless their SR
    /// is one of ISO images, and suspend images; by id, as text. One whose size is no number has 0.
    pub fn disks(&self) -> Vec<ArchivedDisk> {
        let isos: HashSet<&str> = self
            .of_class("SR")
            .filter(|sr| sr.snapshot.text("content_type").eq_ignore_ascii_case("iso"))
            .map(|sr| sr.id.as_str())
            .collect();
        let attached: HashSet<&str> = self
            .of_class("VBD")
            .filter(|vbd| !vbd.snapshot.text("type").eq_ignore_ascii_case("CD"))
            .map(|vbd| vbd.snapshot.text("VDI"))
            .collect();
        let mut disks: Vec<_> = self
            .of_class("VDI")
            .filter(|vdi| {
                let suspend = vdi.snapshot.text("type").eq_ignore_ascii_case("suspend");
                suspend || (attached.contains(vdi.id.as_str()) && !isos.contains(vdi.snapshot.text("SR")))
            })
            .map(|vdi| {
                let size = vdi.snapshot.get("virtual_size").and_then(Value::as_i64).unwrap_or(0);
                ArchivedDisk { id: vdi.id.clone(), virtual_size: u64::try_from(size).unwrap_or(0) }
            })
            .collect();
        disks.sort_by(|one, other| one.id.as_bytes().cmp(other.id.as_bytes()));
        disks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(class: &str, id: &str, members: &[(&str, &str)]) -> Object {
        let snapshot = members.iter().map(|(name, text)| (*name, Value::text(text))).collect();
        Object { class: class.into(), id: id.into(), snapshot }
    }

    #[test]
    fn disks_are_what_vbds_name_and_suspend_images_in_the_order_of_their_ids_as_text() {
        let vdi = |id, sr, kind| object("VDI", id, &[("SR", sr), ("type", kind), ("virtual_size", "1024")]);
        let vbd = |id, vdi, kind| object("VBD", id, &[("VDI", vdi), ("type", kind)]);
        let document = Document {
            version: Record::new(),
            objects: vec![
                object("SR", "Ref:0", &[("content_type", "user")]),
                object("SR", "Ref:1", &[("content_type", "iso")]),
                vdi("Ref:2", "Ref:0", "user"),
                vdi("Ref:10", "Ref:0", "system"),
                vdi("Ref:3", "Ref:1", "user"),
                vdi("Ref:4", "Ref:0", "suspend"),
                vdi("Ref:5", "Ref:0", "user"),
                vbd("Ref:6", "Ref:2", "Disk"),
                vbd("Ref:7", "Ref:10", "disk"),
                vbd("Ref:8", "Ref:3", "Disk"),
                vbd("Ref:9", "Ref:5", "CD"),
            ],
        };
        let ids: Vec<_> = document.disks().into_iter().map(|disk| disk.id).collect();
        assert_eq!(ids, ["Ref:10", "Ref:2", "Ref:4"]);
    }
}
