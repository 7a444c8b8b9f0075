//! The contract, section by section and table by table: what clients that were written for Xen Orchestra rely on. Each
//! test says in its first lines which row it proves; `→` is the contract's own mark for what this server does where the
//! eras of Xen Orchestra differ. Tests elsewhere go deeper where a row is a subject of its own:
//!
//! | rows | tests |
//! | --- | --- |
//! | §2 slowing of failed logins, renewal by client id, roles | `auth`, `users`, `vms/rights` |
//! | §2 JSON-RPC | its own tests |
//! | §5 the filter language | `filter`, and every vector of `corpus/filter/vectors.json` |
//! | §9 ranges, resume, conditions | `ranges`, `preconditions`, `restarts` |
//! | §9 what other people's tools read and write | `disks`, `xva`, `vhd_legal`, `vhd_refused`, `uploads`, `refusals` |
//! | §10 events under load, `watch` | `events`, `watch` |
//! | §10 tasks that are paused, aborted, cut | `tasks`, `control`, `crashes`, `kills` |
//! | §13 members of objects that nothing can make here | unit tests of `inventory` |

mod actions;
mod authentication;
mod changes;
mod clients;
mod collections;
mod conventions;
mod errors;
mod large;
mod members;
mod objects;
mod tasks;
mod transfers;

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::http::Response;
use crate::support::server::{Server, created};
use crate::support::xva::{Builder, document, folder};

/// An id that nothing has.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// A server with one object of every kind.
struct Site {
    server: Server,
    vdi: String,
    vdi_snapshot: String,
    /// From an archive: with a disk, a CD drive, a VIF and a network.
    vm: String,
    vm_snapshot: String,
    vbd: String,
    vif: String,
    network: String,
    pool: String,
    host: String,
}

impl Site {
    fn new() -> Self {
        let server = Server::start();
        let post = |target: String, body: Value| {
            server.request("POST", &format!("/rest/v0/{target}")).json(&body).send()
        };
        let first = |target: &str| {
            let list = server.json(&format!("/rest/v0/{target}"));
            list[0]["id"].as_str().unwrap_or_else(|| panic!("{target}: {list}")).to_owned()
        };
        let (pool, host) = (first("pools?fields=id"), first("hosts?fields=id"));
        let disk = noise(MIB as usize, 7);
        let mut archive = Builder::new(&document("from an archive", &[MIB]));
        archive.disk(&folder(0), &disk);
        let import = server.request("POST", &format!("/rest/v0/pools/{pool}/vms")).body(archive.finish());
        let vm = created(&import.send(), "vms");
        let (vif, network) = (first("vifs?fields=id"), first("networks?fields=id"));
        let vbd = first("vbds?fields=id&filter=VDI?");
        let snapshot = post(format!("vms/{vm}/actions/snapshot?sync"), json!({"name_label": "kept"}));
        let vm_snapshot = created(&snapshot, "vm-snapshots");
        let vdi = server.import("?raw&name_label=a%20disk&name_description=of%20noise", noise(4096, 1));
        let snapshot = post(format!("vdis/{vdi}/actions/snapshot?sync"), json!({"name_label": "of it"}));
        let vdi_snapshot = created(&snapshot, "vdi-snapshots");
        Self { vdi, vdi_snapshot, vm, vm_snapshot, vbd, vif, network, pool, host, server }
    }

    /// A collection, the type of its objects, and one of them.
    fn kinds(&self) -> [(&'static str, &'static str, &str); 10] {
        [
            ("vms", "VM", &self.vm),
            ("vm-snapshots", "VM-snapshot", &self.vm_snapshot),
            ("vdis", "VDI", &self.vdi),
            ("vdi-snapshots", "VDI-snapshot", &self.vdi_snapshot),
            ("srs", "SR", self.server.sr()),
            ("pools", "pool", &self.pool),
            ("hosts", "host", &self.host),
            ("networks", "network", &self.network),
            ("vbds", "VBD", &self.vbd),
            ("vifs", "VIF", &self.vif),
        ]
    }

    fn get(&self, target: &str) -> Value {
        self.server.json(&format!("/rest/v0/{target}"))
    }

    fn send(&self, method: &str, target: &str) -> Response {
        self.server.request(method, &format!("/rest/v0/{target}")).send()
    }

    fn send_json(&self, method: &str, target: &str, body: &Value) -> Response {
        self.server.request(method, &format!("/rest/v0/{target}")).json(body).send()
    }

    fn send_form(&self, method: &str, target: &str, body: &str) -> Response {
        let request = self.server.request(method, &format!("/rest/v0/{target}"));
        request.header("Content-Type", "application/x-www-form-urlencoded").body(body).send()
    }
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().unwrap_or_else(|| panic!("no array: {value}"));
    list.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
}
