//! Who sees VMs and may do what to them.

use serde_json::json;

use super::{disk, get, post, texts, vm};
use crate::support::MIB;
use crate::support::http::Request;
use crate::support::server::{Server, created, gantry};

/// A new user's token, limited to these objects.
fn limited(server: &Server, user: &str, arguments: &[&str]) -> String {
    let run = |words: &[&str]| {
        let output = gantry(words).arg("--data").arg(server.data()).output().expect("the program runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    run(&["user", "add", user, "--role", "operator"]);
    run(&[&["token", "create", "--user", user], arguments].concat())
}

fn by(server: &Server, token: &str, method: &str, target: &str) -> Request {
    let cookie = format!("authenticationToken={token}");
    server.request(method, &format!("/rest/v0/{target}")).anonymous().header("Cookie", &cookie)
}

#[test]
fn a_limited_token_sees_its_vms_and_those_whose_disks_all_lie_in_its_srs() {
    let server = Server::start();
    let second = post(&server, "srs", &json!({"name_label": "second"})).expect(201).json();
    let second = second["id"].as_str().expect("an id");
    let empty = json!({"srId": second, "virtual_size": MIB});
    let elsewhere = created(&post(&server, "vdis", &empty), "vdis");
    let (here, more) = (disk(&server, "here", 1), disk(&server, "more", 2));
    let (inside, across) = (vm(&server, "inside", &[&here]), vm(&server, "across", &[&more, &elsewhere]));
    let link = |id: &str| format!("/rest/v0/vms/{id}");

    let of_sr = limited(&server, "ann", &["--sr", server.sr()]);
    let ask = |method: &str, target: &str| by(&server, &of_sr, method, target);
    assert_eq!(texts(&ask("GET", "vms").send().expect(200).json()), [link(&inside)]);
    let vbds = ask("GET", "vbds?fields=VM").send().expect(200).json();
    assert!(vbds.as_array().expect("an array").iter().all(|vbd| vbd["VM"] == json!(inside)), "{vbds}");
    ask("GET", &format!("vms/{across}")).send().refused(403..=403);
    ask("GET", &format!("vms/{across}/vdis")).send().refused(403..=403);
    ask("DELETE", &format!("vms/{across}")).send().refused(403..=403);
    ask("PATCH", &format!("vms/{across}")).json(&json!({"name_label": "x"})).send().refused(403..=403);
    ask("POST", &format!("vms/{across}/actions/snapshot")).json(&json!({})).send().refused(403..=403);
    let body = json!({"name_label": "x", "vdis": [elsewhere]});
    ask("POST", "vms").json(&body).send().refused(403..=403);
    let body = json!({"VM": inside, "VDI": elsewhere});
    ask("POST", "vbds").json(&body).send().refused(403..=403);
    ask("POST", &format!("vms/{inside}/actions/snapshot?sync")).json(&json!({})).send().expect(201);
    ask("DELETE", &format!("vms/{inside}")).send().expect(204);

    let of_vm = limited(&server, "bob", &["--object", &across]);
    let ask = |method: &str, target: &str| by(&server, &of_vm, method, target);
    assert_eq!(texts(&ask("GET", "vms").send().expect(200).json()), [link(&across)]);
    assert_eq!(texts(&ask("GET", "vbds").send().expect(200).json()).len(), 2, "parts of what it sees");
    assert_eq!(ask("GET", &format!("vms/{across}/vdis")).send().expect(200).json(), json!([]));
    ask("PATCH", &format!("vms/{across}")).json(&json!({"name_label": "x"})).send().expect(204);
    ask("DELETE", &format!("vms/{across}")).send().refused(403..=403);
    assert_eq!(get(&server, &format!("vms/{across}"))["name_label"], "x");
}

#[test]
fn a_viewer_reads_vms_and_changes_nothing() {
    let server = Server::start();
    let vdi = disk(&server, "d", 1);
    let id = vm(&server, "vm", &[&vdi]);
    let run = |words: &[&str]| {
        let output = gantry(words).arg("--data").arg(server.data()).output().expect("the program runs");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    run(&["user", "add", "eve", "--role", "viewer"]);
    let token = run(&["token", "create", "--user", "eve"]);
    by(&server, &token, "GET", &format!("vms/{id}")).send().expect(200);
    by(&server, &token, "GET", &format!("vms/{id}/vdis")).send().expect(200);
    for (method, target) in [
        ("POST", "vms".to_owned()),
        ("POST", "vbds".to_owned()),
        ("POST", format!("vms/{id}/actions/snapshot")),
        ("PATCH", format!("vms/{id}")),
        ("PUT", format!("vms/{id}/tags/x")),
        ("DELETE", format!("vms/{id}")),
    ] {
        by(&server, &token, method, &target).send().refused(403..=403);
    }
    by(&server, "nonsense", "GET", "vms").send().refused(401..=401);
}
