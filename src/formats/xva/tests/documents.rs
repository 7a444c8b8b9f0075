use super::super::{Document, NULL_REFERENCE, Rule, Value};
use super::archive::{document, object, xml};

#[test]
fn a_document_is_read_as_it_was_written() {
    let mut document = document(&[("Ref:5", 4096)]);
    document.objects[0].snapshot.set("is_a_template", Value::Bool(false));
    document.objects[0].snapshot.set("name_label", Value::text(" <é&\"> "));
    let platform = [("viridian", Value::text("true")), ("x", Value::Double("0.5".into()))];
    document.objects[0].snapshot.set("platform", Value::Struct(platform.into_iter().collect()));
    assert_eq!(Document::parse(&xml(&document)).unwrap(), document);
}

#[test]
fn each_member_that_importers_require_is_missed() {
    let classes = [
        ("VM", 32),
        ("VDI", 12),
        ("VBD", 16),
        ("VIF", 13),
        ("SR", 9),
        ("network", 2),
        ("VM_guest_metrics", 7),
        ("VM_metrics", 10),
    ];
    for (class, count) in classes {
        let mut whole = document(&[]);
        let members = [("SR", "Ref:1"), ("VDI", NULL_REFERENCE)];
        whole.objects.push(object(class, "Ref:77", &members));
        if matches!(class, "VBD" | "VIF") {
            whole.objects.last_mut().unwrap().snapshot.set("VM", Value::text("Ref:0"));
        }
        assert!(Document::parse(&xml(&whole)).is_ok(), "{class}");
        let last = whole.objects.len() - 1;
        let mut missed = 0;
        for (name, _) in whole.objects[last].snapshot.clone().iter() {
            let mut document = whole.clone();
            document.objects[last].snapshot.remove(name);
            let Err(error) = Document::parse(&xml(&document)) else { continue };
            assert_eq!(error.rule(), Rule::X9);
            assert!(error.to_string().contains(&format!("{name:?} of the {class} \"Ref:77\"")), "{error}");
            missed += 1;
        }
        assert_eq!(missed, count, "{class}");
    }
}

#[test]
fn a_disk_that_is_attached_nowhere_or_has_left_may_be_named() {
    let mut document = document(&[("Ref:5", 4096)]);
    document.objects.push(object(
        "VBD",
        "Ref:60",
        &[("VM", "Ref:0"), ("VDI", NULL_REFERENCE), ("type", "Disk")],
    ));
    let cd = [("VM", "Ref:0"), ("VDI", "Ref:gone"), ("type", "CD"), ("userdevice", "7")];
    document.objects.push(object("VBD", "Ref:61", &cd));
    document.objects.push(object("VDI", "Ref:62", &[("SR", "Ref:1"), ("virtual_size", "77")]));
    document.objects.push(object("VGPU_type", "Ref:63", &[]));
    let read = Document::parse(&xml(&document)).unwrap();
    assert_eq!(read.disks().len(), 1);
}

#[test]
fn versions_of_xapi_are_taken_up_to_one_that_nobody_has_seen() {
    let read = |major: i64| {
        let mut document = document(&[]);
        document.version.set("xapi_major", Value::text(major));
        Document::parse(&xml(&document)).map(drop)
    };
    assert_eq!((read(1), read(30)), (Ok(()), Ok(())));
    assert_eq!(read(31).unwrap_err().code(), "xva_xapi_version");
}
