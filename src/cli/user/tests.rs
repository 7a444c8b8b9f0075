use clap::Parser;

use super::*;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: UserArgs,
}

/// Output whose device is full.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn known(_: bool) -> Result<NewPassword, AccessError> {
    Ok(NewPassword::Known("geheim".to_owned()))
}

fn made_up(_: bool) -> Result<NewPassword, AccessError> {
    Ok(NewPassword::MadeUp("made-up".to_owned()))
}

fn parse(data: &std::path::Path, words: &[&str]) -> Result<UserArgs, clap::Error> {
    let data = ["--data", data.to_str().unwrap()];
    Program::try_parse_from(["user"].iter().chain(words).chain(&data)).map(|program| program.args)
}

/// What a command prints.
fn printed(
    data: &std::path::Path,
    words: &[&str],
    password: fn(bool) -> Result<NewPassword, AccessError>,
) -> Result<String, AccessError> {
    let mut out = Vec::new();
    execute(&parse(data, words).unwrap(), password, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn names_and_roles(data: &std::path::Path) -> Vec<(String, String)> {
    let json = printed(data, &["list", "--json"], known).unwrap();
    let users: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    users.iter().map(|user| (text(&user["name"]), text(&user["role"]))).collect()
}

#[test]
fn a_user_is_added_as_viewer_unless_told_and_the_first_start_is_made_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("new");
    assert_eq!(printed(&data, &["add", "bob"], known).unwrap(), "");
    assert_eq!(printed(&data, &["add", "ann", "--role", "operator"], made_up).unwrap(), "made-up\n");
    let expected = [("admin", "admin"), ("ann", "operator"), ("bob", "viewer")];
    assert_eq!(names_and_roles(&data), expected.map(|(name, role)| (name.to_owned(), role.to_owned())));
    assert!(data.join("gantry.db").exists());
    let table = printed(&data, &["list"], known).unwrap();
    let first: Vec<_> = table.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(first, ["NAME", "admin", "ann", "bob"]);
}

#[test]
fn commands_work_while_a_server_holds_the_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _server = DataDir::open_exclusive(dir.path()).unwrap();
    let db = Db::open(&dir.path().join("gantry.db")).unwrap();
    printed(dir.path(), &["add", "bob"], known).unwrap();
    let found = db.call_blocking(|conn| crate::state::users::by_name(conn, "bob")).unwrap();
    assert!(found.is_some());
}

#[test]
fn refusals_say_what_is_wrong_and_exit_with_1() {
    let dir = tempfile::tempdir().unwrap();
    printed(dir.path(), &["add", "bob"], known).unwrap();
    for (words, message) in [
        (&["add", "bob"][..], "there is a user \"bob\" already"),
        (&["passwd", "eve"], "there is no user \"eve\""),
        (&["remove", "eve"], "there is no user \"eve\""),
        (&["remove", "admin"], "\"admin\" is the last administrator"),
    ] {
        let error = printed(dir.path(), words, known).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit_code()), (message, 1), "{words:?}");
    }
    assert_eq!(names_and_roles(dir.path()).len(), 2);
}

#[test]
fn wrong_words_are_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    for words in [
        &["add"][..],
        &["add", "a:b"],
        &["add", "bob", "--role", "emperor"],
        &["passwd"],
        &["frobnicate"],
        &["list", "bob"],
    ] {
        let error = parse(dir.path(), words).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{words:?}");
    }
    let mut out = Vec::new();
    let config = dir.path().join("missing.toml");
    let args = parse(dir.path(), &["list", "--config", config.to_str().unwrap()]).unwrap();
    assert_eq!(execute(&args, known, &mut out).unwrap_err().exit_code(), 2);
}

#[test]
fn a_new_password_ends_tokens_unless_they_are_kept_and_removes_the_first_ones_file() {
    use crate::auth::{TokenRequest, create_token};
    let dir = tempfile::tempdir().unwrap();
    let args = DataArgs { data: Some(dir.path().to_owned()), config: None };
    let tokens = || {
        with_state(&args, async |access| {
            let user = access.accounts.by_name("admin").await?.id;
            let count =
                move |conn: &mut rusqlite::Connection| crate::state::tokens::list(conn, Some(user), 0);
            Ok(access.db.call(count).await?.len())
        })
        .unwrap()
    };
    with_state(&args, async |access| {
        let admin = access.accounts.by_name("admin").await?;
        Ok(create_token(&access.db, admin.id, None, TokenRequest::default()).await?)
    })
    .unwrap();
    let file = dir.path().join("admin-password");
    assert!(file.exists());
    assert_eq!(printed(dir.path(), &["passwd", "admin", "--keep-tokens"], made_up).unwrap(), "made-up\n");
    assert_eq!((tokens(), file.exists()), (1, false));
    assert_eq!(printed(dir.path(), &["passwd", "admin"], known).unwrap(), "");
    assert_eq!(tokens(), 0);
}

#[test]
fn a_password_that_could_not_be_printed_is_nobodys() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = execute(&parse(dir.path(), &["add", "bob"]).unwrap(), made_up, &mut Full);
    assert!(matches!(outcome, Err(AccessError::Output(_))), "{outcome:?}");
    assert_eq!(names_and_roles(dir.path()).len(), 1);
    let hash = || {
        let db = Db::open(&dir.path().join("gantry.db")).unwrap();
        db.call_blocking(|conn| crate::state::users::by_name(conn, "admin")).unwrap().unwrap().password_hash
    };
    let before = hash();
    let outcome = execute(&parse(dir.path(), &["passwd", "admin"]).unwrap(), made_up, &mut Full);
    assert!(matches!(outcome, Err(AccessError::Output(_))), "{outcome:?}");
    assert_eq!(hash(), before);
}

#[test]
fn a_password_on_stdin_is_one_line_of_text() {
    for (input, password) in
        [("geheim\n", "geheim"), ("geheim", "geheim"), (" a b \r\n", " a b "), ("\n", "")]
    {
        assert_eq!(password_line(input.as_bytes()).unwrap(), password, "{input:?}");
    }
    let long = "x".repeat(5000);
    for input in [&b"a\nb\n"[..], &[0xff], long.as_bytes()] {
        assert!(matches!(password_line(input), Err(AccessError::BadInput)));
    }
}

#[test]
fn a_closed_pipe_is_told_from_a_full_device() {
    assert!(AccessError::Output(io::ErrorKind::BrokenPipe.into()).is_closed_pipe());
    assert!(!AccessError::Output(io::ErrorKind::StorageFull.into()).is_closed_pipe());
}

#[test]
fn a_table_aligns_its_columns_and_lets_no_control_character_through() {
    let rows = [["a\u{1b}[2J".to_owned(), "1".to_owned()], ["büro".to_owned(), "22".to_owned()]];
    assert_eq!(table(["N", "COUNT"], rows), "N     COUNT\na[2J  1\nbüro  22\n");
}
