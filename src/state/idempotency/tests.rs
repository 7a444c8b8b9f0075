use super::*;
use crate::state::db::memory;
use crate::state::users::{self, Role, User};

const FINGERPRINT: Fingerprint = [7; 32];

fn user(conn: &Connection, name: &str) -> UserId {
    let user = User {
        id: UserId::random(),
        name: name.to_owned(),
        role: Role::Admin,
        password_hash: String::new(),
        created_ms: 0,
    };
    users::insert(conn, &user).unwrap();
    user.id
}

fn name(user: UserId, key: &str) -> Name {
    Name { user, address: "POST /rest/v0/vdis".to_owned(), key: key.to_owned() }
}

fn created(bytes: usize) -> Answer {
    Answer {
        status: 201,
        headers: vec![("location".to_owned(), "/rest/v0/vdis/x".to_owned())],
        body: Some(vec![b'x'; bytes]),
    }
}

fn count(conn: &Connection) -> u32 {
    conn.query_row("SELECT count(*) FROM idempotency", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_request_is_new_once_and_then_known_with_its_answer() {
    let conn = memory();
    let request = name(user(&conn, "bob"), "k");
    assert_eq!(begin(&conn, &request, &FINGERPRINT, 0).unwrap(), None);
    let known = begin(&conn, &request, &[9; 32], 1).unwrap().unwrap();
    let expected =
        Record { fingerprint: FINGERPRINT, task: None, object: None, answer: None, answered: false };
    assert_eq!(known, expected, "and what it was is not changed by who asks again");
    answer(&conn, &request, &FINGERPRINT, &created(5), 2).unwrap();
    let known = begin(&conn, &request, &FINGERPRINT, 3).unwrap().unwrap();
    assert_eq!(known, Record { answer: Some(created(5)), answered: true, ..expected });
}

#[test]
fn users_and_addresses_do_not_share_keys() {
    let conn = memory();
    let (bob, eve) = (user(&conn, "bob"), user(&conn, "eve"));
    assert_eq!(begin(&conn, &name(bob, "k"), &FINGERPRINT, 0).unwrap(), None);
    assert_eq!(begin(&conn, &name(eve, "k"), &FINGERPRINT, 0).unwrap(), None);
    let elsewhere = Name { address: "POST /rest/v0/srs".to_owned(), ..name(bob, "k") };
    assert_eq!(begin(&conn, &elsewhere, &FINGERPRINT, 0).unwrap(), None);
    assert_eq!(begin(&conn, &name(bob, "K"), &FINGERPRINT, 0).unwrap(), None, "letter case counts");
    assert_eq!(count(&conn), 4);
}

#[test]
fn a_record_is_good_for_a_day_from_its_answer() {
    let conn = memory();
    let request = name(user(&conn, "bob"), "k");
    begin(&conn, &request, &FINGERPRINT, 0).unwrap();
    answer(&conn, &request, &FINGERPRINT, &created(1), 5000).unwrap();
    assert!(begin(&conn, &request, &FINGERPRINT, 4999 + KEEP_MS).unwrap().is_some());
    assert_eq!(begin(&conn, &request, &FINGERPRINT, 5000 + KEEP_MS).unwrap(), None);
}

#[test]
fn an_answer_that_took_longer_than_a_day_is_kept_all_the_same() {
    let conn = memory();
    let bob = user(&conn, "bob");
    begin(&conn, &name(bob, "slow"), &FINGERPRINT, 0).unwrap();
    begin(&conn, &name(bob, "other"), &FINGERPRINT, KEEP_MS).unwrap();
    assert_eq!(count(&conn), 1, "the slow one was cleared away");
    answer(&conn, &name(bob, "slow"), &FINGERPRINT, &created(1), KEEP_MS).unwrap();
    let known = begin(&conn, &name(bob, "slow"), &FINGERPRINT, KEEP_MS + 1).unwrap().unwrap();
    assert!(known.answered);
}

#[test]
fn what_was_promised_is_found_at_the_next_start_until_it_is_answered_or_begun_again() {
    let conn = memory();
    let bob = user(&conn, "bob");
    for key in ["plain", "job", "disk"] {
        begin(&conn, &name(bob, key), &FINGERPRINT, 0).unwrap();
    }
    note_task(&conn, &name(bob, "job"), "t1").unwrap();
    note_object(&conn, &name(bob, "disk"), Some("t2"), "vdis/x", &created(3)).unwrap();
    let found = unanswered(&conn, 1).unwrap();
    let mut keys: Vec<_> = found.iter().map(|(name, _)| name.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["disk", "job"]);
    let (_, disk) = found.iter().find(|(name, _)| name.key == "disk").unwrap();
    assert_eq!(
        disk,
        &Record {
            fingerprint: FINGERPRINT,
            task: Some("t2".to_owned()),
            object: Some("vdis/x".to_owned()),
            answer: Some(created(3)),
            answered: false,
        }
    );
    answer(&conn, &name(bob, "disk"), &FINGERPRINT, &created(3), 2).unwrap();
    begin_again(&conn, &name(bob, "job"), 2).unwrap();
    assert_eq!(unanswered(&conn, 3).unwrap(), []);
    let again = begin(&conn, &name(bob, "job"), &FINGERPRINT, 3).unwrap().unwrap();
    assert_eq!((again.task, again.answer), (None, None));
}

#[test]
fn the_oldest_answers_of_a_user_go_first_and_those_of_others_stay() {
    let conn = memory();
    let (bob, eve) = (user(&conn, "bob"), user(&conn, "eve"));
    begin(&conn, &name(eve, "k"), &FINGERPRINT, 0).unwrap();
    begin(&conn, &name(bob, "at work"), &FINGERPRINT, 0).unwrap();
    for (key, at) in [("first", 1), ("second", 2), ("third", 3)] {
        begin(&conn, &name(bob, key), &FINGERPRINT, at).unwrap();
        answer(&conn, &name(bob, key), &FINGERPRINT, &created(100), at).unwrap();
    }
    let left = |conn: &Connection| {
        let mut query =
            conn.prepare("SELECT key FROM idempotency WHERE user_id = ?1 ORDER BY touched_ms").unwrap();
        let keys = query.query_map([bob.to_string()], |row| row.get::<_, String>(0)).unwrap();
        keys.collect::<Result<Vec<_>, _>>().unwrap()
    };
    bound(&conn, bob, 3, u64::MAX).unwrap();
    assert_eq!(left(&conn), ["at work", "second", "third"]);
    bound(&conn, bob, 10, 150).unwrap();
    assert_eq!(left(&conn), ["at work", "third"]);
    bound(&conn, bob, 0, 0).unwrap();
    assert_eq!(count(&conn), 1, "eve's");
}

#[test]
fn what_a_user_was_answered_goes_with_the_user() {
    let conn = memory();
    let bob = user(&conn, "bob");
    begin(&conn, &name(bob, "k"), &FINGERPRINT, 0).unwrap();
    users::delete(&conn, bob).unwrap();
    assert_eq!(count(&conn), 0);
}

#[test]
fn an_answer_without_its_body_is_not_one_with_an_empty_body() {
    let conn = memory();
    let request = name(user(&conn, "bob"), "k");
    for body in [None, Some(Vec::new())] {
        let given = Answer { status: 204, headers: Vec::new(), body };
        answer(&conn, &request, &FINGERPRINT, &given, 0).unwrap();
        assert_eq!(begin(&conn, &request, &FINGERPRINT, 1).unwrap().unwrap().answer, Some(given));
    }
}
