//! XVA archives by other people's means: the `tar` crate, and documents written by hand.

use std::fmt::Write as _;
use std::io::Read;

use sha1::{Digest, Sha1};
use xxhash_rust::xxh64::xxh64;

use crate::support::MIB;

/// The members of a plain archive, in order.
#[track_caller]
pub fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().expect("it is a tar archive") {
        let mut entry = entry.expect("a member");
        let name = entry.path().expect("a name").to_str().expect("ASCII").to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("the whole member");
        found.push((name, bytes));
    }
    found
}

/// What is checked of an archive, and what an importer would make of it: the text of its document, and its disks by
/// directory, each as long as its blocks reach.
#[track_caller]
pub fn disks(archive: &[u8]) -> (String, Vec<(String, Vec<u8>)>) {
    let mut members = members(archive).into_iter();
    let (name, xml) = members.next().expect("a first member");
    assert_eq!(name, "ova.xml");
    let mut disks: Vec<(String, Vec<u8>)> = Vec::new();
    while let Some((name, block)) = members.next() {
        let (folder, counter) = name.split_once('/').expect("a folder");
        let counter: usize = counter.parse().expect("a number of 8 digits");
        if disks.last().is_none_or(|(last, _)| last != folder) {
            assert_eq!(counter, 0, "{name}: the first block is there");
            assert!(disks.iter().all(|(other, _)| other.as_str() < folder), "{name}: in the order of text");
            disks.push((folder.to_owned(), Vec::new()));
        }
        let (_, disk) = disks.last_mut().expect("it was pushed");
        let at = counter * MIB as usize;
        assert!(at >= disk.len(), "{name}: counters grow");
        disk.resize(at, 0);
        disk.extend_from_slice(&block);
        let (checksum, text) = members.next().expect("a checksum after each block");
        match checksum.strip_prefix(name.as_str()) {
            Some(".xxhash") => assert_eq!(text, xxhash(&block).into_bytes(), "{checksum}"),
            Some(".checksum") => assert_eq!(text, sha1(&block).into_bytes(), "{checksum}"),
            _ => panic!("{checksum} after {name}"),
        }
    }
    (String::from_utf8(xml).expect("text"), disks)
}

pub fn xxhash(block: &[u8]) -> String {
    format!("{:016X}", xxh64(block, 0))
}

pub fn sha1(block: &[u8]) -> String {
    Sha1::digest(block).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}

/// An archive in the making.
pub struct Builder(tar::Builder<Vec<u8>>);

impl Builder {
    pub fn new(document: &str) -> Self {
        let mut builder = Self(tar::Builder::new(Vec::new()));
        builder.member("ova.xml", document.as_bytes());
        builder
    }

    pub fn member(&mut self, name: &str, bytes: &[u8]) -> &mut Self {
        let mut header = tar::Header::new_old();
        // Not by `set_path`, which refuses what an importer has to refuse.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o400);
        header.set_cksum();
        self.0.append(&header, bytes).expect("memory takes it");
        self
    }

    /// A block with its checksum.
    pub fn block(&mut self, folder: &str, counter: usize, bytes: &[u8]) -> &mut Self {
        let name = format!("{folder}/{counter:08}");
        self.member(&name, bytes);
        self.member(&format!("{name}.xxhash"), xxhash(bytes).as_bytes())
    }

    /// All blocks of a disk but those of nothing but zeros between its first and its last one.
    pub fn disk(&mut self, folder: &str, disk: &[u8]) -> &mut Self {
        let blocks: Vec<&[u8]> = disk.chunks(MIB as usize).collect();
        for (counter, block) in blocks.iter().enumerate() {
            let needed = counter == 0 || counter + 1 == blocks.len();
            if needed || block.iter().any(|byte| *byte != 0) {
                self.block(folder, counter, block);
            }
        }
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("memory takes it")
    }
}

/// A document of one VM with disks of these sizes, as xapi would write it: with an empty CD drive, an interface, a
/// network, metrics and members that nobody here knows. The disks are `Ref:3`, `Ref:5`, …
pub fn document(name: &str, sizes: &[u64]) -> String {
    let folders: Vec<String> = (0..sizes.len()).map(folder).collect();
    let text =
        |name: &str, value: &str| format!("<member><name>{name}</name><value>{value}</value></member>");
    let empty = |name: &str| text(name, "<struct></struct>");
    let no = |name: &str| text(name, "<boolean>0</boolean>");
    let object = |class: &str, id: &str, snapshot: String| {
        format!(
            "<value><struct>{}{}<member><name>snapshot</name><value><struct>{snapshot}</struct></value></member></struct></value>",
            text("class", class),
            text("id", id)
        )
    };
    let device = |kind: &str| {
        [
            text("VM", "Ref:0"),
            no("currently_attached"),
            empty("other_config"),
            text("status_code", "0"),
            text("status_detail", ""),
            empty("runtime_properties"),
            text("qos_algorithm_type", ""),
            empty("qos_algorithm_params"),
            text("qos_supported_algorithms", "<array><data></data></array>"),
            text(
                "uuid",
                &format!("00000000-0000-4000-8000-{:0>12}", kind.bytes().map(u64::from).sum::<u64>()),
            ),
        ]
        .concat()
    };
    let mut vm = [
        text("uuid", "11111111-2222-4333-8444-555555555555"),
        text("name_label", name),
        text("name_description", "made &lt;by&gt; hand &amp; kept"),
        text("power_state", "Halted"),
        no("is_a_template"),
        no("is_control_domain"),
        no("is_a_snapshot"),
        text(
            "other_config",
            &format!("<struct>{}{}</struct>", text("mac_seed", "aaaa"), text("XenCenter.Key", "kept")),
        ),
        text("platform", &format!("<struct>{}</struct>", text("viridian", "true"))),
        text(
            "HVM_boot_params",
            &format!("<struct>{}{}</struct>", text("order", "cdn"), text("firmware", "uefi")),
        ),
        text("HVM_boot_policy", "BIOS order"),
        text("metrics", "Ref:90"),
        text("guest_metrics", "OpaqueRef:NULL"),
        text(
            "a_member_of_the_future",
            "<array><data><value>1</value><value><boolean>1</boolean></value></data></array>",
        ),
        text("HVM_shadow_multiplier", "<double>1.5</double>"),
        text("snapshot_time", "<dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601>"),
        text("memory_static_max", "2147483648"),
        text("memory_dynamic_max", "2147483648"),
        text("memory_dynamic_min", "1073741824"),
        text("memory_static_min", "536870912"),
        text("VCPUs_max", "4"),
        text("VCPUs_at_startup", "2"),
        empty("VCPUs_params"),
    ]
    .concat();
    vm += &text("user_version", "1");
    vm += &text("domid", "-1");
    for member in "resident_on affinity actions_after_shutdown actions_after_reboot actions_after_crash \
        PV_bootloader PV_kernel PV_ramdisk PV_args PV_bootloader_args PV_legacy_args PCI_bus domarch recommendations"
        .split_whitespace()
    {
        vm += &text(member, "");
    }
    let mut objects = object("VM", "Ref:0", vm);
    for (at, (folder, size)) in folders.iter().zip(sizes).enumerate() {
        let vbd = [
            device(folder),
            text("VDI", folder),
            text("userdevice", &at.to_string()),
            no("bootable"),
            text("mode", "RW"),
            text("type", "Disk"),
            no("storage_lock"),
            no("empty"),
        ];
        objects += &object("VBD", &format!("Ref:{}", 2 + 2 * at), vbd.concat());
        let vdi = [
            text("uuid", &format!("00000000-0000-4000-9000-{at:0>12}")),
            text("name_label", &format!("disk {at}")),
            text("SR", "Ref:1"),
            text("virtual_size", &size.to_string()),
            text("physical_utilisation", "0"),
            text("type", "user"),
            no("sharable"),
            no("read_only"),
            text("other_config", &format!("<struct>{}</struct>", text("of disk", &at.to_string()))),
            no("storage_lock"),
            no("managed"),
            no("missing"),
            text("parent", "OpaqueRef:NULL"),
        ];
        objects += &object("VDI", folder, vdi.concat());
    }
    let cd = [
        device("cd"),
        text("VDI", "OpaqueRef:NULL"),
        text("userdevice", "9"),
        no("bootable"),
        text("mode", "RO"),
        text("type", "CD"),
        no("storage_lock"),
        text("empty", "<boolean>1</boolean>"),
    ];
    objects += &object("VBD", "Ref:80", cd.concat());
    let vif = [
        device("vif"),
        text("device", "0"),
        text("network", "Ref:82"),
        text("MAC", "aa:bb:cc:dd:ee:ff"),
        text("MTU", "1500"),
    ];
    objects += &object("VIF", "Ref:81", vif.concat());
    let network = [
        text("uuid", "00000000-0000-4000-a000-000000000000"),
        text("name_label", "network of hand"),
        text("bridge", "xenbr7"),
        text("MTU", "9000"),
        empty("other_config"),
    ];
    objects += &object("network", "Ref:82", network.concat());
    let sr = [
        text("uuid", "00000000-0000-4000-b000-000000000000"),
        text("name_label", "where it was"),
        text("virtual_allocation", "0"),
        text("physical_utilisation", "0"),
        text("physical_size", "0"),
        text("type", "lvm"),
        text("content_type", "user"),
        no("shared"),
        text("other_config", &format!("<struct>{}</struct>", text("of the SR", "kept"))),
        no("default_vdi_visibility"),
    ];
    objects += &object("SR", "Ref:1", sr.concat());
    let mut metrics = text("uuid", "00000000-0000-4000-c000-000000000000");
    metrics += &text("memory_actual", "0");
    metrics += &text("VCPUs_number", "2");
    for member in
        "VCPUs_CPU VCPUs_params VCPUs_flags state start_time install_time last_updated".split_whitespace()
    {
        metrics += &text(member, "");
    }
    objects += &object("VM_metrics", "Ref:90", metrics);
    let version = [
        text("hostname", "elsewhere"),
        text("date", "<dateTime.iso8601>20260131T12:00:00Z</dateTime.iso8601>"),
        text("product_version", "8.3.0"),
        text("product_brand", "XCP-ng"),
        text("build_number", "cloud"),
        text("xapi_major", "1"),
        text("xapi_minor", "20"),
        text("export_vsn", "2"),
    ];
    format!(
        "<value><struct><member><name>version</name><value><struct>{}</struct></value></member>\
         <member><name>objects</name><value><array><data>{objects}</data></array></value></member></struct></value>",
        version.concat()
    )
}

/// The directory of a disk of [`document`].
pub fn folder(at: usize) -> String {
    format!("Ref:{}", 3 + 2 * at)
}
