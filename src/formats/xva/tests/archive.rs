//! Archives for the tests: built member by member, so that any of them can be spoilt.

use sha1::Digest;

use super::super::document_read::{required, typed};
use super::super::{ChecksumKind, Document, NULL_REFERENCE, Object, Record, Value};

/// A member of an archive, or its end.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub content: Vec<u8>,
    /// The header's type flag.
    pub flag: u8,
    /// What the header says of the length, when that is not the content's.
    pub size: Option<u64>,
    /// Magic bytes at 257; xapi writes none.
    pub magic: [u8; 8],
}

impl Entry {
    /// A member as xapi writes it.
    pub fn new(name: impl ToString, content: impl Into<Vec<u8>>) -> Self {
        Self { name: name.to_string(), content: content.into(), flag: 0, size: None, magic: [0; 8] }
    }

    /// The header's 512 bytes.
    pub fn header(&self) -> [u8; 512] {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes()[..self.name.len()].copy_from_slice(self.name.as_bytes());
        header.set_mode(0o400);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.size.unwrap_or(self.content.len() as u64));
        header.as_mut_bytes()[156] = self.flag;
        header.as_mut_bytes()[257..265].copy_from_slice(&self.magic);
        header.set_cksum();
        *header.as_bytes()
    }

    /// Header, content and padding.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.header().as_slice(), &self.content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

/// An archive.
#[derive(Clone)]
pub struct Archive {
    pub members: Vec<Entry>,
    /// What follows the last member.
    pub end: Vec<u8>,
}

impl Archive {
    /// An archive of a document alone.
    pub fn of(document: &Document) -> Self {
        Self { members: vec![Entry::new("ova.xml", xml(document))], end: vec![0; 1024] }
    }

    /// Adds a member.
    pub fn with(mut self, entry: Entry) -> Self {
        self.members.push(entry);
        self
    }

    /// Adds a block and its checksum.
    pub fn block(self, disk: &str, number: u32, content: impl Into<Vec<u8>>, kind: ChecksumKind) -> Self {
        let block = Entry::new(format!("{disk}/{number:08}"), content);
        let checksum = Entry::new(format!("{}{}", block.name, kind.suffix()), checksum(kind, &block.content));
        self.with(block).with(checksum)
    }

    /// Adds a block as current pools write it.
    pub fn xxh(self, disk: &str, number: u32, content: impl Into<Vec<u8>>) -> Self {
        self.block(disk, number, content, ChecksumKind::Xxh64)
    }

    /// The member of a name.
    pub fn entry(&mut self, name: &str) -> &mut Entry {
        self.members.iter_mut().find(|entry| entry.name == name).unwrap()
    }

    /// Changes a block, with its checksum.
    pub fn set_block(&mut self, name: &str, content: impl Into<Vec<u8>>) {
        let content = content.into();
        self.entry(&format!("{name}.xxhash")).content = checksum(ChecksumKind::Xxh64, &content);
        self.entry(name).content = content;
    }

    /// Removes the members whose names begin so.
    pub fn remove(&mut self, start: &str) {
        self.members.retain(|entry| !entry.name.starts_with(start));
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.members.iter().flat_map(Entry::bytes).collect();
        bytes.extend_from_slice(&self.end);
        bytes
    }

    /// Where a member's header begins.
    pub fn offset(&self, name: &str) -> u64 {
        let before = self.members.iter().take_while(|entry| entry.name != name);
        before.map(|entry| entry.bytes().len() as u64).sum()
    }
}

/// Two disks of blocks of 4 KiB: `Ref:10` of five and a half blocks, of which 1 and 2 are left out, and `Ref:2`, which is
/// one block.
pub fn small() -> Archive {
    let document = document(&[("Ref:10", 4096 * 5 + 2048), ("Ref:2", 4096)]);
    Archive::of(&document)
        .xxh("Ref:10", 0, [1; 4096])
        .xxh("Ref:10", 3, [2; 4096])
        .xxh("Ref:10", 4, [3; 4096])
        .xxh("Ref:10", 5, [4; 2048])
        .xxh("Ref:2", 0, [5; 4096])
}

/// The text of a checksum.
pub fn checksum(kind: ChecksumKind, content: &[u8]) -> Vec<u8> {
    match kind {
        ChecksumKind::Xxh64 => format!("{:016X}", xxhash_rust::xxh64::xxh64(content, 0)).into_bytes(),
        ChecksumKind::Sha1 => {
            sha1::Sha1::digest(content).iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
        }
    }
}

/// An object with what its class requires.
pub fn object(class: &str, id: &str, members: &[(&str, &str)]) -> Object {
    let (booleans, numbers) = typed(class);
    let is_among = |names: &str, name| names.split_ascii_whitespace().any(|one| one == name);
    let value = |name| match name {
        name if is_among(booleans, name) => Value::Bool(false),
        name if is_among(numbers, name) => Value::text(0),
        "userdevice" | "device" => Value::text(0),
        _ => Value::text(""),
    };
    let mut snapshot: Record =
        required(class).split_ascii_whitespace().map(|name| (name, value(name))).collect();
    members.iter().for_each(|(name, text)| snapshot.set(name, Value::text(text)));
    Object { class: class.into(), id: id.into(), snapshot }
}

/// A VM with disks of those ids and sizes.
pub fn document(disks: &[(&str, u64)]) -> Document {
    let version = [
        ("hostname", "host"),
        ("date", "2026-01-31"),
        ("product_version", "8.3.0"),
        ("product_brand", "XCP-ng"),
        ("build_number", "1"),
        ("xapi_major", "25"),
        ("xapi_minor", "6"),
        ("export_vsn", "2"),
    ];
    let mut objects = vec![
        object("VM", "Ref:0", &[("name_label", "a VM")]),
        object("SR", "Ref:1", &[("content_type", "user")]),
    ];
    for (nth, (id, size)) in disks.iter().enumerate() {
        let size = size.to_string();
        objects.push(object("VDI", id, &[("SR", "Ref:1"), ("virtual_size", &size), ("type", "user")]));
        let vbd = format!("Ref:{}", 100 + nth);
        let place = nth.to_string();
        let members = [("VM", "Ref:0"), ("VDI", *id), ("type", "Disk"), ("userdevice", &place)];
        objects.push(object("VBD", &vbd, &members));
    }
    let cd = [("VM", "Ref:0"), ("VDI", NULL_REFERENCE), ("type", "CD"), ("userdevice", "200")];
    objects.push(object("VBD", "Ref:99", &cd));
    Document { version: version.iter().map(|(name, text)| (*name, Value::text(text))).collect(), objects }
}

/// The text of a document.
pub fn xml(document: &Document) -> Vec<u8> {
    let object = |object: &Object| {
        let members = [
            ("class", Value::text(&object.class)),
            ("id", Value::text(&object.id)),
            ("snapshot", Value::Struct(object.snapshot.clone())),
        ];
        Value::Struct(members.into_iter().collect())
    };
    let members = [
        ("version", Value::Struct(document.version.clone())),
        ("objects", Value::Array(document.objects.iter().map(object).collect())),
    ];
    let mut text = String::new();
    write(&Value::Struct(members.into_iter().collect()), &mut text);
    text.into_bytes()
}

fn write(value: &Value, out: &mut String) {
    if matches!(value, Value::Text(text) if text.is_empty()) {
        out.push_str("<value/>");
        return;
    }
    out.push_str("<value>");
    match value {
        Value::Text(text) => out.push_str(&quick_xml::escape::escape(text.as_str())),
        Value::Bool(is) => *out += &format!("<boolean>{}</boolean>", u8::from(*is)),
        Value::Double(text) => *out += &format!("<double>{text}</double>"),
        Value::Date(text) => *out += &format!("<dateTime.iso8601>{text}</dateTime.iso8601>"),
        Value::Array(items) => {
            out.push_str("<array><data>");
            items.iter().for_each(|item| write(item, out));
            out.push_str("</data></array>");
        }
        Value::Struct(record) => {
            out.push_str("<struct>");
            for (name, value) in record.iter() {
                *out += &format!("<member><name>{name}</name>");
                write(value, out);
                out.push_str("</member>");
            }
            out.push_str("</struct>");
        }
    }
    out.push_str("</value>");
}
