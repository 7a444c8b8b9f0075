//! Writes an `ova.xml`: one XML-RPC value, without a declaration and without white space between elements, each type
//! as xapi writes it. The same document always gives the same bytes.
//!
//! Text holds what users typed, and XML 1.0 has no way to say most control characters. They are replaced with U+FFFD:
//! an export must not fail for the sake of a description. A carriage return is written as a reference, because a raw
//! one would be read as a line feed.

use super::{Document, Record, Value};

/// The bytes of an `ova.xml`.
pub fn write_document(document: &Document) -> Vec<u8> {
    let mut xml = String::from("<value><struct><member><name>version</name>");
    write_record(&mut xml, &document.version);
    xml.push_str("</member><member><name>objects</name><value><array><data>");
    for object in &document.objects {
        xml.push_str("<value><struct><member><name>class</name><value>");
        escape(&mut xml, &object.class);
        xml.push_str("</value></member><member><name>id</name><value>");
        escape(&mut xml, &object.id);
        xml.push_str("</value></member><member><name>snapshot</name>");
        write_record(&mut xml, &object.snapshot);
        xml.push_str("</member></struct></value>");
    }
    xml.push_str("</data></array></value></member></struct></value>");
    xml.into_bytes()
}

/// What is left to be written, the next thing last. A list and not a recursion: how deep values lie in each other is
/// not for this to trust.
enum Step<'a> {
    Tag(&'static str),
    Value(&'a Value),
    Member(&'a str, &'a Value),
}

fn write_record(xml: &mut String, record: &Record) {
    let mut steps = Vec::new();
    push_record(xml, &mut steps, record);
    while let Some(step) = steps.pop() {
        match step {
            Step::Tag(tag) => xml.push_str(tag),
            Step::Member(name, value) => {
                xml.push_str("<member><name>");
                escape(xml, name);
                xml.push_str("</name>");
                steps.extend([Step::Tag("</member>"), Step::Value(value)]);
            }
            Step::Value(value) => push_value(xml, &mut steps, value),
        }
    }
}

fn push_record<'a>(xml: &mut String, steps: &mut Vec<Step<'a>>, record: &'a Record) {
    xml.push_str("<value><struct>");
    steps.push(Step::Tag("</struct></value>"));
    let first = steps.len();
    steps.extend(record.iter().map(|(name, value)| Step::Member(name, value)));
    steps.get_mut(first..).unwrap_or_default().reverse();
}

/// Writes a value, or its beginning and leaves the rest in `steps`.
fn push_value<'a>(xml: &mut String, steps: &mut Vec<Step<'a>>, value: &'a Value) {
    match value {
        Value::Text(text) => scalar(xml, "<value>", text, "</value>"),
        Value::Bool(is) => scalar(xml, "<value><boolean>", if *is { "1" } else { "0" }, "</boolean></value>"),
        Value::Double(text) => scalar(xml, "<value><double>", text, "</double></value>"),
        Value::Date(text) => scalar(xml, "<value><dateTime.iso8601>", text, "</dateTime.iso8601></value>"),
        Value::Array(items) => {
            xml.push_str("<value><array><data>");
            steps.push(Step::Tag("</data></array></value>"));
            steps.extend(items.iter().rev().map(Step::Value));
        }
        Value::Struct(record) => push_record(xml, steps, record),
    }
}

fn scalar(xml: &mut String, open: &str, text: &str, close: &str) {
    xml.push_str(open);
    escape(xml, text);
    xml.push_str(close);
}

fn escape(xml: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\r' => xml.push_str("&#13;"),
            '\t' | '\n' => xml.push(character),
            '\0'..='\x1F' | '\u{FFFE}' | '\u{FFFF}' => xml.push(char::REPLACEMENT_CHARACTER),
            _ => xml.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::xva::Object;

    fn document(snapshot: Record) -> Document {
        let version = [("export_vsn", Value::text(2))].into_iter().collect();
        Document { version, objects: vec![Object { class: "VM".into(), id: "Ref:0".into(), snapshot }] }
    }

    fn written(snapshot: Record) -> String {
        let all = String::from_utf8(write_document(&document(snapshot))).unwrap();
        let (_, rest) = all.split_once("<name>snapshot</name><value><struct>").unwrap();
        rest.strip_suffix(
            "</struct></value></member></struct></value></data></array></value></member></struct></value>",
        )
        .unwrap()
        .to_owned()
    }

    #[test]
    fn a_document_is_written_as_xapi_does() {
        let inner: Record =
            [("k", Value::text("v")), ("e", Value::Struct(Record::new()))].into_iter().collect();
        let snapshot: Record = [
            ("name_label", Value::text("a")),
            ("is_a_template", Value::Bool(false)),
            ("has_vendor_device", Value::Bool(true)),
            ("VCPUs_CPU", Value::Double("0.5".into())),
            ("last_updated", Value::Date("20260131T12:00:00Z".into())),
            ("tags", Value::Array(vec![Value::text("x"), Value::Array(Vec::new()), Value::text("")])),
            ("other_config", Value::Struct(inner)),
        ]
        .into_iter()
        .collect();
        let wanted = "<value><struct>\
            <member><name>version</name><value><struct>\
            <member><name>export_vsn</name><value>2</value></member></struct></value></member>\
            <member><name>objects</name><value><array><data><value><struct>\
            <member><name>class</name><value>VM</value></member>\
            <member><name>id</name><value>Ref:0</value></member>\
            <member><name>snapshot</name><value><struct>\
            <member><name>name_label</name><value>a</value></member>\
            <member><name>is_a_template</name><value><boolean>0</boolean></value></member>\
            <member><name>has_vendor_device</name><value><boolean>1</boolean></value></member>\
            <member><name>VCPUs_CPU</name><value><double>0.5</double></value></member>\
            <member><name>last_updated</name><value><dateTime.iso8601>20260131T12:00:00Z</dateTime.iso8601></value></member>\
            <member><name>tags</name><value><array><data><value>x</value>\
            <value><array><data></data></array></value><value></value></data></array></value></member>\
            <member><name>other_config</name><value><struct><member><name>k</name><value>v</value></member>\
            <member><name>e</name><value><struct></struct></value></member></struct></value></member>\
            </struct></value></member></struct></value></data></array></value></member></struct></value>";
        assert_eq!(String::from_utf8(write_document(&document(snapshot))).unwrap(), wanted);
    }

    #[test]
    fn what_xml_cannot_hold_is_replaced_and_the_rest_is_escaped() {
        let name = "<a&b> \"c\"\u{0}\u{1B}\u{FFFE}\r\n\té\u{1F600}";
        let record: Record = [(name, Value::text(name))].into_iter().collect();
        let escaped = "&lt;a&amp;b&gt; &quot;c&quot;\u{FFFD}\u{FFFD}\u{FFFD}&#13;\n\té\u{1F600}";
        assert_eq!(
            written(record),
            format!("<member><name>{escaped}</name><value>{escaped}</value></member>")
        );
    }

    #[test]
    fn values_that_lie_deep_in_each_other_are_written_inside_out_without_recursion() {
        let deep = (0..2000).fold(Value::text("deep"), |value, _| Value::Array(vec![value]));
        let xml = written([("v", deep)].into_iter().collect());
        assert_eq!((xml.matches("<array>").count(), xml.matches("</array>").count()), (2000, 2000));
    }
}
