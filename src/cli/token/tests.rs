use std::path::Path;

use clap::Parser;

use super::*;
use crate::state::Db;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: TokenArgs,
}

fn parse(data: &Path, words: &[&str]) -> Result<TokenArgs, clap::Error> {
    let data = ["--data", data.to_str().unwrap()];
    Program::try_parse_from(["token"].iter().chain(words).chain(&data)).map(|program| program.args)
}

/// What a command prints.
fn printed(data: &Path, words: &[&str]) -> Result<String, AccessError> {
    let mut out = Vec::new();
    run(&parse(data, words).unwrap(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn listed(data: &Path, words: &[&str]) -> Vec<serde_json::Value> {
    let words: Vec<_> = ["list", "--json"].iter().chain(words).copied().collect();
    serde_json::from_str(&printed(data, &words).unwrap()).unwrap()
}

#[test]
fn create_prints_the_token_alone_and_makes_the_data_directory_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("new");
    let output = printed(&data, &["create"]).unwrap();
    let secret = output.strip_suffix('\n').unwrap();
    assert_eq!(secret.len(), 43);
    let hash = crate::state::tokens::SecretHash::of(secret);
    let db = Db::open(&data.join("gantry.db")).unwrap();
    let stored = db.call_blocking(move |conn| tokens::by_secret(conn, &hash, now_ms())).unwrap().unwrap();
    let thirty_days = 30 * 86_400_000;
    assert_eq!(stored.expires_ms - stored.created_ms, thirty_days);
    let tokens = listed(&data, &[]);
    assert_eq!(tokens.len(), 1);
    assert_eq!((&tokens[0]["id"], &tokens[0]["user"]), (&stored.id.to_string().into(), &"admin".into()));
    assert!(!printed(&data, &["list", "--json"]).unwrap().contains(secret));
}

#[test]
fn every_limit_that_is_asked_for_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let words = [
        "create",
        "--expires",
        "1 hour",
        "--description",
        "nightly \u{1b}[2J",
        "--scope",
        "read,export",
        "--object",
        "a",
        "--object",
        "b",
        "--sr",
        "s",
        "--renewable",
    ];
    printed(dir.path(), &words).unwrap();
    let token = &listed(dir.path(), &["--user", "admin"])[0];
    assert_eq!(token["scope"], serde_json::json!(["read", "export"]));
    assert_eq!(token["objects"], serde_json::json!(["a", "b"]));
    assert_eq!(token["srs"], serde_json::json!(["s"]));
    assert_eq!(token["renewable"], true);
    assert_eq!(token["expiration"].as_i64().unwrap() - token["created_at"].as_i64().unwrap(), 3_600_000);
    assert!(token.get("last_used_at").is_none());
    let table = printed(dir.path(), &["list"]).unwrap();
    assert!(table.contains("read,export 2 objects 1 SRs  nightly [2J\n"), "{table}");
}

#[test]
fn revoke_takes_a_public_id_and_works_once() {
    let dir = tempfile::tempdir().unwrap();
    printed(dir.path(), &["create"]).unwrap();
    let id = listed(dir.path(), &[])[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(printed(dir.path(), &["revoke", &id]).unwrap(), "");
    assert!(listed(dir.path(), &[]).is_empty());
    let error = printed(dir.path(), &["revoke", &id]).unwrap_err();
    assert_eq!((error.to_string(), error.exit_code()), (format!("there is no token {id}"), 1));
}

#[test]
fn a_user_who_is_not_there_gets_no_token() {
    let dir = tempfile::tempdir().unwrap();
    for words in [&["create", "--user", "eve"][..], &["list", "--user", "eve"]] {
        let error = printed(dir.path(), words).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit_code()), ("there is no user \"eve\"", 1));
    }
}

#[test]
fn wrong_words_are_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    for words in [
        &["create", "--expires", "59s"][..],
        &["create", "--expires", "1y"],
        &["create", "--expires", "soon"],
        &["create", "--scope", "everything"],
        &["create", "--scope", ""],
        &["revoke"],
        &["revoke", "not-an-id"],
        &["frobnicate"],
    ] {
        assert_eq!(parse(dir.path(), words).err().map(|error| error.exit_code()), Some(2), "{words:?}");
    }
}

#[test]
fn a_token_that_could_not_be_printed_is_revoked() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let outcome = run(&parse(dir.path(), &["create"]).unwrap(), &mut Full);
    assert!(matches!(outcome, Err(AccessError::Output(_))), "{outcome:?}");
    assert!(listed(dir.path(), &[]).is_empty());
}
