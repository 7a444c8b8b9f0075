//! VMs of the local store: made of disks, read, changed, snapshot, taken apart: rest-v0.md §5 to §8, §10 and §13.

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::curl::Curl;
use crate::support::disk::noise;
use crate::support::http::{Request, Response};
use crate::support::server::{Server, Setup, created, gantry};
use crate::support::stream::{events, subscribe};

const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

fn disk(server: &Server, name: &str, seed: u64) -> String {
    server.import(&format!("?raw&name_label={name}"), noise(MIB as usize, seed))
}

fn post(server: &Server, target: &str, body: &Value) -> Response {
    server.request("POST", &format!("/rest/v0/{target}")).json(body).send()
}

fn vm(server: &Server, name: &str, vdis: &[&str]) -> String {
    created(&post(server, "vms", &json!({"name_label": name, "vdis": vdis})), "vms")
}

fn snapshot(server: &Server, vm: &str, name: &str) -> String {
    let body = json!({ "name_label": name });
    created(&post(server, &format!("vms/{vm}/actions/snapshot?sync"), &body), "vm-snapshots")
}

fn get(server: &Server, target: &str) -> Value {
    server.json(&format!("/rest/v0/{target}"))
}

fn delete(server: &Server, target: &str) {
    server.request("DELETE", &format!("/rest/v0/{target}")).send().expect(204);
}

fn gone(server: &Server, target: &str) {
    server.get(&format!("/rest/v0/{target}")).refused(404..=404);
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().unwrap_or_else(|| panic!("no array: {value}"));
    list.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
}

#[track_caller]
fn has(object: &Value, members: &str, is: impl Fn(&Value) -> bool) {
    for member in members.split_whitespace() {
        assert!(object.get(member).is_some_and(&is), "{member} of {object:#}");
    }
}

#[track_caller]
fn has_every_member_of_a_vm(object: &Value) {
    has(
        object,
        "id type uuid $pool $poolId _xapiRef name_label name_description power_state $container \
         high_availability virtualizationMode",
        Value::is_string,
    );
    has(object, "tags $VBDs VIFs VGPUs $VGPUs VTPMs snapshots", Value::is_array);
    has(
        object,
        "CPUs memory addresses boot bios_strings xenStoreData other blockedOperations current_operations",
        Value::is_object,
    );
    has(
        object,
        "auto_poweron hasVendorDevice secureBoot viridian expNestedHvm isNestedVirtEnabled isFirmwareSupported \
         needsVtpm",
        Value::is_boolean,
    );
    has(object, "os_version", |version| version.is_null() || version.is_object());
    has(object, "startDelay", Value::is_u64);
    has(&object["CPUs"], "max number", Value::is_u64);
    has(&object["memory"], "size", Value::is_u64);
    has(&object["memory"], "dynamic static", |range| range.as_array().is_some_and(|range| range.len() == 2));
    assert_eq!(object["id"], object["uuid"]);
}

#[test]
fn a_vm_is_made_of_disks_and_has_every_member() {
    let server = Server::start();
    let (first, second) = (disk(&server, "one", 1), disk(&server, "two", 2));
    let body = json!({"name_label": "web", "name_description": "front", "cpus": 4, "memory": 2048 * MIB,
                      "vdis": [first, second]});
    let id = created(&post(&server, "vms", &body), "vms");
    let object = get(&server, &format!("vms/{id}"));
    has_every_member_of_a_vm(&object);
    assert_eq!((&object["type"], &object["power_state"]), (&json!("VM"), &json!("Halted")));
    assert_eq!((&object["name_label"], &object["name_description"]), (&json!("web"), &json!("front")));
    assert_eq!(object["CPUs"], json!({"max": 4, "number": 4}));
    let bytes = 2048 * MIB;
    assert_eq!(object["memory"], json!({"size": bytes, "dynamic": [bytes, bytes], "static": [bytes, bytes]}));
    assert_eq!(object["boot"], json!({"order": "dc", "firmware": "bios"}));
    assert_eq!(object["virtualizationMode"], "hvm");
    assert_eq!(object["$container"], get(&server, &format!("srs/{}", server.sr()))["$container"]);
    let vbds = texts(&object["$VBDs"]);
    assert_eq!(vbds.len(), 2);
    for (number, (vbd, vdi)) in vbds.iter().zip([&first, &second]).enumerate() {
        let shown = get(&server, &format!("vbds/{vbd}"));
        has(&shown, "id type uuid $pool $poolId _xapiRef position VM VDI", Value::is_string);
        has(&shown, "attached bootable is_cd_drive read_only", Value::is_boolean);
        has(&shown, "device", Value::is_null);
        assert_eq!((&shown["VM"], &shown["VDI"]), (&json!(id), &json!(vdi)));
        assert_eq!(
            (&shown["position"], &shown["bootable"]),
            (&json!(number.to_string()), &json!(number == 0))
        );
        assert_eq!(get(&server, &format!("vdis/{vdi}"))["$VBDs"], json!([vbd]));
    }
    let bare = vm(&server, "no disks", &[]);
    let object = get(&server, &format!("vms/{bare}"));
    has_every_member_of_a_vm(&object);
    assert_eq!(object["$container"], object["$pool"], "it lies nowhere");
}

#[test]
fn a_vm_that_cannot_be_is_refused_and_leaves_nothing() {
    let server = Server::start();
    let (one, two) = (disk(&server, "one", 1), disk(&server, "two", 2));
    let owner = vm(&server, "owner", &[&two]);
    let taken = snapshot(&server, &owner, "s");
    let snapshots = get(&server, &format!("vm-snapshots/{taken}/vdis"));
    let frozen = texts(&snapshots)[0].rsplit('/').next().expect("an id").to_owned();
    let with = |name: &str, value: Value| {
        let mut body = json!({"name_label": "x", "vdis": [one]});
        body[name] = value;
        body
    };
    for body in [
        json!({"vdis": [one]}),
        json!({"name_label": "x"}),
        json!({"name_label": 5, "vdis": []}),
        json!({"name_label": "x", "vdis": one}),
        json!({"name_label": "x", "vdis": [5]}),
        json!({"name_label": "x", "vdis": [one, one]}),
        json!({"name_label": "x", "vdis": [one, frozen]}),
        with("cpus", json!(0)),
        with("cpus", json!(100_000)),
        with("cpus", json!("many")),
        with("memory", json!(1)),
        with("memory", json!(-1)),
        with("memory", json!(u64::MAX)),
        with("nonsense", json!(1)),
    ] {
        post(&server, "vms", &body).refused(422..=422);
    }
    for missing in [NOBODY, "nonsense", server.sr()] {
        let refusal =
            post(&server, "vms", &json!({"name_label": "x", "vdis": [one, missing]})).refused(404..=404);
        assert_eq!(refusal.body["data"], json!({"id": missing, "type": "VDI"}));
    }
    assert_eq!(texts(&get(&server, "vms")), [format!("/rest/v0/vms/{owner}")]);
    assert_eq!(get(&server, &format!("vdis/{one}"))["$VBDs"], json!([]));
}

#[test]
fn vms_snapshots_and_templates_are_found_in_their_own_collections_alone() {
    let server = Server::start();
    let id = vm(&server, "vm", &[]);
    let taken = snapshot(&server, &id, "s");
    for (collection, kind, there) in [
        ("vms", "VM", Some(&id)),
        ("vm-snapshots", "VM-snapshot", Some(&taken)),
        ("vm-templates", "VM-template", None),
    ] {
        let links: Vec<_> = there.iter().map(|id| format!("/rest/v0/{collection}/{id}")).collect();
        assert_eq!(texts(&get(&server, collection)), links);
        for other in
            [&id, &taken, NOBODY].into_iter().filter(|other| Some(*other) != there.map(String::as_str))
        {
            for method in ["GET", "DELETE", "PATCH"] {
                let request = server.request(method, &format!("/rest/v0/{collection}/{other}"));
                let refusal = request.send().refused(404..=404);
                assert_eq!(refusal.body["data"], json!({"id": other, "type": kind}), "{method}");
            }
        }
    }
}

#[test]
fn collections_of_vms_take_filters_fields_and_limits() {
    let server = Server::start();
    for name in ["web-1", "web-2", "db"] {
        let body = json!({"name_label": name, "cpus": if name == "db" { 8 } else { 2 }, "vdis": []});
        created(&post(&server, "vms", &body), "vms");
    }
    let names = |query: &str| {
        let found = get(&server, &format!("vms?fields=name_label,CPUs.number&{query}"));
        let mut names: Vec<_> = found
            .as_array()
            .expect("an array")
            .iter()
            .map(|vm| vm["name_label"].as_str().expect("a name").to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("filter=name_label:/^web/"), ["web-1", "web-2"]);
    assert_eq!(names("filter=CPUs:number:%3E4"), ["db"]);
    assert_eq!(names("filter=power_state:Running"), Vec::<String>::new());
    assert_eq!(names("limit=2").len(), 2);
    let lines = server.get("/rest/v0/vms?ndjson=true&fields=id").expect(200);
    assert_eq!(lines.text().lines().count(), 3);
}

#[test]
fn names_and_tags_of_vms_and_snapshots_change_in_both_spellings_and_stay() {
    let mut server = Server::start();
    let id = vm(&server, "vm", &[&disk(&server, "d", 1)]);
    let targets = [format!("vms/{id}"), format!("vm-snapshots/{}", snapshot(&server, &id, "s"))];
    let patch = |server: &Server, target: &str, body: Value| {
        server.request("PATCH", &format!("/rest/v0/{target}")).json(&body).send()
    };
    for target in &targets {
        patch(&server, target, json!({"name_label": "a", "name_description": "b"})).expect(204);
        patch(&server, target, json!({"nameLabel": "c", "tags": ["x", "y"]})).expect(204);
        patch(&server, target, json!({})).expect(204);
        for refused in [json!({"memory": 5}), json!({"name_label": 5}), json!({"power_state": "Running"})] {
            patch(&server, target, refused).refused(422..=422);
        }
        server.request("PUT", &format!("/rest/v0/{target}/tags/a%20b")).send().expect(204);
        server.request("DELETE", &format!("/rest/v0/{target}/tags/x")).send().expect(204);
    }
    let vbd = texts(&get(&server, &targets[0])["$VBDs"])[0].clone();
    patch(&server, &format!("vbds/{vbd}"), json!({})).expect(204);
    patch(&server, &format!("vbds/{vbd}"), json!({"name_label": "x"})).refused(422..=422);
    server.request("PUT", &format!("/rest/v0/vbds/{vbd}/tags/x")).send().refused(404..=404);
    let before: Vec<_> = targets.iter().map(|target| get(&server, target)).collect();
    for object in &before {
        assert_eq!((&object["name_label"], &object["name_description"]), (&json!("c"), &json!("b")));
        assert_eq!(object["tags"], json!(["y", "a b"]));
    }
    server.kill();
    server.start_again();
    let after: Vec<_> = targets.iter().map(|target| get(&server, target)).collect();
    assert_eq!(after, before);
    assert_eq!(get(&server, &format!("vbds/{vbd}"))["VM"], json!(id));
}

#[test]
fn a_snapshot_is_taken_at_once_with_its_disks_and_survives_a_restart() {
    let mut server = Server::start();
    let (first, second) = (disk(&server, "one", 1), disk(&server, "two", 2));
    let id = vm(&server, "vm", &[&first, &second]);
    let taken = snapshot(&server, &id, "before");
    let object = get(&server, &format!("vm-snapshots/{taken}"));
    has_every_member_of_a_vm(&object);
    has(&object, "snapshot_time", Value::is_u64);
    assert_eq!((&object["type"], &object["$snapshot_of"]), (&json!("VM-snapshot"), &json!(id)));
    assert_eq!((&object["name_label"], &object["snapshots"]), (&json!("before"), &json!([])));
    assert_eq!(get(&server, &format!("vms/{id}"))["snapshots"], json!([taken]));
    let links = texts(&get(&server, &format!("vm-snapshots/{taken}/vdis")));
    assert_eq!(links.len(), 2);
    let check = |server: &Server| {
        for (link, (origin, seed)) in links.iter().zip([(&first, 1), (&second, 2)]) {
            let shown = server.json(link);
            assert_eq!((&shown["type"], &shown["$snapshot_of"]), (&json!("VDI-snapshot"), &json!(origin)));
            assert_eq!(get(server, &format!("vdis/{origin}"))["snapshots"], json!([shown["id"]]));
            let bytes = server.get(&format!("{link}.raw")).expect(200).body;
            assert!(bytes == noise(MIB as usize, seed), "the disk as it was");
        }
    };
    check(&server);
    server.kill();
    server.start_again();
    check(&server);
    assert_eq!(get(&server, &format!("vm-snapshots/{taken}")), object);
}

#[test]
fn a_snapshot_is_a_task_unless_its_end_is_waited_for() {
    let server = Server::start();
    let id = vm(&server, "vm", &[&disk(&server, "d", 1)]);
    let target = format!("/rest/v0/vms/{id}/actions/snapshot");
    let answer = server.request("POST", &target).send().expect(202);
    let task = answer.json()["taskId"].as_str().expect("a task").to_owned();
    assert_eq!(answer.head.need("Location"), format!("/rest/v0/tasks/{task}"));
    assert_eq!(answer.json(), json!({"taskId": task}));
    let ended = server.task_ended(&task);
    assert_eq!(ended["status"], "success", "{ended:#}");
    assert_eq!(
        (&ended["properties"]["type"], &ended["properties"]["objectId"]),
        (&json!("vm.snapshot"), &json!(id))
    );
    let taken = ended["result"]["id"].as_str().expect("an id").to_owned();
    let name = get(&server, &format!("vm-snapshots/{taken}"))["name_label"].clone();
    let date =
        name.as_str().and_then(|name| name.strip_prefix("vm_")).expect("the VM's name and a date").to_owned();
    assert!(date.len() == 24 && date.ends_with('Z') && date.as_bytes()[10] == b'T', "{date}");
    let form = server.request("POST", &format!("{target}?sync=true"));
    let form = form.header("Content-Type", "application/x-www-form-urlencoded").body("name_label=by+form");
    let by_form = created(&form.send(), "vm-snapshots");
    assert_eq!(get(&server, &format!("vm-snapshots/{by_form}"))["name_label"], "by form");
    assert_eq!(get(&server, &format!("vms/{id}"))["snapshots"], json!([taken, by_form]), "oldest first");
    let tasks = get(&server, &format!("vms/{id}/tasks?fields=id"));
    assert_eq!(tasks.as_array().map(Vec::len), Some(2));
}

#[test]
fn requests_with_a_key_make_a_vm_and_a_snapshot_once() {
    let server = Server::start();
    let vdi = disk(&server, "d", 1);
    let with_key = |target: &str, body: &Value| {
        server.request("POST", target).header("Idempotency-Key", "once").json(body).send()
    };
    let body = json!({"name_label": "vm", "vdis": [vdi]});
    let made = || created(&with_key("/rest/v0/vms", &body), "vms");
    let id = made();
    assert_eq!(made(), id);
    let target = format!("/rest/v0/vms/{id}/actions/snapshot");
    let asked = || with_key(&target, &json!({})).expect(202).json()["taskId"].clone();
    let task = asked();
    server.task_ended(task.as_str().expect("a task"));
    assert_eq!(asked(), task);
    assert_eq!(texts(&get(&server, "vms")).len(), 1);
    assert_eq!(texts(&get(&server, "vm-snapshots")).len(), 1);
}

#[test]
fn what_cannot_be_done_to_a_vm_is_not_listed_and_says_why() {
    let server = Server::start();
    let id = vm(&server, "vm", &[]);
    let taken = snapshot(&server, &id, "s");
    for name in [id.as_str(), "_"] {
        let links = texts(&get(&server, &format!("vms/{name}/actions")));
        assert_eq!(links, [format!("/rest/v0/vms/{name}/actions/snapshot")]);
        let schema = get(&server, &format!("vms/{name}/actions/snapshot"));
        assert_eq!(schema["params"]["name_label"], json!({"type": "string", "optional": true}));
    }
    assert_eq!(get(&server, &format!("vm-snapshots/{taken}/actions")), json!([]));
    gone(&server, &format!("vms/{NOBODY}/actions"));
    gone(&server, "vms/_/actions/start");
    for (target, why) in [
        (format!("vms/{id}/actions/start"), "does not run"),
        (format!("vms/{id}/actions/clean_shutdown"), "does not run"),
        (format!("vm-snapshots/{taken}/actions/snapshot"), "snapshot or a template"),
    ] {
        let refusal = post(&server, &target, &json!({})).refused(404..=404);
        assert_eq!(refusal.code, "no_such_action");
        assert!(refusal.text.contains(why), "{}", refusal.text);
    }
    post(&server, &format!("vms/{NOBODY}/actions/snapshot"), &json!({})).refused(404..=404);
    post(&server, &format!("vms/{taken}/actions/snapshot"), &json!({})).refused(404..=404);
    post(&server, &format!("vms/{id}/actions/snapshot"), &json!({"name_label": 5})).refused(422..=422);
    post(&server, &format!("vms/{id}/actions/snapshot"), &json!({"nonsense": 5})).refused(422..=422);
    assert_eq!(get(&server, &format!("vms/{id}"))["snapshots"], json!([taken]));
}

#[test]
fn the_disks_of_a_vm_are_a_collection_with_links_to_the_disks() {
    let server = Server::start();
    let (one, two) = (disk(&server, "one", 1), disk(&server, "two", 2));
    let id = vm(&server, "vm", &[&two, &one]);
    let target = format!("vms/{id}/vdis");
    assert_eq!(texts(&get(&server, &target)), [&two, &one].map(|id| format!("/rest/v0/vdis/{id}")));
    let found = get(&server, &format!("{target}?fields=name_label,size&filter=name_label:one"));
    assert_eq!(found, json!([{"name_label": "one", "size": MIB, "href": format!("/rest/v0/vdis/{one}")}]));
    assert_eq!(texts(&get(&server, &format!("{target}?limit=1"))).len(), 1);
    let lines = server.get(&format!("/rest/v0/{target}/?ndjson")).expect(200);
    assert_eq!(lines.text().lines().count(), 2);
    gone(&server, &format!("vms/{NOBODY}/vdis"));
    gone(&server, &format!("vm-snapshots/{id}/vdis"));
    server.get(&format!("/rest/v0/{target}?limit=x")).refused(422..=422);
}

#[test]
fn deleting_a_vm_takes_its_snapshots_and_the_disks_that_no_other_vm_uses() {
    let server = Server::start();
    let (own, shared) = (disk(&server, "own", 1), disk(&server, "shared", 2));
    let (id, other) = (vm(&server, "a", &[&own, &shared]), vm(&server, "b", &[&shared]));
    let taken = snapshot(&server, &id, "s");
    let vbds = texts(&get(&server, &format!("vms/{id}"))["$VBDs"]);
    delete(&server, &format!("vms/{id}"));
    for target in [format!("vms/{id}"), format!("vm-snapshots/{taken}"), format!("vdis/{own}")] {
        gone(&server, &target);
    }
    vbds.iter().for_each(|vbd| gone(&server, &format!("vbds/{vbd}")));
    assert_eq!(get(&server, "vdi-snapshots"), json!([]));
    assert_eq!(texts(&get(&server, &format!("vdis/{shared}"))["$VBDs"]).len(), 1);
    assert!(server.export_bytes(&shared, "raw") == noise(MIB as usize, 2));
    server.request("DELETE", &format!("/rest/v0/vms/{id}")).send().refused(404..=404);
    delete(&server, &format!("vms/{other}"));
    server.assert_empty("VMs that were deleted");
}

#[test]
fn deleting_a_snapshot_leaves_the_vm_and_its_disks() {
    let server = Server::start();
    let vdi = disk(&server, "d", 1);
    let id = vm(&server, "vm", &[&vdi]);
    let taken = snapshot(&server, &id, "s");
    delete(&server, &format!("vm-snapshots/{taken}"));
    assert_eq!(get(&server, "vdi-snapshots"), json!([]));
    assert_eq!(get(&server, &format!("vms/{id}"))["snapshots"], json!([]));
    assert_eq!(get(&server, &format!("vdis/{vdi}"))["snapshots"], json!([]));
    assert!(server.export_bytes(&vdi, "raw") == noise(MIB as usize, 1));
}

#[test]
fn a_disk_is_attached_and_detached() {
    let server = Server::start();
    let vdis = ["a", "b", "c", "d"].map(|name| disk(&server, name, 1));
    let id = vm(&server, "vm", &[&vdis[0]]);
    let attach = |body: Value| post(&server, "vbds", &body);
    let read_only = json!({"VM": id, "VDI": vdis[1], "mode": "RO", "bootable": true, "userdevice": "2"});
    let read_only = created(&attach(read_only), "vbds");
    let shown = get(&server, &format!("vbds/{read_only}"));
    assert_eq!(
        (&shown["read_only"], &shown["bootable"], &shown["position"]),
        (&json!(true), &json!(true), &json!("2"))
    );
    let next = created(&attach(json!({"VM": id, "VDI": vdis[2]})), "vbds");
    assert_eq!(get(&server, &format!("vbds/{next}"))["position"], "1", "the first that is free");
    let links = texts(&get(&server, &format!("vms/{id}/vdis")));
    assert_eq!(links, [0, 2, 1].map(|number| format!("/rest/v0/vdis/{}", vdis[number])));
    let taken = snapshot(&server, &id, "s");
    for (status, body) in [
        (404, json!({"VM": NOBODY, "VDI": vdis[3]})),
        (404, json!({"VM": id, "VDI": NOBODY})),
        (404, json!({"VM": "x", "VDI": vdis[3]})),
        (409, json!({"VM": id, "VDI": vdis[3], "position": 2})),
        (409, json!({"VM": id, "VDI": vdis[3], "position": 255})),
        (409, json!({"VM": taken, "VDI": vdis[3]})),
        (422, json!({"VM": id, "VDI": vdis[1]})),
        (422, json!({"VM": id, "VDI": vdis[3], "mode": "WR"})),
        (422, json!({"VM": id, "VDI": vdis[3], "position": "first"})),
        (422, json!({"VM": id, "VDI": vdis[3], "nonsense": 1})),
        (422, json!({"VM": id})),
        (422, json!({"VDI": vdis[3]})),
    ] {
        attach(body).refused(status..=status);
    }
    delete(&server, &format!("vbds/{next}"));
    gone(&server, &format!("vbds/{next}"));
    server.request("DELETE", &format!("/rest/v0/vbds/{next}")).send().refused(404..=404);
    assert_eq!(get(&server, &format!("vdis/{}", vdis[2]))["$VBDs"], json!([]), "the disk stays");
    let frozen = texts(&get(&server, &format!("vm-snapshots/{taken}"))["$VBDs"])[0].clone();
    server.request("DELETE", &format!("/rest/v0/vbds/{frozen}")).send().refused(409..=409);
}

#[test]
fn a_vbd_goes_with_its_disk() {
    let server = Server::start();
    let (one, two) = (disk(&server, "one", 1), disk(&server, "two", 2));
    let id = vm(&server, "vm", &[&one, &two]);
    let vbds = texts(&get(&server, &format!("vms/{id}"))["$VBDs"]);
    delete(&server, &format!("vdis/{one}"));
    gone(&server, &format!("vbds/{}", vbds[0]));
    assert_eq!(get(&server, &format!("vms/{id}"))["$VBDs"], json!(vbds[1..]));
}

#[test]
fn disks_of_a_read_only_sr_are_not_snapshot_and_go_with_the_sr_when_it_is_forgotten() {
    let server = Setup::default().config("[storage]\nsr_roots = [\"{scratch}/roots\"]").start();
    let (folder, there) = (server.path("roots/sr"), "11111111-2222-4333-8444-555555555555");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    std::fs::write(folder.join(format!("{there}.raw")), noise(MIB as usize, 3)).expect("there is room");
    let body = json!({"name_label": "attached", "path": folder, "read_only": true});
    let sr = post(&server, "srs", &body).expect(201).json()["id"].as_str().expect("an id").to_owned();
    let own = disk(&server, "own", 1);
    let id = vm(&server, "vm", &[&own, there]);
    let target = format!("vms/{id}/actions/snapshot");
    let refusal = post(&server, &format!("{target}?sync"), &json!({})).refused(409..=409);
    assert_eq!(refusal.code, "sr_read_only");
    let task = post(&server, &target, &json!({})).expect(202).json()["taskId"].clone();
    let ended = server.task_ended(task.as_str().expect("a task"));
    assert_eq!(ended["status"], "failure", "{ended:#}");
    assert!(ended["result"]["message"].as_str().is_some_and(|text| text.contains("read-only")), "{ended:#}");
    assert_eq!((get(&server, "vm-snapshots"), get(&server, "vdi-snapshots")), (json!([]), json!([])));

    let (mut stream, connection) = events(&server);
    subscribe(&server, &connection, json!({"collection": "VM", "fields": ["$VBDs"]}));
    let vbds = texts(&get(&server, &format!("vms/{id}"))["$VBDs"]);
    post(&server, &format!("srs/{sr}/actions/forget"), &json!({})).expect(204);
    stream.event_where("update", "VM", |vm| vm["$VBDs"] == json!(vbds[..1]));
    gone(&server, &format!("vbds/{}", vbds[1]));
    delete(&server, &format!("vms/{id}"));
    server.assert_empty("a VM that was deleted");
}

#[test]
fn subscribers_hear_of_vms_and_vbds_as_they_come_change_and_go() {
    let server = Server::start();
    let vdi = disk(&server, "d", 1);
    let (mut stream, connection) = events(&server);
    let fields = json!(["id", "name_label", "snapshots", "$VBDs"]);
    for kind in ["VM", "VM-snapshot", "VBD", "VDI", "VDI-snapshot"] {
        subscribe(&server, &connection, json!({"collection": kind, "fields": fields}));
    }
    let id = vm(&server, "vm", &[&vdi]);
    let added = stream.event_where("add", "VM", |_| true);
    assert_eq!((&added["id"], &added["name_label"]), (&json!(id), &json!("vm")));
    let vbd = get(&server, &format!("vms/{id}"))["$VBDs"][0].clone();
    stream.event_where("update", "VDI", |vdi| vdi["$VBDs"] == json!([vbd]));
    server
        .request("PATCH", &format!("/rest/v0/vms/{id}"))
        .json(&json!({"name_label": "b"}))
        .send()
        .expect(204);
    stream.event_where("update", "VM", |vm| vm["name_label"] == "b");
    let taken = snapshot(&server, &id, "s");
    // Kinds are told of by themselves: what comes of one may come before what comes of another.
    let mut left = vec![
        ("add", "VM-snapshot", json!(taken)),
        ("update", "VM", json!(id)),
        ("update", "VDI", json!(vdi)),
        ("add", "VDI-snapshot", Value::Null),
    ];
    while !left.is_empty() {
        let (name, data) = stream.event();
        left.retain(|(event, kind, id)| {
            *event != name || data["$subscription"] != *kind || (!id.is_null() && data["id"] != *id)
        });
    }
    delete(&server, &format!("vdis/{vdi}"));
    stream.event_where("remove", "VBD", |data| data["id"] == vbd);
    let update = |vm: &Value| vm["$VBDs"] == json!([]);
    let (mut again, connection) = events(&server);
    subscribe(&server, &connection, json!({"collection": "VM", "fields": fields}));
    assert!(update(&get(&server, &format!("vms/{id}"))));
    delete(&server, &format!("vms/{id}"));
    assert_eq!(again.event_where("remove", "VM", |_| true)["id"], json!(id));
    stream.event_where("remove", "VM-snapshot", |data| data["id"] == json!(taken));
}

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

#[test]
fn the_documented_curl_line_makes_a_vm() {
    let server = Server::start();
    let vdi = disk(&server, "d", 1);
    let body = json!({"name_label": "by curl", "vdis": [vdi]}).to_string();
    let json = ["-H", "Content-Type: application/json", "-H", "Expect: 100-continue"];
    let curl = Curl::new(&server).args(["-X", "POST", "-d", &body]).args(json);
    let done = curl.run(&server.url("/rest/v0/vms"));
    assert_eq!((done.exit, done.status), (0, 201), "{done:?}");
    let id = done.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(get(&server, &format!("vms/{id}"))["name_label"], "by curl");
}
