//! `gantry user` and `gantry token create`, and what the roles may do.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::json;

use crate::support::disk::noise;
use crate::support::server::{PASSWORD, Server, gantry, gantry_run};

/// Runs a command on the server's data directory.
fn command(server: &Server, arguments: &[&str]) -> Output {
    gantry(arguments).arg("--data").arg(server.data()).output().expect("the program runs")
}

/// As [`command`], with something on standard input.
fn command_with(server: &Server, arguments: &[&str], input: &str) -> Output {
    let mut command = gantry(arguments);
    command
        .arg("--data")
        .arg(server.data())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn login(server: &Server, name: &str, password: &str) -> u16 {
    server.request("GET", "/rest/v0/vdis").basic(name, password).send().head.status
}

fn with_token(server: &Server, token: &str) -> u16 {
    let cookie = format!("token={token}");
    server.request("GET", "/rest/v0/vdis").anonymous().header("Cookie", &cookie).send().head.status
}

#[test]
fn user_add_makes_a_password_and_prints_it_alone() {
    let server = Server::start();
    let told = stdout(&command(&server, &["user", "add", "ann"]));
    let password = told.strip_suffix('\n').expect("one line");
    assert!(password.len() >= 12 && !password.contains(char::is_whitespace), "{told:?}");
    assert_eq!(login(&server, "ann", password), 200);
    assert_eq!(command(&server, &["user", "add", "ann"]).status.code(), Some(1), "she is there already");
    assert_eq!(command(&server, &["user", "add", "bob", "--role", "king"]).status.code(), Some(2));
}

#[test]
fn user_add_takes_a_password_from_standard_input() {
    let server = Server::start();
    let output = command_with(&server, &["user", "add", "bob", "--password-stdin"], "pass:word of bob\n");
    assert_eq!(stdout(&output), "");
    assert_eq!(login(&server, "bob", "pass:word of bob"), 200);
}

#[test]
fn user_list_shows_names_and_roles() {
    let server = Server::start();
    stdout(&command(&server, &["user", "add", "ann", "--role", "operator"]));
    stdout(&command(&server, &["user", "add", "bob"]));
    let told = stdout(&command(&server, &["user", "list"]));
    for (name, role) in [("admin", "admin"), ("ann", "operator"), ("bob", "viewer")] {
        assert!(
            told.lines().any(|line| line.contains(name) && line.contains(role)),
            "{name}, {role} in {told}"
        );
    }
    assert!(!told.contains("argon2"), "{told}");
}

#[test]
fn a_new_password_ends_the_users_tokens_unless_they_are_kept() {
    let server = Server::start();
    stdout(&command(&server, &["user", "add", "ann"]));
    let token = stdout(&command(&server, &["token", "create", "--user", "ann"])).trim().to_owned();
    assert_eq!(with_token(&server, &token), 200);
    let output =
        command_with(&server, &["user", "passwd", "ann", "--password-stdin", "--keep-tokens"], "new one\n");
    stdout(&output);
    assert_eq!(with_token(&server, &token), 200);
    assert_eq!(login(&server, "ann", "new one"), 200);
    stdout(&command_with(&server, &["user", "passwd", "ann", "--password-stdin"], "newer one\n"));
    assert_eq!(with_token(&server, &token), 401);
    assert_eq!(login(&server, "ann", "newer one"), 200);
    assert_eq!(login(&server, "ann", "new one"), 401);
}

#[test]
fn user_remove_ends_all_that_the_user_had() {
    let server = Server::start();
    stdout(&command_with(&server, &["user", "add", "ann", "--password-stdin"], "secret enough\n"));
    let token = stdout(&command(&server, &["token", "create", "--user", "ann"])).trim().to_owned();
    assert_eq!(with_token(&server, &token), 200);
    stdout(&command(&server, &["user", "remove", "ann"]));
    assert_eq!(with_token(&server, &token), 401);
    assert_eq!(login(&server, "ann", "secret enough"), 401);
    assert_eq!(command(&server, &["user", "remove", "ann"]).status.code(), Some(1), "she is gone already");
}

#[test]
fn token_create_prints_a_token_and_nothing_else_while_the_server_runs_and_while_it_does_not() {
    let mut server = Server::start();
    let running = stdout(&command(&server, &["token", "create"]));
    server.kill();
    let stopped = stdout(&command(&server, &["token", "create", "--description", "d", "--expires", "1h"]));
    server.start_again();
    for told in [running, stopped] {
        let token = told.strip_suffix('\n').expect("one line");
        assert_eq!(token.len(), 43, "{told:?}");
        assert_eq!(with_token(&server, token), 200);
    }
    assert_eq!(command(&server, &["token", "create", "--user", "nobody"]).status.code(), Some(1));
    assert_eq!(command(&server, &["token", "create", "--expires", "soon"]).status.code(), Some(2));
}

#[test]
fn a_viewer_reads_metadata_and_no_content_and_changes_nothing() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(4096, 1));
    stdout(&command(&server, &["user", "add", "ann"]));
    let token = stdout(&command(&server, &["token", "create", "--user", "ann"])).trim().to_owned();
    let cookie = format!("token={token}");
    let ask =
        |method: &str, target: &str| server.request(method, target).anonymous().header("Cookie", &cookie);
    let target = format!("/rest/v0/vdis/{vdi}");
    ask("GET", &target).send().expect(200);
    ask("GET", "/rest/v0/srs?fields=*").send().expect(200);
    ask("GET", &format!("{target}.raw")).send().refused(403..=403);
    ask("GET", &format!("{target}.vhd")).send().refused(403..=403);
    assert_eq!(ask("HEAD", &format!("{target}.raw")).send().head.status, 403);
    ask("PUT", &format!("{target}.raw")).body(noise(4096, 2)).send().refused(403..=403);
    ask("POST", &server.import_target("?raw")).body(noise(4096, 2)).send().refused(403..=403);
    ask("PATCH", &target).json(&json!({"name_label": "x"})).send().refused(403..=403);
    ask("PUT", &format!("{target}/tags/x")).send().refused(403..=403);
    ask("DELETE", &target).send().refused(403..=403);
    ask("POST", "/rest/v0/srs").json(&json!({"name_label": "x"})).send().refused(403..=403);
    assert!(server.export_bytes(&vdi, "raw") == noise(4096, 1));
}

#[test]
fn an_operator_moves_disks_and_makes_no_srs() {
    let server = Server::start();
    stdout(&command(&server, &["user", "add", "op", "--role", "operator"]));
    let token = stdout(&command(&server, &["token", "create", "--user", "op"])).trim().to_owned();
    let cookie = format!("token={token}");
    let ask =
        |method: &str, target: &str| server.request(method, target).anonymous().header("Cookie", &cookie);
    let response = ask("POST", &server.import_target("?raw")).body(noise(4096, 1)).send();
    let vdi = crate::support::server::created(&response, "vdis");
    let target = format!("/rest/v0/vdis/{vdi}");
    assert!(ask("GET", &format!("{target}.raw")).send().expect(200).body == noise(4096, 1));
    ask("PATCH", &target).json(&json!({"name_label": "x"})).send().expect(204);
    ask("DELETE", &target).send().expect(204);
    ask("POST", "/rest/v0/srs").json(&json!({"name_label": "x"})).send().refused(403..=403);
    ask("DELETE", &format!("/rest/v0/srs/{}", server.sr())).send().refused(403..=403);
}

#[test]
fn the_first_password_is_random_and_shown_once_unless_one_is_given() {
    let folder = crate::support::server::scratch();
    let data = folder.path().join("data");
    let mut command = gantry(["serve", "--listen", "127.0.0.1:0", "--data"]);
    let mut child =
        command.arg(&data).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut out = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).expect("it speaks");
    let address: std::net::SocketAddr =
        line.trim().rsplit('/').next().and_then(|text| text.parse().ok()).expect(&line);
    let file = data.join("admin-password");
    let password = std::fs::read_to_string(&file).expect("it is kept").trim().to_owned();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&file).expect("it is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let request = crate::support::http::Request::new(address, "GET", "/rest/v0/vdis");
    let status = request.basic("admin", &password).send().head.status;
    child.kill().expect("it can be killed");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(status, 200);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(log.matches(&password).count(), 1, "{log}");

    // It goes when the password is changed.
    let mut passwd = gantry(["user", "passwd", "admin", "--data"]);
    stdout(&passwd.arg(&data).output().expect("the program runs"));
    assert!(!file.exists());
}

#[test]
fn the_given_first_password_counts_only_once() {
    let mut server = Server::start();
    assert!(!server.data().join("admin-password").exists());
    stdout(&command_with(&server, &["user", "passwd", "admin", "--password-stdin"], "changed it\n"));
    server.kill();
    server.start_again();
    assert_eq!(login(&server, "admin", "changed it"), 200);
    assert_eq!(login(&server, "admin", PASSWORD), 401);
}

#[test]
fn wrong_usage_is_told_by_the_exit_code() {
    for arguments in
        [vec!["nonsense"], vec!["serve", "--nonsense"], vec!["user"], vec!["token", "nonsense"], vec![]]
    {
        let output = gantry_run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    let help = gantry_run(["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let told = String::from_utf8_lossy(&help.stdout).into_owned();
    for command in ["serve", "demo", "user", "token", "check"] {
        assert!(told.contains(command), "{command} in {told}");
    }
}
