//! Revoking a token cuts its running transfers.

use std::io::Read;
use std::time::Duration;

use serde_json::Value;

use crate::support::disk::noise;
use crate::support::http::{Download, Request};
use crate::support::server::{Server, gantry};
use crate::support::wait;
use crate::support::{GIB, MIB};

const LEN: usize = 24 * MIB as usize;

/// A new token of the administrator's, and its public id.
fn token(server: &Server, name: &str) -> (String, String) {
    let made = gantry(["token", "create", "--description", name, "--data"]).arg(server.data()).output();
    let secret = String::from_utf8(made.expect("it runs").stdout).expect("text").trim().to_owned();
    let list = server.json(&own_tokens(server));
    let found = list.as_array().and_then(|list| list.iter().find(|token| token["description"] == name));
    (secret, found.and_then(|token| token["id"].as_str()).expect("it is listed").to_owned())
}

fn own_tokens(server: &Server) -> String {
    let users = server.json("/rest/v0/users?fields=id");
    format!("/rest/v0/users/{}/authentication_tokens", users[0]["id"].as_str().expect("an id"))
}

fn with(secret: &str, request: Request) -> Request {
    request.anonymous().header("Cookie", &format!("token={secret}"))
}

/// A download that has begun and is far from its end.
fn download(server: &Server, secret: &str, vdi: &str) -> Download {
    let mut download = with(secret, server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw"))).open();
    assert_eq!(download.head.status, 200);
    download.take_bytes(100_000);
    download
}

#[track_caller]
fn is_cut(download: Download) {
    download.socket().set_read_timeout(Some(Duration::from_secs(20))).expect("it can be set");
    let error = download.rest().expect_err("it does not come to its end");
    let timeout = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
    assert!(!timeout, "it is cut and not only silent: {error}");
}

/// Revokes the token of one download and one upload in the given way; both are cut, and those of another go on.
fn revoked(revoke: impl FnOnce(&Server, &str)) {
    let server = Server::start();
    let vdi = server.import(&format!("?raw&size={GIB}"), noise(4096, 1));
    let (secret, id) = token(&server, "to go");
    let (other, _) = token(&server, "to stay");
    let gone = download(&server, &secret, &vdi);
    let mut stays = download(&server, &other, &vdi);
    let target = server.import_target("?raw&name_label=gone");
    let mut upload = with(&secret, server.request("POST", &target)).begin(Some(LEN as u64));
    upload.write(&noise(LEN, 2)[..LEN / 2]).expect("it takes the first half");
    let running = |server: &Server| {
        let tasks = server.json("/rest/v0/tasks?fields=*");
        let tasks = tasks.as_array().cloned().unwrap_or_default();
        tasks.into_iter().find(|task| task["properties"]["name"] == "Import of gone")
    };
    let task: Value = wait::until(Duration::from_secs(10), || running(&server).ok_or("no task".to_owned()));

    revoke(&server, &id);
    // The upload first: what the command line does is noticed within a second, in which the download could end.
    let task = server.task_ended(task["id"].as_str().expect("an id"));
    is_cut(gone);
    assert_eq!(task["status"], "failure", "{task}");
    if let Ok(answer) = upload.try_answer() {
        assert!(answer.head.status >= 400, "{:?}", answer.head);
    }
    let refused = with(&secret, server.request("GET", "/rest/v0/vdis")).send();
    refused.refused(401..=401);

    let mut rest = vec![0; 64 * MIB as usize];
    stays.read_exact(&mut rest).expect("a transfer of another token goes on");
    assert_eq!(server.vdis(), [vdi]);
}

#[test]
fn deleting_a_token_cuts_its_transfers_and_no_others() {
    revoked(|server, id| {
        server.request("DELETE", &format!("{}/{id}", own_tokens(server))).send().expect(204);
    });
}

#[test]
fn a_token_that_is_revoked_on_the_command_line_has_its_transfers_cut_too() {
    revoked(|server, id| {
        let done = gantry(["token", "revoke", id, "--data"]).arg(server.data()).output().expect("it runs");
        assert!(done.status.success(), "{done:?}");
    });
}

#[test]
fn a_reader_that_takes_nothing_is_cut_too() {
    let server = Server::start();
    let vdi = server.import(&format!("?raw&size={GIB}"), noise(4096, 1));
    let (secret, id) = token(&server, "to go");
    let silent = download(&server, &secret, &vdi);
    let task = silent.head.need("gantry-task").to_owned();
    server.task_in(&task, &["running"]);
    server.request("DELETE", &format!("{}/{id}", own_tokens(&server))).send().expect(204);
    server.task_in(&task, &["detached"]);
    is_cut(silent);
}

#[test]
fn an_upload_that_was_asked_for_with_expect_is_cut_too() {
    let server = Server::start();
    let (secret, id) = token(&server, "to go");
    let request = with(&secret, server.request("POST", &server.import_target("?raw")));
    let mut upload = request.header("Expect", "100-continue").begin(Some(LEN as u64));
    upload.write(&noise(LEN, 2)[..LEN / 2]).expect("it takes the first half");
    wait::until(Duration::from_secs(10), || {
        if server.disk_files().is_empty() { Err("nothing is staged".to_owned()) } else { Ok(()) }
    });
    server.request("DELETE", &format!("{}/{id}", own_tokens(&server))).send().expect(204);
    server.assert_empty("an upload that was cut");
    let tasks = server.json("/rest/v0/tasks?fields=id");
    let task = server.task_ended(tasks[0]["id"].as_str().expect("an id"));
    assert_eq!(task["status"], "failure", "{task}");
}

#[test]
fn who_deletes_the_token_in_use_is_told_that_it_is_done() {
    let server = Server::start();
    let (secret, id) = token(&server, "to go");
    let target = format!("{}/{id}", own_tokens(&server));
    with(&secret, server.request("DELETE", &target)).send().expect(204);
}

#[test]
fn a_token_with_a_scope_or_objects_revokes_none_but_itself() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(4096, 1));
    let (_, full) = token(&server, "full");
    let narrowed = |arguments: &[&str]| {
        let made = gantry(["token", "create", "--data"]).arg(server.data()).args(arguments).output();
        String::from_utf8(made.expect("it runs").stdout).expect("text").trim().to_owned()
    };
    for secret in [narrowed(&["--scope", "read"]), narrowed(&["--object", &vdi])] {
        let delete = |id: &str| {
            with(&secret, server.request("DELETE", &format!("{}/{id}", own_tokens(&server)))).send()
        };
        let refused = delete(&full).expect(403).json();
        assert_eq!(refused["data"]["operation"], "delete authentication token", "{refused}");
        delete(&secret).expect(204);
        assert_eq!(with(&secret, server.request("GET", "/rest/v0/vdis")).send().head.status, 401);
    }
    let left = server.json(&own_tokens(&server));
    assert!(left.as_array().is_some_and(|list| list.iter().any(|token| token["id"] == full.as_str())));
}
