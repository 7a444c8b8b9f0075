//! Ended tasks are kept by number and by age, and go when somebody says so; tasks that run stay.

use std::time::Duration;

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::http::Upload;
use crate::support::server::{Server, Setup};
use crate::support::wait;

/// An import that waits for the rest of its body, and its task.
fn running(server: &Server) -> (Upload, String) {
    let mut upload = server.request("POST", &server.import_target("?raw")).begin(Some(MIB));
    upload.write(&noise(512, 1)).expect("it takes it");
    let task = server.wait_for_task(|task| task["status"] == "pending");
    (upload, task["id"].as_str().expect("an id").to_owned())
}

fn imported(server: &Server, seed: u64) -> String {
    let answer =
        server.request("POST", &server.import_target("?raw")).body(noise(512, seed)).send().expect(201);
    answer.head.need("Gantry-Task").to_owned()
}

fn listed(server: &Server) -> Vec<String> {
    let links = server.json("/rest/v0/tasks");
    let id = |link: &serde_json::Value| {
        link.as_str().and_then(|l| l.rsplit('/').next()).expect("a link").to_owned()
    };
    let mut ids: Vec<_> = links.as_array().expect("an array").iter().map(id).collect();
    ids.sort();
    ids
}

#[track_caller]
fn wait_for(server: &Server, tasks: &[String]) {
    wait::until(Duration::from_secs(10), || match listed(server) {
        listed if listed == tasks => Ok(()),
        listed => Err(format!("{listed:?} and not {tasks:?}")),
    });
}

#[test]
fn the_tasks_that_ended_last_are_kept_and_a_long_one_is_not_forgotten_in_the_moment_of_its_end() {
    let mut server = Setup::default().config("[tasks]\nkeep = 5").start();
    let (mut upload, long) = running(&server);
    let short: Vec<_> = (0..8).map(|seed| imported(&server, seed)).collect();
    let kept: Vec<_> = [vec![long.clone()], short[3..].to_vec()].concat();
    wait_for(&server, &kept);
    assert_eq!(server.task(&long)["status"], "pending", "one that runs takes no place and stays");
    upload.write(&noise(MIB as usize - 512, 2)).expect("it takes the rest");
    assert_eq!(upload.answer().head.status, 201);
    // The oldest by its beginning, the youngest by its end.
    let kept: Vec<_> = [vec![long.clone()], short[4..].to_vec()].concat();
    wait_for(&server, &kept);
    assert_eq!(server.task(&long)["status"], "success");
    for graceful in [true, false] {
        if graceful {
            assert!(server.terminate().success());
        } else {
            server.kill();
        }
        server.start_again();
        assert_eq!(listed(&server), kept, "after a restart");
    }
    server.get(&format!("/rest/v0/tasks/{}", short[0])).refused(404..=404);
}

#[test]
fn unfinished_tasks_do_not_take_the_place_of_ended_ones_in_a_restart() {
    let mut server = Setup::default().config("[tasks]\nkeep = 2").start();
    let vdi = server.import("?raw", noise(8 * MIB as usize, 1));
    let ended = imported(&server, 2);
    let ended = [listed(&server).into_iter().filter(|task| *task != ended).collect(), vec![ended]].concat();
    // Downloads that wait for their clients, all of them younger.
    let cut: Vec<_> = ["raw", "vhd"]
        .map(|format| {
            let mut download = server.request("GET", &format!("/rest/v0/vdis/{vdi}.{format}")).open();
            download.take_bytes(1000);
            (download.head.need("Gantry-Task").to_owned(), download)
        })
        .into();
    server.kill();
    let unfinished: Vec<_> = cut.into_iter().map(|(task, _)| task).collect();
    server.start_again();
    assert_eq!(listed(&server), [ended, unfinished].concat());
}

#[test]
fn tasks_go_when_they_are_old_and_those_that_run_stay() {
    let mut server = Setup::default().config("[tasks]\nmax_age = \"2s\"").start();
    let (upload, long) = running(&server);
    let old = imported(&server, 1);
    assert_eq!(listed(&server), [long.clone(), old.clone()]);
    wait_for(&server, &[long]);
    drop(upload);
    wait_for(&server, &[]);
    // A server that was away finds them too old when it starts.
    let old = imported(&server, 2);
    server.kill();
    std::thread::sleep(Duration::from_millis(2100));
    server.start_again();
    server.get(&format!("/rest/v0/tasks/{old}")).refused(404..=404);
}

#[test]
fn ended_tasks_can_be_forgotten_one_by_one_or_all_and_running_ones_cannot() {
    let mut server = Server::start();
    let (upload, long) = running(&server);
    let short: Vec<_> = (0..3).map(|seed| imported(&server, seed)).collect();
    let delete =
        |server: &Server, task: &str| server.request("DELETE", &format!("/rest/v0/tasks{task}")).send();
    delete(&server, &format!("/{}", short[0])).expect(204);
    delete(&server, &format!("/{}", short[0])).refused(404..=404);
    delete(&server, &format!("/{long}")).refused(409..=409);
    server.kill();
    server.start_again();
    assert_eq!(listed(&server), [long.clone(), short[1].clone(), short[2].clone()]);
    drop(upload);
    let (_upload, next) = running(&server);
    delete(&server, "").expect(204);
    assert_eq!(listed(&server), std::slice::from_ref(&next), "all that have ended");
    server.kill();
    server.start_again();
    assert_eq!(listed(&server), [next]);
}
