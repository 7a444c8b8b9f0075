use rusqlite::Connection;

use super::verify::verify;
use super::*;
use crate::state::db::memory;

fn entry(action: &str) -> Entry {
    Entry {
        intent: None,
        action: action.to_owned(),
        outcome: Outcome::Intended,
        code: None,
        user: Some("u".into()),
        user_name: Some("alice".into()),
        token: None,
        via: "rest".into(),
        from: "192.0.2.1".into(),
        object: Some(Object { kind: "VDI".into(), id: Some("x".into()), name: Some("a \"disk\"\n".into()) }),
        task: None,
    }
}

fn add(conn: &mut Connection, entry: &Entry, time_ms: i64) -> i64 {
    let transaction = conn.transaction().unwrap();
    let seq = append(&transaction, entry, time_ms).unwrap();
    transaction.commit().unwrap();
    seq
}

fn filled(records: i64) -> Connection {
    let mut conn = memory();
    for time in 1..=records {
        add(&mut conn, &entry(&format!("action.{time}")), time);
    }
    conn
}

/// The chain as it is after somebody has changed the table by hand.
fn after(records: i64, sql: &str) -> Verified {
    let conn = filled(records);
    conn.execute_batch("DROP TRIGGER audit_is_not_changed; DROP TRIGGER audit_is_cut_at_its_front;").unwrap();
    conn.execute_batch(sql).unwrap();
    verify(&conn).unwrap()
}

#[test]
fn records_are_numbered_and_come_back_newest_first() {
    let conn = filled(5);
    let page = page(&conn, i64::MAX, 2).unwrap();
    assert_eq!(page.iter().map(|one| one.seq).collect::<Vec<_>>(), [5, 4]);
    let shown = page[0].json().unwrap();
    assert_eq!(shown["id"], "5");
    assert_eq!(shown["action"], "action.5");
    assert_eq!(shown["object"]["name"], "a \"disk\"\n");
    assert_eq!(get(&conn, 5).unwrap().unwrap(), page[0]);
    assert_eq!(get(&conn, 6).unwrap(), None);
}

#[test]
fn the_hash_of_a_record_is_of_the_one_before_and_its_own_bytes() {
    let conn = filled(2);
    let [second, first] = page(&conn, i64::MAX, 2).unwrap().try_into().unwrap();
    assert_eq!(first.hash, chained(&[0; 32], &first.text));
    assert_eq!(second.hash, chained(&first.hash, &second.text));
    assert_eq!(
        first.text,
        "{\"seq\":1,\"time\":1,\"action\":\"action.1\",\"outcome\":\"intended\",\"user\":\"u\",\"user_name\":\"alice\",\
         \"via\":\"rest\",\"from\":\"192.0.2.1\",\"object\":{\"type\":\"VDI\",\"id\":\"x\",\"name\":\"a \\\"disk\\\"\\n\"}}"
    );
}

#[test]
fn a_sound_chain_is_sound_and_any_change_of_it_shows() {
    assert_eq!(verify(&memory()).unwrap().broken, None);
    let sound = verify(&filled(4)).unwrap();
    assert_eq!((sound.records, sound.last, sound.broken), (4, 4, None));
    for (sql, code, seq) in [
        ("UPDATE audit SET record = replace(record, 'alice', 'mallory') WHERE seq = 2", "hash_mismatch", 2),
        ("UPDATE audit SET hash = zeroblob(32) WHERE seq = 3", "hash_mismatch", 3),
        ("UPDATE audit SET time_ms = 9 WHERE seq = 3", "columns_mismatch", 3),
        ("UPDATE audit SET task_id = 'x' WHERE seq = 1", "columns_mismatch", 1),
        ("DELETE FROM audit WHERE seq = 2", "record_missing", 2),
        ("DELETE FROM audit WHERE seq = 1", "record_missing", 1),
        ("DELETE FROM audit WHERE seq = 4", "end_missing", 4),
        ("DELETE FROM audit", "end_missing", 1),
    ] {
        let broken = after(4, sql).broken.unwrap_or_else(|| panic!("{sql}"));
        assert_eq!((broken.code(), broken.seq()), (code, seq), "{sql}: {broken}");
    }
}

#[test]
fn the_table_itself_refuses_to_be_changed() {
    let conn = filled(3);
    for sql in ["UPDATE audit SET time_ms = 0", "DELETE FROM audit WHERE seq = 3", "DELETE FROM audit"] {
        let refused = conn.execute_batch(sql).unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{sql}: {refused}");
    }
    assert_eq!(verify(&conn).unwrap().records, 3);
}

#[test]
fn old_records_go_at_the_front_and_the_rest_still_verifies() {
    let mut conn = filled(6);
    let transaction = conn.transaction().unwrap();
    assert_eq!(cut(&transaction, 4).unwrap(), 3);
    assert_eq!(cut(&transaction, 4).unwrap(), 0);
    transaction.commit().unwrap();
    let left = verify(&conn).unwrap();
    assert_eq!((left.anchor, left.records, left.last, left.broken), (3, 3, 6, None));
    let transaction = conn.transaction().unwrap();
    assert_eq!(cut(&transaction, 100).unwrap(), 3);
    transaction.commit().unwrap();
    assert_eq!(add(&mut conn, &entry("next"), 101), 7);
    let left = verify(&conn).unwrap();
    assert_eq!((left.anchor, left.records, left.last, left.broken), (6, 1, 7, None));
}

#[test]
fn a_clock_that_was_set_back_does_not_cut_a_hole() {
    let mut conn = memory();
    for time in [5, 50, 6] {
        add(&mut conn, &entry("x"), time);
    }
    let transaction = conn.transaction().unwrap();
    assert_eq!(cut(&transaction, 10).unwrap(), 1);
    transaction.commit().unwrap();
    assert_eq!(verify(&conn).unwrap().records, 2);
}

#[test]
fn one_record_of_an_action_and_a_task_is_enough() {
    let mut conn = memory();
    let transaction = conn.transaction().unwrap();
    let mut export = entry("vdi.export");
    export.task = Some("t".into());
    append_once(&transaction, &export, 1).unwrap();
    append_once(&transaction, &export, 2).unwrap();
    export.action = "vdi.snapshot".into();
    append_once(&transaction, &export, 3).unwrap();
    transaction.commit().unwrap();
    assert_eq!(verify(&conn).unwrap().records, 2);
}
