//! VMs of the local store: made of disks, read, changed, snapshot, taken apart: rest-v0.md §5 to §8, §10 and §13.

mod rights;
mod snapshots;

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::curl::Curl;
use crate::support::disk::noise;
use crate::support::http::Response;
use crate::support::server::{Server, created};
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
