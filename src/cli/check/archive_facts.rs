//! What an XVA holds, as its document says it and as it was found.

use std::collections::HashMap;

use serde::Serialize;

use super::report::bytes;
use crate::formats::xva::{BLOCK_BYTES, Document, NULL_REFERENCE, Object, Quoted};

/// What only an XVA has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchiveFacts {
    /// Who wrote it: brand, version and build of the product.
    pub(super) product: String,
    pub(super) version: String,
    pub(super) build: String,
    pub(super) host: String,
    pub(super) date: String,
    /// The version of its xapi: `1.20`.
    pub(super) xapi: String,
    pub(super) export_version: Option<i64>,
    /// `xxhash`, `sha1` or `mixed`; none when there are no blocks.
    pub(super) checksums: Option<&'static str>,
    /// Length in bytes of the tar stream, when it was read to its end.
    pub(super) tar_length: Option<u64>,
    pub(super) end_marker: Option<bool>,
    pub(super) vms: Vec<VmFacts>,
    /// In the order of the archive.
    pub(super) disks: Vec<DiskFacts>,
}

/// A VM, a snapshot or a template.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VmFacts {
    /// `vm`, `snapshot` or `template`.
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) uuid: String,
}

/// A disk whose blocks are in the archive.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DiskFacts {
    /// The archive's own: also the name of its directory.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) uuid: String,
    /// Whether it is the memory of a suspended VM.
    pub(super) suspend_image: bool,
    pub(super) virtual_size: u64,
    /// Bytes of a block.
    pub(super) block_bytes: u64,
    /// Blocks of the disk, and those with bytes in the archive as far as that was read.
    pub(super) blocks: u64,
    pub(super) present_blocks: u64,
    /// Bytes of the disk for which the archive has data.
    pub(super) data_bytes: u64,
    /// Whether it was read to its end, and all its checksums were right.
    pub(super) whole: bool,
    pub(super) used_by: Vec<UseFacts>,
}

/// A place where a VM has a disk.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UseFacts {
    /// The VM's name and uuid.
    pub(super) vm: String,
    pub(super) vm_uuid: String,
    /// The VM's position for it; none of a suspend image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) position: Option<String>,
}

impl ArchiveFacts {
    /// What a document says; nothing of the disks has been read.
    pub(super) fn of(document: &Document) -> Self {
        let version = |name| document.version.text(name).to_owned();
        let vms = document.of_class("VM").map(|vm| VmFacts {
            // A snapshot is a template, too.
            kind: match (vm.snapshot.flag("is_a_snapshot"), vm.snapshot.flag("is_a_template")) {
                (true, _) => "snapshot",
                (false, true) => "template",
                (false, false) => "vm",
            },
            name: text(vm, "name_label"),
            uuid: text(vm, "uuid"),
        });
        Self {
            product: version("product_brand"),
            version: version("product_version"),
            build: version("build_number"),
            host: version("hostname"),
            date: version("date"),
            xapi: format!("{}.{}", document.version.text("xapi_major"), document.version.text("xapi_minor")),
            export_version: document.version.number("export_vsn"),
            checksums: None,
            tar_length: None,
            end_marker: None,
            vms: vms.collect(),
            disks: disks(document),
        }
    }

    /// Tells it to people, name by name.
    pub(super) fn tell(&self, fact: &mut dyn FnMut(&str, String)) {
        if let Some(length) = self.tar_length {
            fact("tar length", bytes(length));
        }
        let [product, version, build, host, date, xapi] =
            [&self.product, &self.version, &self.build, &self.host, &self.date, &self.xapi]
                .map(|text| plain(text));
        fact("written by", format!("{product} {version} (build {build}) on {host}, {date}"));
        let export = self.export_version.map_or_else(|| "none".to_owned(), |version| version.to_string());
        fact("xapi", format!("{xapi}, export version {export}"));
        fact("checksums", self.checksums.unwrap_or("none").to_owned());
        for vm in &self.vms {
            let kind = if vm.kind == "vm" { "VM" } else { vm.kind };
            fact(kind, format!("{} {}", Quoted::new(&vm.name), plain(&vm.uuid)));
        }
        if self.disks.is_empty() {
            fact("disks", "none".to_owned());
        }
        self.disks.iter().for_each(|disk| disk.tell(fact));
    }
}

impl DiskFacts {
    /// Its first block says how long blocks are.
    pub(super) fn begin(&mut self, block_bytes: u64) {
        self.block_bytes = block_bytes.max(1);
        self.blocks = self.virtual_size.div_ceil(self.block_bytes);
    }

    fn tell(&self, fact: &mut dyn FnMut(&str, String)) {
        let kind = if self.suspend_image { "suspend image" } else { "disk" };
        fact(
            kind,
            format!("{} {}, {} in the archive", Quoted::new(&self.name), plain(&self.uuid), plain(&self.id)),
        );
        for place in &self.used_by {
            let position =
                place.position.as_deref().map(|position| format!("position {} of ", plain(position)));
            fact("  of", format!("{}{}", position.unwrap_or_default(), Quoted::new(&place.vm)));
        }
        fact("  size", bytes(self.virtual_size));
        let state = if self.whole { "" } else { ", not read to its end" };
        let (present, all) = (self.present_blocks, self.blocks);
        fact("  blocks", format!("{present} of {all}, {} each{state}", bytes(self.block_bytes)));
        fact("  data", bytes(self.data_bytes));
    }
}

fn text(object: &Object, name: &str) -> String {
    object.snapshot.text(name).to_owned()
}

/// A text from an archive as a terminal may have it, without quotation marks.
fn plain(text: &str) -> String {
    let quoted = Quoted::new(text).to_string();
    quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default().to_owned()
}

/// The disks of a document with their places. Each list of objects is gone through once.
fn disks(document: &Document) -> Vec<DiskFacts> {
    let of_class = |class| {
        document.of_class(class).map(|object| (object.id.as_str(), object)).collect::<HashMap<_, _>>()
    };
    let (vms, vdis) = (of_class("VM"), of_class("VDI"));
    let mut uses: HashMap<&str, Vec<UseFacts>> = HashMap::new();
    let mut add = |vdi, vm: &Object, position| {
        let place = UseFacts { vm: text(vm, "name_label"), vm_uuid: text(vm, "uuid"), position };
        uses.entry(vdi).or_default().push(place);
    };
    for vbd in document.of_class("VBD") {
        if let Some(vm) = vms.get(vbd.snapshot.text("VM")) {
            add(vbd.snapshot.text("VDI"), vm, Some(text(vbd, "userdevice")));
        }
    }
    for vm in document.of_class("VM") {
        match vm.snapshot.text("suspend_VDI") {
            "" | NULL_REFERENCE => {}
            vdi => add(vdi, vm, None),
        }
    }
    let disks = document.disks().into_iter().map(|disk| {
        let member = |name| vdis.get(disk.id.as_str()).map(|vdi| text(vdi, name)).unwrap_or_default();
        DiskFacts {
            name: member("name_label"),
            uuid: member("uuid"),
            suspend_image: member("type").eq_ignore_ascii_case("suspend"),
            virtual_size: disk.virtual_size,
            block_bytes: BLOCK_BYTES,
            blocks: disk.virtual_size.div_ceil(BLOCK_BYTES),
            present_blocks: 0,
            data_bytes: 0,
            whole: false,
            used_by: uses.remove(disk.id.as_str()).unwrap_or_default(),
            id: disk.id,
        }
    });
    disks.collect()
}
