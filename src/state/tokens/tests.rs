use proptest::prelude::*;

use super::*;
use crate::state::db::memory;
use crate::state::users::{self, Role, User};

fn user(conn: &Connection, name: &str) -> UserId {
    let user = User {
        id: UserId::random(),
        name: name.to_owned(),
        role: Role::Admin,
        password_hash: String::new(),
        created_ms: 0,
    };
    assert!(users::insert(conn, &user).unwrap());
    user.id
}

fn record(secret: &str, user: UserId) -> (SecretHash, TokenRecord) {
    let hash = SecretHash::of(secret);
    let record = TokenRecord {
        id: hash.id(),
        family: hash.id(),
        superseded: false,
        user,
        created_ms: 10,
        expires_ms: 1000,
        description: None,
        client: None,
        scope: None,
        objects: None,
        srs: None,
        renewable: false,
        last_used_ms: None,
        last_address: None,
    };
    (hash, record)
}

fn add(conn: &Connection, secret: &str, user: UserId) -> TokenRecord {
    let (hash, record) = record(secret, user);
    insert(conn, &hash, &record).unwrap();
    record
}

#[test]
fn the_public_id_is_the_first_sixteen_digits_of_the_secrets_sha256() {
    // sha256("abc") = ba7816bf 8f01cfea 41414 0de …
    let id = SecretHash::of("abc").id();
    assert_eq!(id.to_string(), "ba7816bf8f01cfea");
    assert_eq!("BA7816BF8F01CFEA".parse(), Ok(id));
    for text in ["", "ba7816bf8f01cfe", "ba7816bf8f01cfea0", "+a7816bf8f01cfea", "ga7816bf8f01cfea"] {
        assert!(text.parse::<TokenId>().is_err(), "{text}");
    }
    // what was pasted may be a secret
    assert!(!"geheim".parse::<TokenId>().unwrap_err().to_string().contains("geheim"));
}

#[test]
fn every_member_of_a_token_is_stored() {
    let conn = memory();
    let (hash, plain) = record("s", user(&conn, "bob"));
    let mut more = serde_json::Map::new();
    more.insert("name".to_owned(), "xo-cli".into());
    let full = TokenRecord {
        description: Some("nightly".to_owned()),
        client: Some(Client { id: Some("c1".to_owned()), more }),
        scope: Some([Scope::Read, Scope::Import].into()),
        objects: Some(["o".to_owned()].into()),
        srs: Some(["s1".to_owned(), "s2".to_owned()].into()),
        renewable: true,
        last_used_ms: Some(5),
        last_address: Some("::1".to_owned()),
        ..plain
    };
    insert(&conn, &hash, &full).unwrap();
    assert_eq!(by_secret(&conn, &hash, 0).unwrap(), Some(full.clone()));
    assert_eq!(get(&conn, full.id).unwrap(), Some(full));
    let client: String = conn.query_row("SELECT client FROM tokens", [], |row| row.get(0)).unwrap();
    assert_eq!(client, r#"{"id":"c1","name":"xo-cli"}"#);
}

#[test]
fn the_secret_itself_is_nowhere_in_the_database() {
    let conn = memory();
    add(&conn, "my-very-secret-token", user(&conn, "bob"));
    let dump: String = conn
        .query_row("SELECT public_id || family || hex(secret_hash) FROM tokens", [], |row| row.get(0))
        .unwrap();
    assert!(!dump.contains("my-very-secret-token"));
}

#[test]
fn a_token_works_until_it_expires_and_only_with_its_whole_secret() {
    let conn = memory();
    let token = add(&conn, "s", user(&conn, "bob"));
    let hash = SecretHash::of("s");
    assert!(by_secret(&conn, &hash, 999).unwrap().is_some());
    assert!(by_secret(&conn, &hash, 1000).unwrap().is_none());
    assert!(by_secret(&conn, &SecretHash::of("t"), 0).unwrap().is_none());
    // same public id, another secret
    let mut forged = hash;
    forged.0[31] ^= 1;
    assert_eq!(forged.id(), token.id);
    assert!(by_secret(&conn, &forged, 0).unwrap().is_none());
}

#[test]
fn a_superseded_token_works_for_a_while_and_is_not_listed() {
    let conn = memory();
    let bob = user(&conn, "bob");
    let (hash, mut old) = record("old", bob);
    old.client = Some(Client { id: Some("c".to_owned()), more: serde_json::Map::new() });
    insert(&conn, &hash, &old).unwrap();
    assert_eq!(of_client(&conn, bob, "c", 0).unwrap().map(|token| token.id), Some(old.id));
    supersede(&conn, old.id, 300).unwrap();
    assert_eq!(of_client(&conn, bob, "c", 0).unwrap(), None);
    assert!(by_secret(&conn, &hash, 299).unwrap().is_some());
    assert!(by_secret(&conn, &hash, 300).unwrap().is_none());
    assert_eq!(list(&conn, Some(bob), 0).unwrap(), []);
    supersede(&conn, old.id, 5000).unwrap();
    assert_eq!(get(&conn, old.id).unwrap().unwrap().expires_ms, 300, "a grace never prolongs");
}

#[test]
fn lists_are_of_one_user_or_of_all() {
    let conn = memory();
    let (bob, eve) = (user(&conn, "bob"), user(&conn, "eve"));
    let (ours, theirs) = (add(&conn, "1", bob), add(&conn, "2", eve));
    assert_eq!(list(&conn, Some(bob), 0).unwrap(), [ours]);
    assert_eq!(list(&conn, Some(eve), 0).unwrap(), [theirs]);
    assert_eq!(list(&conn, None, 0).unwrap().len(), 2);
    assert_eq!(list(&conn, None, 1000).unwrap(), []);
}

#[test]
fn revoking_takes_all_secrets_of_a_record_and_expiry_is_no_revocation() {
    let conn = memory();
    let bob = user(&conn, "bob");
    let first = add(&conn, "1", bob);
    let (hash, renewed) = record("2", bob);
    insert(&conn, &hash, &TokenRecord { family: first.family, ..renewed.clone() }).unwrap();
    let other = add(&conn, "3", bob);
    assert!(!is_revoked(&conn, first.family).unwrap());
    assert!(delete_family(&conn, first.family).unwrap());
    assert!(is_revoked(&conn, first.family).unwrap());
    assert_eq!(get(&conn, renewed.id).unwrap(), None);
    assert_eq!(delete_expired(&conn, 1000).unwrap(), 0);
    assert!(!is_revoked(&conn, other.family).unwrap());
    assert_eq!(delete_expired(&conn, 1001).unwrap(), 1);
}

#[test]
fn a_users_tokens_end_together_but_for_the_one_that_is_kept() {
    let conn = memory();
    let (bob, eve) = (user(&conn, "bob"), user(&conn, "eve"));
    let (kept, ended) = (add(&conn, "1", bob), add(&conn, "2", bob));
    add(&conn, "3", eve);
    assert_eq!(delete_of_user(&conn, bob, Some(kept.family)).unwrap(), [ended.family].into());
    assert_eq!(list(&conn, Some(bob), 0).unwrap(), [kept]);
    assert!(users::delete(&conn, eve).unwrap());
    assert_eq!(list(&conn, Some(eve), 0).unwrap(), []);
}

#[test]
fn a_use_is_noted_once_in_a_while() {
    let conn = memory();
    let token = add(&conn, "1", user(&conn, "bob"));
    let used = || get(&conn, token.id).unwrap().unwrap();
    touch(&conn, token.id, 100, 40, "a").unwrap();
    touch(&conn, token.id, 120, 60, "b").unwrap();
    assert_eq!((used().last_used_ms, used().last_address.as_deref()), (Some(100), Some("a")));
    touch(&conn, token.id, 161, 101, "b").unwrap();
    assert_eq!((used().last_used_ms, used().last_address.as_deref()), (Some(161), Some("b")));
}

#[test]
fn a_damaged_row_is_an_error_that_names_the_column() {
    let conn = memory();
    let token = add(&conn, "1", user(&conn, "bob"));
    conn.execute("UPDATE tokens SET scope = '[\"everything\"]'", []).unwrap();
    let error = get(&conn, token.id).unwrap_err();
    assert!(matches!(error, StateError::Corrupt { what: "tokens.scope", .. }), "{error}");
}

proptest! {
    #[test]
    fn an_id_that_is_shown_reads_back_the_same(secret in "\\PC{0,64}") {
        let id = SecretHash::of(&secret).id();
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }
}
