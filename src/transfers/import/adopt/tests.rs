use super::*;
use crate::formats::xva::Document;

fn object(class: &str, id: &str, members: &[(&str, Value)]) -> Object {
    let snapshot = members.iter().map(|(name, value)| (*name, value.clone())).collect();
    Object { class: class.into(), id: id.into(), snapshot }
}

fn text(text: &str) -> Value {
    Value::text(text)
}

/// A VM with a disk, a CD from an ISO SR, an interface, and metrics.
fn document() -> Document {
    let vbd = |id, vdi, kind, device| {
        object(
            "VBD",
            id,
            &[
                ("VM", text("Ref:0")),
                ("VDI", text(vdi)),
                ("type", text(kind)),
                ("mode", text("RO")),
                ("userdevice", text(device)),
            ],
        )
    };
    Document {
        version: Record::new(),
        objects: vec![
            object(
                "VM",
                "Ref:0",
                &[
                    ("uuid", text("11111111-2222-4333-8444-555555555555")),
                    ("name_label", text("Ref:9")),
                    ("metrics", text("Ref:9")),
                    ("VBDs", Value::Array(vec![text("Ref:2"), text("Ref:4")])),
                    ("other_config", Value::Struct([("mac_seed", text("old"))].into_iter().collect())),
                ],
            ),
            object("SR", "Ref:1", &[("content_type", text("user"))]),
            object("SR", "Ref:7", &[("content_type", text("iso"))]),
            vbd("Ref:2", "Ref:3", "Disk", "0"),
            object(
                "VDI",
                "Ref:3",
                &[("SR", text("Ref:1")), ("virtual_size", text("512")), ("type", text("system"))],
            ),
            vbd("Ref:4", "Ref:5", "CD", "3"),
            object("VDI", "Ref:5", &[("SR", text("Ref:7")), ("location", text("debian.iso"))]),
            object(
                "VIF",
                "Ref:6",
                &[("VM", text("Ref:0")), ("MAC", text("aa:bb:cc:dd:ee:ff")), ("network", text("Ref:8"))],
            ),
            object("network", "Ref:8", &[("name_label", text("n"))]),
            object("VM_metrics", "Ref:9", &[("VCPUs_number", text("2"))]),
        ],
    }
}

fn names(restore: bool) -> Names {
    Names { vm: VmId::random(), restore }
}

#[test]
fn objects_with_a_table_become_rows_and_the_others_are_kept_with_the_vm() {
    let names = names(false);
    let mut adopted = adopt(document(), names).unwrap();
    assert_eq!(adopted.vm(), (names.vm, VmKind::Vm));
    let classes: Vec<_> = adopted.vms[0].extra.iter().map(|(class, _)| class.as_str()).collect();
    assert_eq!(classes, ["SR", "SR", "VDI", "VM_metrics"], "of the SRs, the ISO and the metrics");
    let vdi = adopted.take_disk(0).unwrap();
    assert_eq!((vdi.vdi_type.as_str(), adopted.take_disk(0).is_none()), ("system", true));
    assert_eq!(adopted.vbds[0].vdi, Some(vdi.id));
    assert_eq!(adopted.vbds[1].vdi, None, "a CD is none of our disks");
    assert_eq!(adopted.vbds[1].record.text("VDI"), extra_reference(2));
    assert_eq!(adopted.vms[0].record.text("metrics"), extra_reference(3));
    assert_eq!(adopted.vms[0].name_label, "Ref:9", "a name is no reference");
    assert_eq!(adopted.vifs[0].network, Some(adopted.networks[0].id));
    assert_eq!(adopted.changes().len(), 5);
}

#[test]
fn a_copy_gets_other_addresses_and_a_restored_vm_keeps_its_own() {
    let copy = adopt(document(), names(false)).unwrap();
    assert_ne!(copy.vifs[0].mac, "aa:bb:cc:dd:ee:ff");
    let first = u8::from_str_radix(&copy.vifs[0].mac[..2], 16).unwrap();
    assert_eq!((first & 3, copy.vifs[0].mac.len()), (2, 17), "local and unicast: {}", copy.vifs[0].mac);
    let seed = copy.vms[0].record.map("other_config").next().unwrap().1.clone();
    assert_ne!(seed, text("old"));

    let restored = adopt(document(), names(true)).unwrap();
    assert_eq!(restored.vm().0.to_string(), "11111111-2222-4333-8444-555555555555");
    assert_eq!(restored.vifs[0].mac, "aa:bb:cc:dd:ee:ff");
    assert_eq!(restored.vms[0].record.map("other_config").next().unwrap().1, &text("old"));
}

#[test]
fn devices_that_cannot_be_are_refused_by_name() {
    let mut kind = document();
    kind.objects[3].snapshot.set("type", text("Tape"));
    let error = adopt(kind, names(false)).unwrap_err();
    assert!(error.to_string().contains("VBD Ref:2"), "{error}");
    let mut nobody = document();
    nobody.objects[7].snapshot.set("VM", text("Ref:1"));
    assert_eq!(adopt(nobody, names(false)).unwrap_err().code(), "xva_bad_vif");
    let mut id = document();
    id.objects[0].snapshot.set("uuid", text("none"));
    assert_eq!(adopt(id, names(true)).unwrap_err().code(), "xva_bad_uuid");
}

#[test]
fn a_disk_vbd_without_a_disk_is_left_out() {
    let mut document = document();
    document.objects[3].snapshot.set("VDI", text("OpaqueRef:NULL"));
    let adopted = adopt(document, names(false)).unwrap();
    assert_eq!(adopted.vbds.len(), 1);
    assert!(adopted.disks.is_empty());
}
