use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rusqlite::OptionalExtension;

use super::*;
use crate::state::{APPLICATION_ID, SCHEMA_VERSION, meta};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("gantry.db")
    }

    fn open(&self) -> Db {
        Db::open(&self.path()).unwrap()
    }

    /// The file as a stranger's tool sees it.
    fn raw(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }
}

fn pragma(conn: &Connection, name: &str) -> i64 {
    conn.pragma_query_value(None, name, |row| row.get(0)).unwrap()
}

#[test]
fn a_new_database_says_whose_it_is_and_is_closed_to_others() {
    let place = Place::new();
    let db = place.open();
    db.transaction_blocking(|transaction| meta::set(transaction, "a", "1")).unwrap();
    let raw = place.raw();
    assert_eq!(pragma(&raw, "application_id"), i64::from(APPLICATION_ID));
    assert_eq!(pragma(&raw, "user_version"), SCHEMA_VERSION);
    for file in ["gantry.db", "gantry.db-wal", "gantry.db-shm", "ballast"] {
        let mode = std::fs::metadata(place.dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn the_connection_writes_ahead_syncs_fully_and_checks_references() {
    let place = Place::new();
    let db = place.open();
    db.call_blocking(|conn| {
        let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        assert_eq!(mode, "wal");
        assert_eq!(pragma(conn, "synchronous"), 2);
        assert_eq!(pragma(conn, "foreign_keys"), 1);
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_was_written_is_there_after_closing_and_opening_again() {
    let place = Place::new();
    let db = place.open();
    db.transaction_blocking(|transaction| meta::set(transaction, "a", "1")).unwrap();
    db.close_blocking();
    assert!(matches!(db.call_blocking(|_| Ok(())), Err(StateError::Closed)));
    assert!(!place.dir.path().join("gantry.db-wal").exists(), "the log was not folded in");
    let value = place.open().call_blocking(|conn| meta::get(conn, "a")).unwrap();
    assert_eq!(value.as_deref(), Some("1"));
}

#[test]
fn two_processes_may_open_the_same_new_database_at_once() {
    let place = Place::new();
    let open = |_| {
        let path = place.path();
        std::thread::spawn(move || Db::open(&path).map(|_| ()))
    };
    let threads: Vec<_> = (0..8).map(open).collect();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    assert_eq!(pragma(&place.raw(), "user_version"), SCHEMA_VERSION);
}

#[test]
fn a_newer_database_is_refused_naming_both_versions_and_left_as_it_is() {
    let place = Place::new();
    place.open().close_blocking();
    place.raw().pragma_update(None, "user_version", 7).unwrap();
    let before = std::fs::read(place.path()).unwrap();
    let error = Db::open(&place.path()).err().unwrap();
    assert!(matches!(error, StateError::Newer { found: 7, known: SCHEMA_VERSION, .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("version 7") && message.contains(&format!("up to {SCHEMA_VERSION}")),
        "{message}"
    );
    assert_eq!(std::fs::read(place.path()).unwrap(), before);
}

#[test]
fn somebody_elses_file_is_refused() {
    let place = Place::new();
    place.raw().execute_batch("PRAGMA application_id = 252006674").unwrap();
    let error = Db::open(&place.path()).err().unwrap();
    assert!(matches!(error, StateError::Foreign { application_id: 252_006_674, .. }), "{error}");

    let place = Place::new();
    place.raw().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(Db::open(&place.path()), Err(StateError::Foreign { application_id: 0, .. })));

    let place = Place::new();
    std::fs::write(place.path(), vec![b'x'; 8192]).unwrap();
    assert!(matches!(Db::open(&place.path()), Err(StateError::Foreign { application_id: 0, .. })));
    assert_eq!(std::fs::read(place.path()).unwrap(), vec![b'x'; 8192]);
}

#[test]
fn an_older_database_is_copied_before_it_is_brought_up_to_date() {
    let place = Place::new();
    let old = [
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT; INSERT INTO meta VALUES ('a', 'old')",
    ];
    Db::open_with(&place.path(), &old).unwrap().close_blocking();
    let new = [old[0], "UPDATE meta SET value = 'new'"];
    let db = Db::open_with(&place.path(), &new).unwrap();
    let value = db.call_blocking(|conn| meta::get(conn, "a")).unwrap();
    assert_eq!(value.as_deref(), Some("new"));
    let copy = place.dir.path().join("gantry.db.backup-v1");
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let copy = Connection::open(&copy).unwrap();
    assert_eq!(meta::get(&copy, "a").unwrap().as_deref(), Some("old"));
    assert_eq!(pragma(&copy, "user_version"), 1);
}

#[test]
fn a_migration_that_fails_leaves_the_old_version() {
    let place = Place::new();
    let old = ["CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"];
    Db::open_with(&place.path(), &old).unwrap().close_blocking();
    let bad = [old[0], "CREATE TABLE more (x)", "CREATE TABLE meta (x)"];
    assert!(matches!(Db::open_with(&place.path(), &bad), Err(StateError::Database(_))));
    assert_eq!(pragma(&place.raw(), "user_version"), 1);
    let more = place.raw().query_row("SELECT 1 FROM sqlite_schema WHERE name = 'more'", [], |_| Ok(()));
    assert_eq!(more.optional().unwrap(), None);
    Db::open_with(&place.path(), &old).unwrap();
}

#[test]
fn a_panic_fails_its_call_alone_and_undoes_its_transaction() {
    let place = Place::new();
    let db = place.open();
    let outcome = db.transaction_blocking(|transaction| -> Result<(), StateError> {
        meta::set(transaction, "a", "1")?;
        panic!("index out of bounds");
    });
    match outcome {
        Err(StateError::Panicked { message }) => assert_eq!(message, "index out of bounds"),
        other => panic!("{other:?}"),
    }
    assert_eq!(db.call_blocking(|conn| meta::get(conn, "a")).unwrap(), None);
    db.transaction_blocking(|transaction| meta::set(transaction, "b", "2")).unwrap();
}

#[test]
fn an_error_undoes_the_transaction_and_one_left_open_is_closed() {
    let place = Place::new();
    let db = place.open();
    let outcome = db.transaction_blocking(|transaction| {
        meta::set(transaction, "a", "1")?;
        Err::<(), _>(StateError::Overloaded)
    });
    assert!(matches!(outcome, Err(StateError::Overloaded)));
    db.call_blocking(|conn| Ok(conn.execute_batch("BEGIN; INSERT INTO meta VALUES ('a', '1')")?)).unwrap();
    assert_eq!(db.call_blocking(|conn| meta::get(conn, "a")).unwrap(), None);
}

#[test]
fn on_a_full_disk_the_ballast_makes_room_for_one_more_try() {
    let place = Place::new();
    let db = place.open();
    let ballast = place.dir.path().join("ballast");
    assert!(ballast.exists());
    let seen = ballast.clone();
    let mut tries = 0;
    db.transaction_blocking(move |transaction| {
        tries += 1;
        // SQLite's own limit stands in for the file system's: it yields the same error
        let pages = if seen.exists() { 1 } else { 1 << 20 };
        transaction.pragma_update(None, "max_page_count", pages)?;
        transaction
            .execute("INSERT INTO meta VALUES (?1, hex(zeroblob(100000)))", [format!("try {tries}")])?;
        Ok(())
    })
    .unwrap();
    assert!(!ballast.exists());
    let second = db.call_blocking(|conn| meta::get(conn, "try 2")).unwrap();
    assert_eq!(second.unwrap().len(), 200_000);
    assert_eq!(db.call_blocking(|conn| meta::get(conn, "try 1")).unwrap(), None);
}

#[test]
fn a_disk_that_stays_full_is_said_to_be_full() {
    let place = Place::new();
    let db = place.open();
    let outcome = db.transaction_blocking(|transaction| {
        transaction.pragma_update(None, "max_page_count", 1)?;
        transaction.execute("INSERT INTO meta VALUES ('a', hex(zeroblob(100000)))", [])?;
        Ok(())
    });
    assert!(matches!(outcome, Err(StateError::Full)), "{outcome:?}");
}

#[tokio::test]
async fn many_callers_share_the_thread_and_posted_writes_come_in_order() {
    let place = Place::new();
    let db = Db::open(&place.path()).unwrap();
    db.transaction(|transaction| meta::set(transaction, "n", "0")).await.unwrap();
    let add = |db: Db| async move {
        db.transaction(|transaction| {
            Ok(transaction.execute("UPDATE meta SET value = value + 1 WHERE key = 'n'", [])?)
        })
        .await
    };
    let tasks: Vec<_> = (0..50).map(|_| tokio::spawn(add(db.clone()))).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), 1);
    }
    db.post("a test", |transaction| meta::set(transaction, "posted", "1")).unwrap();
    let read = db.call(|conn| Ok((meta::get(conn, "n")?, meta::get(conn, "posted")?))).await.unwrap();
    assert_eq!(read, (Some("50".to_owned()), Some("1".to_owned())));
    db.close().await;
    assert!(matches!(db.call(|_| Ok(())).await, Err(StateError::Closed)));
    assert!(matches!(db.post("a test", |_| Ok(())), Err(StateError::Closed)));
}

#[tokio::test]
async fn a_post_into_a_full_queue_is_refused_and_a_call_waits() {
    let place = Place::new();
    let db = Db::open(&place.path()).unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let blocked = db.clone();
    let holder = tokio::spawn(async move { blocked.call(move |_| Ok(wait.recv().is_ok())).await });
    let mut posted = 0;
    let refusal = loop {
        match db.post("a test", |transaction| meta::set(transaction, "a", "1")) {
            Ok(()) => posted += 1,
            Err(error) => break error,
        }
        tokio::task::yield_now().await;
        assert!(posted <= QUEUE_CALLS + 1, "the queue has no bound");
    };
    assert!(matches!(refusal, StateError::Overloaded));
    go.send(()).unwrap();
    assert!(holder.await.unwrap().unwrap());
    assert_eq!(db.call(|conn| meta::get(conn, "a")).await.unwrap().as_deref(), Some("1"));
}

#[test]
fn another_process_may_read_and_write_meanwhile() {
    let place = Place::new();
    let (server, command) = (place.open(), place.open());
    command.transaction_blocking(|transaction| meta::set(transaction, "a", "1")).unwrap();
    assert_eq!(server.call_blocking(|conn| meta::get(conn, "a")).unwrap().as_deref(), Some("1"));
    server.transaction_blocking(|transaction| meta::set(transaction, "a", "2")).unwrap();
    assert_eq!(command.call_blocking(|conn| meta::get(conn, "a")).unwrap().as_deref(), Some("2"));
}

#[test]
fn a_database_of_version_1_gets_the_table_of_idempotency_keys_and_keeps_what_it_holds() {
    let place = Place::new();
    let old = Db::open_with(&place.path(), &MIGRATIONS[..1]).unwrap();
    old.transaction_blocking(|transaction| {
        transaction.execute(
            "INSERT INTO users VALUES ('6d1d1b0e-8d5b-4bb0-9a4f-6a8c1f7e2a11', 'bob', 'admin', 'hash', 5)",
            [],
        )?;
        Ok(())
    })
    .unwrap();
    old.close_blocking();
    let db = place.open();
    db.call_blocking(|conn| {
        let name: String = conn.query_row("SELECT name FROM users", [], |row| row.get(0))?;
        assert_eq!(name, "bob");
        let records: i64 = conn.query_row("SELECT count(*) FROM idempotency", [], |row| row.get(0))?;
        assert_eq!(records, 0);
        assert_eq!(pragma(conn, "user_version"), SCHEMA_VERSION);
        Ok(())
    })
    .unwrap();
    let copy = Connection::open(place.dir.path().join("gantry.db.backup-v1")).unwrap();
    assert_eq!(pragma(&copy, "user_version"), 1);
    let name: String = copy.query_row("SELECT name FROM users", [], |row| row.get(0)).unwrap();
    assert_eq!(name, "bob");
}
