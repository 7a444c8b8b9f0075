#[path = "../../../fuzz/filter_harness.rs"]
mod harness;

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate as gantry;

fn verdict(filter: &str, object: &Value) -> Result<bool, String> {
    let filter: Filter = filter.parse().map_err(|error: FilterError| error.to_string())?;
    filter.matches(object).map_err(|error| error.to_string())
}

#[track_caller]
fn found(filter: &str, object: Value) -> bool {
    verdict(filter, &object).unwrap_or_else(|error| panic!("{filter}: {error}"))
}

#[test]
fn the_reference_and_this_agree_on_every_vector() {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("../../../tests/corpus/filter/vectors.json")).unwrap();
    assert_eq!(vectors.len(), 362);
    for vector in &vectors {
        let filter = vector["filter"].as_str().unwrap();
        let found = verdict(filter, &vector["object"]);
        match (vector["matches"].as_bool(), vector["message"].as_str()) {
            (Some(matches), _) => assert_eq!(found, Ok(matches), "{vector}"),
            (None, Some(message)) => assert_eq!(found, Err(message.to_owned()), "{vector}"),
            (None, None) => {
                let is_about_it = |told: &String| told.starts_with("Invalid regular expression: ");
                assert!(found.as_ref().is_err_and(is_about_it), "{vector}: {found:?}");
            }
        }
    }
}

#[test]
fn positions_count_utf16_code_units() {
    assert_eq!(
        verdict("\"😀\" é )", &json!(1)),
        Err("parse error: expected end of input at position 7".into())
    );
}

#[test]
fn a_term_ends_where_the_next_character_cannot_go_on() {
    let object = json!({"a": 3, "x": "foo", "y": "bar"});
    for filter in
        ["foo(bar)", "foo\"bar\"", "foo/bar/", "a:>1<5", "a:(>1<5)", "x?y?", "foo!baz", "foo|(qux bar)"]
    {
        // A comparison that follows one of a member is applied to the whole object, which is no number.
        assert_eq!(found(filter, object.clone()), filter != "a:>1<5", "{filter}");
    }
    assert!(verdict("><5", &object).is_err());
    assert!(verdict(">=5", &json!(5)).unwrap() && !verdict("<5", &json!(5)).unwrap());
}

#[test]
fn parts_of_strings_have_names_as_in_ecmascript() {
    for (filter, expected) in [
        ("s:0:a", true),
        ("s:1:é", true),
        ("s:2?", true),
        ("s:3?", true),
        ("s:4?", false),
        ("s:length:4", true),
        ("s:00:a", false),
        ("s:+0:a", false),
        ("list:1:y", true),
        ("list:01:y", false),
        ("list:length:2", true),
        ("list:0:length:>0", true),
    ] {
        let verdict = verdict(filter, &json!({"s": "aé😀", "list": ["x", "y"]}));
        assert_eq!(verdict.unwrap_or_default(), expected, "{filter}");
    }
}

#[test]
fn a_length_that_is_no_index_does_not_make_an_object_an_array() {
    for length in [json!("1"), json!(-1), json!(1.5), json!(1e300), json!(null)] {
        assert!(found("foo", json!({"length": length, "name": "foo"})));
    }
    assert!(!found("foo", json!({"length": 1e15, "name": "foo", "01": "foo"})));
    assert!(found("foo", json!({"length": 1e15, "7": "foo"})));
}

#[test]
fn globs_take_the_parts_in_order_within_one_line() {
    for (filter, text, expected) in [
        ("a*b*c", "xaxbxcx", true),
        ("a*b*c", "acb", false),
        ("a*a", "a", false),
        ("ab*ba", "aba", false),
        ("a*b", "a\nb ab", true),
        ("a*b", "a\u{2028}b", false),
        ("*é*", "É", true),
        ("*", "", true),
        ("ß*", "ẞ", false),
    ] {
        assert_eq!(found(filter, json!(text)), expected, "{filter} {text:?}");
    }
}

#[test]
fn regular_expressions_mean_what_they_mean_in_ecmascript() {
    for (filter, text, expected) in [
        (r"/^.$/", "😀", false),
        (r"/^..$/", "😀", true),
        (r"/^[😀]{2}$/", "😀", true),
        (r"/\ud83d\ude00/", "😀", true),
        (r"/\bt\b/", "été", true),
        (r"/(?<=\bt)é/", "été", true),
        (r"/\d/", "٣", false),
        (r"/\w/", "é", false),
        (r"/^\s+$/", "\u{a0}\u{feff}\u{2029}", true),
        (r"/k/i", "\u{212a}", false),
        (r"/ſ/i", "s", false),
        (r"/[^x]/i", "X", false),
        (r"/[à-ý]/i", "É", true),
        (r"/(é)\1/i", "éÉ", true),
        (r"/[]/", "a", false),
        (r"/^[^]$/", "\n", true),
        (r"/a{,2}/", "a{,2}", true),
        (r"/\u{61}/", "a", false),
        (r"/^\1(a)$/", "a", true),
        (r"/^(?:(a)|b)\1$/", "b", true),
        (r"/^(?:(a)|b)\1$/", "a", false),
        (r"/^(a\1)$/", "a", true),
        (r"/^(a+)+\1$/", "aaa", true),
        (r"/^(?:(a+){1,}\1){1,2}$/", "aaa", true),
        (r"/\101\0?\x42\cJ/", "AB\n", true),
        (r"/[\b]/", "\u{8}", true),
        (r"/^(?<year>\d{4})-\k<year>$/", "2024-2024", true),
        (r"/\k<year>/", "k<year>", true),
        (r"/(?<!a|bc)d/", "bcd", false),
        (r"/(?=a)*b/", "b", true),
        (r"/]}/", "]}", true),
    ] {
        assert_eq!(verdict(filter, &json!(text)), Ok(expected), "{filter} {text:?}");
    }
}

#[test]
fn what_is_no_regular_expression_says_why() {
    for (pattern, fault) in [
        ("(", PatternFault::UnterminatedGroup),
        (")", PatternFault::UnmatchedClose),
        ("[b-a]", PatternFault::ClassOrder),
        ("[", PatternFault::UnterminatedClass),
        ("a{2,1}", PatternFault::QuantifierOrder),
        ("a**", PatternFault::NothingToRepeat),
        ("{1}", PatternFault::NothingToRepeat),
        ("^*", PatternFault::NothingToRepeat),
        ("(?<=a)*", PatternFault::NothingToRepeat),
        ("(?i:a)", PatternFault::InvalidGroup),
        ("(?<1>a)", PatternFault::InvalidName),
        ("(?<a>a)(?<a>a)", PatternFault::DuplicateName),
        ("(?<a>a)\\k<b>", PatternFault::InvalidReference),
        // ECMAScript knows these, but they cannot be translated.
        ("(?:(a)|b)*\\1", PatternFault::ForgottenReference),
        ("(?<=(a)\\1)", PatternFault::ReferenceBehind),
        ("(?:é{1000}){100}", PatternFault::TooLarge),
        ("(?:a{1000}){1000}", PatternFault::TooLarge),
    ] {
        let told = format!("/{pattern}/").parse::<Filter>().map(drop);
        assert_eq!(told, Err(FilterError::Pattern { pattern: pattern.into(), fault }));
    }
    let deep = format!("/{}a{}/", "(".repeat(50), ")*".repeat(50));
    assert!(found(&deep, json!("a")), "as deep as may be");
    let deeper = format!("/{}a{}/", "(".repeat(51), ")*".repeat(51));
    assert!(verdict(&deeper, &json!("a")).is_err_and(|told| told.contains("nested deeper")));
}

#[test]
fn nested_repetition_takes_no_time_where_it_is_regular_and_a_bounded_one_elsewhere() {
    let began = Instant::now();
    let text = json!("a".repeat(40) + "!");
    assert_eq!(verdict("/(a+)+$/", &text), Ok(false));
    assert_eq!(verdict("/^(([a-z])+.)+[A-Z]([a-z])+$/", &json!("a".repeat(10_000))), Ok(false));
    for pattern in [r"/^(?=(a+)+$)/", r"/^(a|aa)+\1$/", r"/(?:a?){40}(?!.)/"] {
        match verdict(pattern, &text) {
            Ok(_) => {}
            Err(told) => assert!(told.contains("steps"), "{told}"),
        }
    }
    let told = verdict(r"/(x+x+)+(?!z)y\1/", &json!("x".repeat(4000)));
    assert!(told.as_ref().is_err_and(|told| told.contains("steps")), "{told:?}");
    let told = verdict("/(?!x)y/", &json!("x".repeat(40_000)));
    assert!(told.as_ref().is_err_and(|told| told.contains("40000 bytes")), "{told:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn what_is_too_long_too_deep_or_too_much_is_refused_with_the_limit() {
    let nested = |levels: usize| format!("{}x{}", "(".repeat(levels), ")".repeat(levels));
    assert_eq!(verdict(&nested(MAX_DEPTH), &json!("x")), Ok(true));
    for filter in [nested(MAX_DEPTH + 1), "!".repeat(60_000), "a:".repeat(30_000), "(".repeat(60_000)] {
        assert!(matches!(filter.parse::<Filter>(), Err(FilterError::TooDeep { .. })));
    }
    assert!(matches!("a".repeat(MAX_BYTES + 1).parse::<Filter>(), Err(FilterError::TooLong { .. })));
    assert!("a".repeat(MAX_BYTES).parse::<Filter>().is_ok());
    let patterns = |count: usize| format!("|({})", "/x/ ".repeat(count)).parse::<Filter>().map(drop);
    assert_eq!(patterns(MAX_PATTERNS), Ok(()));
    assert_eq!(patterns(MAX_PATTERNS + 1), Err(FilterError::TooManyPatterns));

    let words: String = (0..5000).map(|number| format!("x{number} ")).collect();
    let filter: Filter = format!("|({words})").parse().unwrap();
    let object = json!("y".repeat(100_000));
    assert!(matches!(filter.matches(&object), Err(EvaluateError::TooMuchWork { .. })));
}

#[test]
fn the_vectors_and_the_seeds_pass_what_the_fuzzer_checks() {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("../../../tests/corpus/filter/vectors.json")).unwrap();
    for vector in vectors {
        harness::filter(format!("{}\n{}", vector["filter"].as_str().unwrap(), vector["object"]).as_bytes());
    }
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/filter/seeds");
    for seed in std::fs::read_dir(seeds).unwrap() {
        harness::filter(&std::fs::read(seed.unwrap().path()).unwrap());
    }
}

/// Expressions that mean something more often than random text does.
fn expressions() -> impl Strategy<Value = String> {
    let tokens = prop::sample::select(vec![
        "a", "b:", "c?", "!", "(", ")", "|(", " ", "*", ">1", "<=0x2", "\"q\"", "\"", "\\", "/", "/a+/i",
        "/(?=a)", "(", "[", "]", "{1,3}", "+", "1", "é", "😀", ".", "$", "^", "\\1", "\\b", "length:", "0:",
        "(?<n>", "\\k<n>",
    ]);
    prop::collection::vec(tokens, 0..24).prop_map(|tokens| tokens.concat())
}

/// Expressions without an error, of at least one term.
fn sound_expressions() -> impl Strategy<Value = String> {
    let terms = prop::sample::select(vec![
        "a",
        "b:a",
        "a:1",
        "c?",
        "!b",
        ">1",
        "a:<=1",
        "/[ab]/i",
        "\"a\"",
        "*",
        "a*b",
        "|(a 1)",
        "(a b)",
        "length:>1",
        "0:1",
    ]);
    prop::collection::vec(terms, 1..4).prop_map(|terms| terms.join(" "))
}

fn objects() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ab1é😀\n ]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[abc01]|length", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_and_no_object_makes_it_panic(text in any::<String>(), object in objects()) {
        drop(verdict(&text, &object));
    }

    #[test]
    fn a_negation_is_the_opposite_and_a_group_changes_nothing(filter in sound_expressions(), object in objects()) {
        let plain = verdict(&filter, &object);
        prop_assert!(plain.is_ok(), "{:?}", plain);
        prop_assert_eq!(verdict(&format!("!({filter})"), &object), plain.clone().map(|matches| !matches));
        prop_assert_eq!(verdict(&format!("|(({filter}))"), &object), plain);
    }

    #[test]
    fn no_expression_makes_it_panic(filter in expressions(), object in objects()) {
        drop(verdict(&filter, &object));
    }
}
