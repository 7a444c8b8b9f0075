//! §11 xo-cli over REST, and §12 what other clients rely on: their requests, as they send them.

use serde_json::{Value, json};

use super::{Site, texts};
use crate::support::disk::noise;
use crate::support::http::{Request, Response};

/// A request as xo-cli sends it: the token in `cookie`, pairs as a JSON body.
fn cli(site: &Site, method: &str, path: &str, pairs: Option<Value>) -> Response {
    let request = Request::new(site.server.address(), method, &format!("/rest/v0/{path}"));
    let request = request.header("cookie", &format!("authenticationToken={}", site.server.token()));
    match pairs {
        Some(pairs) => request.header("content-type", "application/json").body(pairs.to_string()).send(),
        None => request.send(),
    }
}

/// §11: "`get` without `-o` requires a `Content-Type` of `application/json` or `application/x-ndjson`"; "bare `ndjson` becomes
/// `ndjson=`"; "any 2xx is success".
#[test]
fn xo_cli_reads_what_it_asks_for() {
    let site = Site::new();
    let json_or_lines = |path: &str| {
        let response = cli(&site, "GET", path, None).expect(200);
        let kind = response.head.need("Content-Type").split(';').next().unwrap_or_default().to_owned();
        assert!(["application/json", "application/x-ndjson"].contains(&kind.as_str()), "{path}: {kind}");
        response
    };
    for path in [
        "",
        "vms",
        "vms?ndjson=",
        "vms?fields=name_label%2Cid",
        "tasks?ndjson=&fields=*",
        "users",
        "vms/_/actions",
    ] {
        json_or_lines(path);
    }
    json_or_lines("vms?filter=name_label%3A%22from%20an%20archive%22&fields=*");
    for (collection, _, id) in site.kinds() {
        json_or_lines(&format!("{collection}/{id}"));
        json_or_lines(&format!("{collection}/{id}/actions"));
    }
}

/// §11: `patch|post|put` with pairs: "everything else is a string", `{}` when none; the generation that sends `patch`, with
/// `sec-fetch-mode: cors` and `accept-encoding: gzip, deflate`.
#[test]
fn xo_cli_writes_strings_and_is_understood() {
    let site = Site::new();
    let vdi = format!("vdis/{}", site.vdi);
    cli(&site, "PATCH", &vdi, Some(json!({"name_label": "12", "size": "8192"}))).expect(204);
    assert_eq!(site.get(&vdi)["size"], 8192);
    cli(&site, "PATCH", &vdi, Some(json!({}))).expect(204);
    let vm = format!("vms/{}", site.vm);
    let snapshot =
        cli(&site, "POST", &format!("{vm}/actions/snapshot?sync"), Some(json!({"name_label": "true"})));
    snapshot.expect(201).json();
    cli(&site, "POST", &format!("{vm}/actions/snapshot"), Some(json!({}))).expect(202);
    cli(&site, "POST", &format!("srs/{}/actions/scan?sync", site.server.sr()), Some(json!({}))).expect(204);
    cli(&site, "PUT", &format!("{vdi}/tags/x"), Some(json!({}))).expect(204);
    let fetch = site.server.request("patch", &format!("/rest/v0/{vdi}")).header("user-agent", "node");
    let fetch = fetch.header("sec-fetch-mode", "cors").header("accept-language", "*");
    let fetch = fetch.header("accept-encoding", "gzip, deflate").json(&json!({"name_label": "fetched"}));
    fetch.send().expect(204);
    assert_eq!(site.get(&vdi)["name_label"], "fetched");
    // `--input`: the body is the file, and pairs go to the query (`raw` → `raw=`).
    let target = format!("/rest/v0/srs/{}/vdis?raw=&name_label=cli", site.server.sr());
    let upload = site.server.request("POST", &target).header("content-type", "application/octet-stream");
    upload.clone().body(noise(4096, 1)).send().expect(201);
    upload.send_chunked(&noise(4096, 1), 999).expect(201);
    cli(&site, "DELETE", &vdi, None).expect(204);
}

/// §12, Terraform provider / Go SDK v1: "VDI upload `POST /srs/<id>/vdis?raw=true&name_label=…`, `Content-Length`, cookie;
/// answer must be 201 with JSON `id`". Go SDK v2: "`fields=*` on lists, JSON arrays; `{taskId}` from actions; integer ms
/// dates; VDI content `GET/PUT /vdis/<id>.<fmt>`".
#[test]
fn the_go_sdks_find_what_they_decode() {
    let site = Site::new();
    let target = site.server.import_target("?raw=true&name_label=go");
    let made = site.server.request("POST", &target).body(noise(4096, 2)).send().expect(201);
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    for (collection, _, _) in site.kinds() {
        let list = site.get(&format!("{collection}?fields=*"));
        assert!(list.as_array().is_some_and(|list| !list.is_empty()), "{collection}");
    }
    let task = site.send("POST", &format!("vms/{}/actions/snapshot", site.vm)).expect(202).json();
    let task = site.server.task_ended(task["taskId"].as_str().expect("an id"));
    assert!(task["start"].is_i64() && task["end"].is_i64() && task["result"]["id"].is_string(), "{task}");
    let target = format!("/rest/v0/vdis/{id}.raw");
    site.server.request("PUT", &target).body(noise(4096, 3)).send().expect(204);
    assert!(site.server.get(&target).expect(200).body == noise(4096, 3));
}

/// §12, Ansible: the members of VMs and hosts that its inventory needs. xoadmin: link strings of `GET /srs`.
#[test]
fn inventories_find_the_members_that_they_need() {
    let site = Site::new();
    let vm = site.get(&format!("vms/{}", site.vm));
    for member in ["name_label", "power_state", "$poolId", "$container", "tags", "type"] {
        assert!(vm[member].is_string() || vm[member].is_array(), "{member} of {vm:#}");
    }
    assert!(vm["CPUs"]["number"].is_u64() && vm["memory"]["size"].is_u64() && vm.get("os_version").is_some());
    let host = site.get(&format!("hosts/{}", site.host));
    for member in
        ["uuid", "name_label", "$poolId", "hostname", "address", "version", "power_state", "productBrand"]
    {
        assert!(host[member].is_string(), "{member} of {host:#}");
    }
    assert!(host["enabled"].is_boolean() && host["memory"].is_object() && host["cpus"].is_object());
    assert_eq!(texts(&site.get("srs")), [format!("/rest/v0/srs/{}", site.server.sr())]);
}

/// §12, xo-powershell: "`fields=` lists, `filter`, PATCH on vms/srs/hosts/pools/networks/pifs/vifs/vdis, task links"; its
/// bodies are forms. "One PowerShell client parses `/rest/v0/tasks/([0-9a-z]+)`".
#[test]
fn powershell_sends_forms_and_parses_the_link_of_a_task() {
    let site = Site::new();
    for (collection, _, id) in site.kinds().iter().filter(|(name, _, _)| !matches!(*name, "vbds" | "vifs")) {
        site.send_form("PATCH", &format!("{collection}/{id}"), "name_label=posh&name_description=a+b")
            .expect(204);
        let found = site.get(&format!("{collection}?filter=name_label:posh&fields=id,name_description"));
        assert_eq!(found[0]["name_description"], "a b", "{collection}");
    }
    let head =
        site.send_form("POST", &format!("vms/{}/actions/snapshot", site.vm), "name_label=p").expect(202).head;
    let task = head.need("Location").strip_prefix("/rest/v0/tasks/").expect("a link to a task").to_owned();
    assert!(!task.is_empty() && task.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()), "{task}");
}

/// §12, `@xen-orchestra/mcp`: lists with `fields` and `markdown=true`, header `X-XO-Client: mcp`. Monitoring templates: `GET
/// /rest/v0` with a cookie answers 200 when the token is valid.
#[test]
fn assistants_get_tables_and_monitors_a_200() {
    let site = Site::new();
    let request = site.server.request("GET", "/rest/v0/vms?fields=id,name_label,power_state&markdown=true");
    let table = request.header("X-XO-Client", "mcp").send().expect(200);
    assert!(table.text().contains("| from an archive |"), "{}", table.text());
    site.send("GET", "").expect(200);
    let wrong = site.server.request("GET", "/rest/v0").anonymous().header("Cookie", "authenticationToken=x");
    wrong.send().refused(401..=401);
}
