use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Value, XvaError> {
    read_value(text.as_bytes())
}

fn refused(text: &str, rule: Rule, line: u64) {
    match read(text) {
        Err(XvaError::Xml { rule: found, line: at, .. }) => assert_eq!((found, at), (rule, line), "{text:?}"),
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn every_type_that_xapi_writes_or_takes_is_read() {
    let text = "<?xml version=\"1.0\"?>\n<value><struct>\n\
        <member><name>plain</name><value> a &lt;b&gt; &amp;&quot;&apos; </value></member>\
        <member><value><string> s </string></value><name>string</name></member>\
        <member><name>int</name><value><i4> -7 </i4></value></member>\
        <member><name>long</name><value><int>4294967296</int></value></member>\
        <member><name>bool</name><value>\n<boolean>1</boolean>\n</value></member>\
        <member><name>double</name><value><double>1.50</double></value></member>\
        <member><name>date</name><value><dateTime.iso8601>20260131T12:00:00Z</dateTime.iso8601></value></member>\
        <member><name>set</name><value><array><data><value>a</value><value/></data></array></value></member>\
        <member><name>nil</name><value><nil/></value></member>\
        <member><name>map</name><value><struct/></value></member>\
        <!-- nobody writes these -->\
        <member><name>numeric</name><value>&#65;&#x42;<![CDATA[<&amp;]]>c<!-- x -->d</value></member>\
        </struct></value>\n";
    let value = read(text).unwrap();
    let record = value.as_record().unwrap();
    let expected: Record = [
        ("plain", Value::text(" a <b> &\"' ")),
        ("string", Value::text(" s ")),
        ("int", Value::text(-7)),
        ("long", Value::text(1u64 << 32)),
        ("bool", Value::Bool(true)),
        ("double", Value::Double("1.50".into())),
        ("date", Value::Date("20260131T12:00:00Z".into())),
        ("set", Value::Array(vec![Value::text("a"), Value::text("")])),
        ("nil", Value::text("")),
        ("map", Value::Struct(Record::new())),
        ("numeric", Value::text("AB<&amp;cd")),
    ]
    .into_iter()
    .collect();
    assert_eq!(record, &expected);
}

#[test]
fn a_byte_order_mark_is_passed_over_and_counted() {
    assert_eq!(read("\u{FEFF}<value>a</value>").unwrap(), Value::text("a"));
    assert_eq!(read("\u{FEFF}<valu>").unwrap_err().offset(), 3);
}

#[test]
fn declarations_of_types_and_entities_are_refused() {
    refused("<!DOCTYPE x>\n<value/>", Rule::X0, 1);
    refused("\n<!DOCTYPE x [<!ENTITY a \"b\">]><value>&a;</value>", Rule::X0, 2);
    refused("<!DOCTYPE x", Rule::X0, 1);
    refused("<value/><!doctype y>", Rule::X0, 1);
    refused("<!ENTITY a \"b\"><value/>", Rule::X0, 1);
}

#[test]
fn what_is_not_well_formed_is_refused_with_its_line() {
    for text in [
        "<value>\n<struct>\n</value>",
        "<value>\n\n",
        "<value>\n\n&unknown;</value>",
        "<value>\n\n&#0;</value>",
        "<value>\n\n&#1;</value>",
        "<value>\n\n&amp</value>",
        "<value>\n\n&#xD800;</value>",
        "\n\n<value/><?xml version=\"1.0\"?>",
        "\n\n</value>",
    ] {
        refused(text, Rule::X1, 3);
    }
    refused("<value>\u{1}</value>", Rule::X1, 1);
    refused("<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><value/>", Rule::X1, 1);
    let error = read_value(b"<value>\n\xFF</value>").unwrap_err();
    assert_eq!((error.rule(), error.offset()), (Rule::X1, 8));
}

#[test]
fn well_formed_xml_that_is_no_value_is_refused() {
    for text in [
        "",
        "  ",
        "text",
        "<struct></struct>",
        "<value/><value/>",
        "<value/>text",
        "<value>text<string>a</string></value>",
        "<value><string>a</string>text</value>",
        "<value><string>a</string><string>b</string></value>",
        "<value><base64/></value>",
        "<value><boolean>true</boolean></value>",
        "<value><int>1.5</int></value>",
        "<value><double>one</double></value>",
        "<value><nil>x</nil></value>",
        "<value><array></array></value>",
        "<value><array><data/><data/></array></value>",
        "<value><struct>x</struct></value>",
        "<value><struct><member><name>a</name></member></struct></value>",
        "<value><struct><member><value/></member></struct></value>",
        "<value><struct><member><name/><name/></member></struct></value>",
        "<value a=\"b\"/>",
        "<value><string><string/></string></value>",
    ] {
        refused(text, Rule::X2, 1);
    }
}

#[test]
fn nesting_and_the_number_of_values_are_bounded() {
    let nested = |levels: usize| {
        let (open, close) = ("<value><array><data>", "</data></array></value>");
        format!("{}<value/>{}", open.repeat(levels), close.repeat(levels))
    };
    assert!(read(&nested(21)).is_ok());
    refused(&nested(22), Rule::X1, 1);
    refused(&"<value><array><data>".repeat(1_000_000), Rule::X1, 1);
    let many =
        format!("<value><array><data>{}</data></array></value>", "<value/>".repeat(MAX_VALUES as usize));
    refused(&many, Rule::X1, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_makes_the_reader_panic(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("<value>"), Just("</value>"), Just("<struct>"), Just("</struct>"), Just("<member>"),
                Just("</member>"), Just("<name>"), Just("</name>"), Just("<array>"), Just("<data>"), Just("<i4>"),
                Just("&"), Just("&amp;"), Just("<!--"), Just("<![CDATA["), Just("<?"), Just("\u{FEFF}"), Just("é<"),
            ],
            0..30,
        )
    ) {
        let _ = read(&parts.concat());
    }
}
