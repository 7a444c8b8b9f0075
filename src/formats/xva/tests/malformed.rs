//! One archive for each way to be wrong, and where the error says that it is.

use super::super::{ChecksumKind, Document, Rule, Value, XvaError};
use super::archive::{Archive, Entry, document, object, small, xml};
use super::streams::read;

/// An archive that is wrong.
pub struct Case {
    /// The rule and what is wrong.
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub rule: Rule,
    /// Where it is wrong, where a test says that.
    pub offset: Option<u64>,
}

struct Cases(Vec<Case>);

impl Cases {
    fn bytes(&mut self, rule: Rule, name: &'static str, bytes: Vec<u8>, offset: impl Into<Option<u64>>) {
        self.0.push(Case { name, bytes, rule, offset: offset.into() });
    }

    /// The small archive with a change; the fault is at the header of a member.
    fn spoilt(&mut self, rule: Rule, name: &'static str, member: &str, spoil: impl FnOnce(&mut Archive)) {
        let mut archive = small();
        spoil(&mut archive);
        let offset = (!member.is_empty()).then(|| archive.offset(member));
        self.bytes(rule, name, archive.bytes(), offset);
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Cases(Vec::new());
    tar_stream(&mut cases);
    documents(&mut cases);
    blocks(&mut cases);
    checksums(&mut cases);
    cases.0
}

fn tar_stream(cases: &mut Cases) {
    use Rule::*;
    let archive = small();
    let block = archive.offset("Ref:10/00000003");
    let cut = |len: u64| archive.bytes()[..len as usize].to_vec();
    cases.bytes(T1, "T1-nothing", Vec::new(), 0);
    cases.bytes(T1, "T1-in-header", cut(block + 100), block + 100);
    cases.bytes(T1, "T1-in-body", cut(block + 600), block + 600);
    cases.bytes(T1, "T1-in-document", cut(1000), 1000);
    let checksum = archive.offset("Ref:2/00000000.xxhash") + 512;
    cases.bytes(T1, "T1-in-padding", cut(checksum + 16), checksum + 16);
    let mut bytes = archive.bytes();
    bytes[block as usize] ^= 1;
    cases.bytes(T2, "T2", bytes, block + 148);
    let size = |field: &[u8]| {
        let mut bytes = archive.bytes();
        let header = &mut bytes[block as usize..][..512];
        header[124..136].copy_from_slice(field);
        seal(header);
        bytes
    };
    cases.bytes(T3, "T3-not-octal", size(b"0000000409_\0"), block + 124);
    cases.bytes(T3, "T3-base-256", size(b"\x80\0\0\0\0\0\0\0\0\0\x10\0"), block + 124);
    cases.bytes(T3, "T3-empty", size(&[0; 12]), block + 124);
    for (name, flag) in [("T4-symbolic-link", b'2'), ("T4-device", b'4'), ("T4-directory", b'5')] {
        cases.spoilt(T4, name, "", |archive| archive.entry("Ref:10/00000003").flag = flag);
    }
    cases.spoilt(T4, "T4-first", "", |archive| archive.entry("ova.xml").flag = b'1');
    let extension = |cases: &mut Cases, name, entries: Vec<Entry>| {
        cases.spoilt(T5, name, "", |archive| {
            archive.members.splice(1..1, entries);
        });
    };
    let entry = |flag, content: &[u8]| Entry { flag, ..Entry::new("PaxHeader", content) };
    extension(cases, "T5-no-pax", vec![entry(b'x', b"path=a")]);
    extension(cases, "T5-large", vec![entry(b'L', &[b'a'; (64 << 10) + 1])]);
    extension(cases, "T5-8-GiB", vec![Entry { size: Some((1 << 33) - 1), ..entry(b'x', b"") }]);
    extension(cases, "T5-many", vec![entry(b'g', b""); 17]);
    let mut pending = Archive::of(&document(&[]));
    pending.members.push(entry(b'L', b"name"));
    cases.bytes(T5, "T5-nothing-follows", pending.bytes(), None);
    pending.end.clear();
    cases.bytes(T1, "T1-behind-extension", pending.bytes(), None);

    cases.spoilt(O1, "O1", "", |archive| archive.entry("ova.xml").name = "./ova.xml".into());
    cases.spoilt(O1, "O1-none", "", |archive| archive.members.clear());
    cases.spoilt(O1, "O1-extension", "", |archive| {
        archive.members.insert(0, entry(b'x', b"16 path=ova.xml\n"))
    });
    cases.spoilt(O2, "O2", "ova.xml", |archive| archive.entry("ova.xml").size = Some((64 << 20) + 1));
    cases.spoilt(O2, "O2-8-GiB", "ova.xml", |archive| archive.entry("ova.xml").size = Some((1 << 33) - 1));
    cases.spoilt(E1, "E1-member", "more", |archive| archive.members.push(Entry::new("more", "x")));
    cases.spoilt(E1, "E1-checksums", "checksum.xml", |archive| {
        archive.members.push(Entry::new("checksum.xml", "<value/>"));
    });
    let end = archive.bytes().len() as u64;
    cases.spoilt(E1, "E1-behind-end", "", |archive| archive.end.extend(b"x"));
    cases.0.last_mut().unwrap().offset = Some(end);
    cases.spoilt(E1, "E1-many-zeros", "", |archive| archive.end = vec![0; (1 << 20) + 513]);
    cases.0.last_mut().unwrap().offset = Some(end - 512 + (1 << 20));
}

fn documents(cases: &mut Cases) {
    use Rule::*;
    let mut text = |rule, name, text: Vec<u8>| {
        let archive = Archive { members: vec![Entry::new("ova.xml", text)], end: vec![0; 1024] };
        cases.bytes(rule, name, archive.bytes(), None);
    };
    text(X0, "X0", [b"<!DOCTYPE value>", xml(&document(&[])).as_slice()].concat());
    text(X1, "X1-not-closed", b"<value><struct>".to_vec());
    text(X1, "X1-deep", b"<value><array><data>".repeat(400));
    text(X2, "X2", b"<html></html>".to_vec());
    text(X3, "X3-no-struct", b"<value/>".to_vec());
    text(X3, "X3-no-version", b"<value><struct/></value>".to_vec());
    let no_objects = String::from_utf8(xml(&document(&[]))).unwrap().replace("objects", "subjects");
    text(X3, "X3-no-objects", no_objects.into_bytes());
    let mut spoilt = |rule, name, spoil: &dyn Fn(&mut super::super::Document)| {
        let mut document = document(&[("Ref:5", 4096)]);
        spoil(&mut document);
        text(rule, name, xml(&document));
    };
    spoilt(X4, "X4", &|document| document.version.remove("build_number"));
    spoilt(X5, "X5", &|document| document.version.set("xapi_minor", Value::text("six")));
    spoilt(X5, "X5-newer", &|document| document.version.set("xapi_major", Value::text(99)));
    spoilt(X6, "X6-3", &|document| document.version.set("export_vsn", Value::text(3)));
    spoilt(X14, "X14-boolean", &|document| {
        document.objects[0].snapshot.set("is_a_template", Value::text("true"));
    });
    spoilt(X14, "X14-number", &|document| document.objects[0].snapshot.set("VCPUs_max", Value::text("many")));
    let vbd = |document: &mut Document, member: &str, text: &str| {
        let vbd = document.objects.iter_mut().find(|object| object.class == "VBD");
        vbd.expect("there is one").snapshot.set(member, Value::text(text));
    };
    spoilt(X15, "X15-vm", &|document| vbd(document, "VM", "Ref:1"));
    spoilt(X15, "X15-place", &|document| vbd(document, "userdevice", "xvda"));
    spoilt(X15, "X15-twice", &|document| vbd(document, "userdevice", "200"));
    spoilt(X6, "X6-1", &|document| document.version.set("export_vsn", Value::text(1)));
    spoilt(X6, "X6-none", &|document| document.version.remove("export_vsn"));
    spoilt(X7, "X7-no-id", &|document| document.objects[0].id.clear());
    spoilt(X7, "X7-null", &|document| document.objects[0].id = super::super::NULL_REFERENCE.into());
    spoilt(X8, "X8", &|document| document.objects[1].id = "Ref:0".into());
    spoilt(X9, "X9-vm", &|document| document.objects[0].snapshot.remove("recommendations"));
    spoilt(X9, "X9-network", &|document| {
        let mut network = object("network", "Ref:50", &[]);
        network.snapshot.remove("other_config");
        document.objects.push(network);
    });
    let set = |document: &mut super::super::Document, class: &str, name: &str, text: &str| {
        let object = document.objects.iter_mut().find(|object| object.class == class).unwrap();
        object.snapshot.set(name, Value::text(text));
    };
    spoilt(X10, "X10", &|document| set(document, "VBD", "VDI", "Ref:1"));
    spoilt(X11, "X11", &|document| set(document, "VDI", "SR", "Ref:0"));
    spoilt(X11, "X11-null", &|document| set(document, "VDI", "SR", super::super::NULL_REFERENCE));
    for (name, size) in [
        ("X12-no-number", "large"),
        ("X12-zero", "0"),
        ("X12-negative", "-512"),
        ("X12-half-a-sector", "4352"),
        ("X12-beyond-the-limit", "1099511628288"),
        ("X12-beyond-all", "99999999999999999999"),
    ] {
        spoilt(X12, name, &|document| set(document, "VDI", "virtual_size", size));
    }
    spoilt(X13, "X13", &|document| document.objects.retain(|object| object.class != "VM"));
}

fn blocks(cases: &mut Cases) {
    use Rule::*;
    let (third, fourth, last) = ("Ref:10/00000003", "Ref:10/00000004", "Ref:10/00000005");
    let without = |start: &str| {
        let mut archive = small();
        archive.remove(start);
        archive
    };
    let archive = without("Ref:2");
    let end = archive.bytes().len() as u64;
    cases.bytes(D1, "D1-end-marker-before-a-disk", archive.bytes(), end - 1024);
    let mut cut = small().bytes();
    cut.truncate(small().offset(last) as usize);
    cases.bytes(D1, "D1-inside-a-disk", cut, small().offset(last));
    let archive = without("Ref:10");
    cases.bytes(D2, "D2-missing-disk", archive.bytes(), archive.offset("Ref:2/00000000"));
    let archive = without(last);
    cases.bytes(D2, "D2-missing-last-block", archive.bytes(), archive.offset("Ref:2/00000000"));
    let mut rename = |rule, name, from: &str, to: &'static str| {
        cases.spoilt(rule, name, to, |archive| {
            archive.entry(&format!("{from}.xxhash")).name = format!("{to}.xxhash");
            archive.entry(from).name = to.into();
        });
    };
    rename(D2, "D2-other-directory", third, "Ref:1/00000003");
    rename(D2, "D2-other-order", "Ref:10/00000000", "Ref:2/00000001");
    rename(D2, "D2-escape", third, "Ref:10/../../00000003");
    rename(D2, "D2-absolute", third, "/Ref:10/00000003");
    rename(D2, "D2-no-directory", third, "Ref:1000000003");
    rename(D3, "D3-seven", third, "Ref:10/0000003");
    rename(D3, "D3-nine", third, "Ref:10/000000003");
    rename(D3, "D3-sign", third, "Ref:10/+0000003");
    rename(D3, "D3-letter", third, "Ref:10/0000000x");
    rename(D4, "D4-less", fourth, "Ref:10/00000002");
    cases.spoilt(D4, "D4-equal", "", |archive| {
        archive.entry("Ref:10/00000004.xxhash").name = format!("{third}.xxhash");
        archive.entry(fourth).name = third.into();
    });
    let first = "Ref:10/00000000";
    cases.spoilt(D5, "D5-empty", first, |archive| archive.set_block(first, []));
    cases.spoilt(D5, "D5-long", first, |archive| archive.set_block(first, vec![0; (1 << 20) + 1]));
    cases.spoilt(D5, "D5-8-GiB", first, |archive| archive.entry(first).size = Some((1 << 33) - 1));
    cases.spoilt(D6, "D6", third, |archive| archive.set_block(third, [1; 4097]));
    cases.spoilt(D6, "D6-8-GiB", third, |archive| archive.entry(third).size = Some((1 << 33) - 1));
    cases.spoilt(D7, "D7", third, |archive| archive.remove(first));
    cases.spoilt(D8, "D8-gap", "Ref:10/00000006", |archive| {
        archive.entry("Ref:10/00000005.xxhash").name = "Ref:10/00000006.xxhash".into();
        archive.entry(last).name = "Ref:10/00000006".into();
    });
    cases.spoilt(D8, "D8-gap-of-all", "Ref:10/99999999", |archive| {
        archive.entry("Ref:10/00000005.xxhash").name = "Ref:10/99999999.xxhash".into();
        archive.entry(last).name = "Ref:10/99999999".into();
    });
    // An empty block that skips the rest of the disk does not end it.
    let document = document(&[("Ref:5", 8192)]);
    let archive = Archive::of(&document).xxh("Ref:5", 0, [1; 4096]).xxh("Ref:5", 2, []);
    cases.bytes(D8, "D8-empty", archive.bytes(), archive.offset("Ref:5/00000002"));
    cases.spoilt(D9, "D9", third, |archive| archive.set_block(third, [1; 2048]));
    cases.spoilt(D9, "D9-last", last, |archive| archive.set_block(last, [1; 2047]));
    let offset = small().offset(last) + 512 + 3000;
    cases.spoilt(D13, "D13", "", |archive| {
        let mut block = vec![0; 4096];
        block[3000] = 1;
        archive.set_block(last, block);
    });
    cases.0.last_mut().unwrap().offset = Some(offset);
}

fn checksums(cases: &mut Cases) {
    use Rule::*;
    let (block, checksum) = ("Ref:10/00000003", "Ref:10/00000003.xxhash");
    cases.spoilt(D10, "D10-missing", "Ref:10/00000004", |archive| archive.remove(checksum));
    cases.spoilt(D10, "D10-other-suffix", "Ref:10/00000003.md5", |archive| {
        archive.entry(checksum).name = "Ref:10/00000003.md5".into();
    });
    cases.spoilt(D10, "D10-other-block", "", |archive| {
        archive.entry(checksum).name = "Ref:10/00000002.xxhash".into()
    });
    cases.spoilt(D10, "D10-end", "", |archive| archive.remove("Ref:2/00000000.xxhash"));
    cases.spoilt(D11, "D11", checksum, |archive| archive.entry(checksum).content.push(b'\n'));
    cases.spoilt(D11, "D11-8-GiB", checksum, |archive| archive.entry(checksum).size = Some((1 << 33) - 1));
    cases.spoilt(D12, "D12-lower-case", checksum, |archive| {
        archive.entry(checksum).content.make_ascii_lowercase()
    });
    cases.spoilt(D12, "D12-bit", checksum, |archive| archive.entry(block).content[4095] ^= 1);
    cases.spoilt(D12, "D12-short", checksum, |archive| archive.entry(checksum).content.truncate(15));
    cases.spoilt(D12, "D12-empty", checksum, |archive| archive.entry(checksum).content.clear());
    cases.spoilt(D12, "D12-upper-case-sha1", "", |archive| {
        let content = archive.entry(block).content.clone();
        let sha1 = super::archive::checksum(ChecksumKind::Sha1, &content).to_ascii_uppercase();
        *archive.entry(checksum) = Entry::new(format!("{block}.checksum"), sha1);
    });
}

/// Makes a header's checksum right.
fn seal(header: &mut [u8]) {
    let mut sealed = tar::Header::new_old();
    sealed.as_mut_bytes().copy_from_slice(header);
    sealed.set_cksum();
    header.copy_from_slice(sealed.as_bytes());
}

#[test]
fn every_malformation_is_refused_by_its_rule_and_at_its_place() {
    for case in cases() {
        let error = read(&case.bytes, usize::MAX).unwrap_err();
        assert_eq!(error.rule(), case.rule, "{}: {error}", case.name);
        if let Some(offset) = case.offset {
            assert_eq!(error.offset(), offset, "{}: {error}", case.name);
        }
        assert!(case.name.starts_with(error.rule().id()), "{}", case.name);
        assert_eq!(read(&case.bytes, 61), Err(error), "{}", case.name);
    }
}

#[test]
fn there_is_a_malformed_archive_for_every_rule() {
    let cases = cases();
    // 100 000 empty blocks have a test of their own.
    for rule in Rule::ALL.iter().filter(|&&rule| rule != Rule::D14) {
        assert!(cases.iter().any(|case| case.rule == *rule), "{rule}");
    }
}

#[test]
fn an_error_names_the_member_the_place_and_both_sides() {
    let mut archive = small();
    archive.entry("Ref:10/00000003").content[0] ^= 1;
    let error = read(&archive.bytes(), usize::MAX).unwrap_err();
    let XvaError::Member { expected, found, .. } = &error else { panic!("{error}") };
    assert_eq!(
        error.to_string(),
        format!(
            "the text of \"Ref:10/00000003.xxhash\" at byte {} is wrong: expected {expected}, found {found}",
            archive.offset("Ref:10/00000003.xxhash")
        )
    );
    assert_eq!(error.code(), "xva_checksum_mismatch");
    let mut document = document(&[]);
    document.objects[0].snapshot.remove("platform");
    let error = read(&Archive::of(&document).bytes(), usize::MAX).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ova.xml (byte 512): the member \"platform\" of the VM \"Ref:0\" is wrong: expected a value, found none"
    );
}
