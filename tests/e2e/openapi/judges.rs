//! Programs that were written for any API, or for Xen Orchestra's, and know nothing of Gantry but its description.
//! `.ci/judge` installs them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::support::server::{PASSWORD, Server, created};

/// What schemathesis looks at. Not that 405 is sent, which the contract never does, nor that everything is refused
/// that is not described: texts are taken for numbers, and unknown query parameters are ignored.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";

/// The command line of a judge, which is installed first where it is missing.
fn judge(name: &str) -> (PathBuf, Vec<String>) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/judge");
    let output = Command::new(&script).arg(name).output().expect(".ci/judge runs");
    assert!(
        output.status.success(),
        "{name} is not installed and cannot be, which takes python3 with venv, npm and their registries: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text.lines().map(str::to_owned);
    (words.next().expect("a program").into(), words.collect())
}

/// A server with something in it, and ids of what there is.
fn furnished() -> (Server, Vec<(&'static str, String)>) {
    let server = Server::start();
    let vdi = server.import("?raw&name_label=a", vec![7; 1 << 20]);
    let body = json!({"name_label": "web", "vdis": [vdi]});
    let vm = created(&server.request("POST", "/rest/v0/vms").json(&body).send(), "vms");
    let snapshot = |owner: String| {
        let target = format!("/rest/v0/{owner}/actions/snapshot?sync");
        let taken = server.request("POST", &target).send().expect(201).json();
        taken["id"].as_str().unwrap().to_owned()
    };
    let snapshots = [snapshot(format!("vdis/{vdi}")), snapshot(format!("vms/{vm}"))];
    let [of_vdi, of_vm] = snapshots;
    let first = |name: &str| {
        let all = server.json(&format!("/rest/v0/{name}?fields=id"));
        all[0]["id"].as_str().unwrap().to_owned()
    };
    let mut ids = vec![("vdis", vdi), ("vms", vm), ("vdi-snapshots", of_vdi), ("vm-snapshots", of_vm)];
    ids.push(("srs", server.sr().to_owned()));
    ids.extend(["hosts", "pools", "tasks", "users", "vbds"].map(|name| (name, first(name))));
    (server, ids)
}

/// Leaves out that disks can be made large: an export of one with some TiB would be read for hours.
fn without_sizes(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::Object(properties)) = members.get_mut("properties") {
                properties.remove("virtualSize");
                if let Some(size) = properties.get_mut("virtual_size") {
                    size["maximum"] = (1 << 20).into();
                }
                // Of what is sent, not of what is received.
                if properties.contains_key("nameLabel") {
                    properties.remove("size");
                }
            }
            if let Some(Value::Array(parameters)) = members.get_mut("parameters") {
                parameters.retain(|parameter| parameter["name"] != "size");
            }
            members.values_mut().for_each(without_sizes);
        }
        Value::Array(list) => list.iter_mut().for_each(without_sizes),
        _ => {}
    }
}

#[test]
fn schemathesis_finds_no_5xx_and_no_status_that_is_not_described() {
    let (server, ids) = furnished();
    let (program, _) = judge("schemathesis");
    let mut document = server.json("/rest/v0/docs/swagger.json");
    // It has its credentials; were they described, it would send others beside them, which is 400.
    document.as_object_mut().unwrap().remove("security");
    document["components"].as_object_mut().unwrap().remove("securitySchemes");
    without_sizes(&mut document);
    let file = server.path("openapi.json");
    std::fs::write(&file, document.to_string()).unwrap();
    // Nothing that has no end; and ids of what there is, but for deleting it.
    let mut config = String::from("request-timeout = 20\n[parameters]\n\"query.watch\" = \"false\"\n");
    for (name, id) in &ids {
        config += &format!(
            "[[operations]]\ninclude-path-regex = '^/{name}/\\{{id\\}}'\nexclude-method = 'DELETE'\n\
             parameters = {{ \"path.id\" = \"{id}\" }}\n"
        );
    }
    let settings = server.path("schemathesis.toml");
    std::fs::write(&settings, config).unwrap();
    let output = Command::new("timeout")
        .args(["--signal=INT", "175"])
        .arg(program)
        .arg("--config-file")
        .arg(&settings)
        .arg("run")
        .arg(&file)
        .args(["--url", &server.url("/rest/v0")])
        .args(["--header", &format!("Cookie: authenticationToken={}", server.token())])
        // The time is looked at between rounds of so many examples: short rounds, so that it holds.
        .args(["--checks", CHECKS, "--max-examples", "3", "--max-time", "60", "--seed", "1"])
        .args(["--workers", "1", "--warnings", "off", "--exclude-path-regex", "^/(events$|health/)"])
        .current_dir(server.path(""))
        .stdin(Stdio::null())
        .output()
        .expect("schemathesis runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    server.get("/rest/v0/vdis").expect(200);
    server.get("/health/ready").expect(200);
}

/// The MCP server of Xen Orchestra, as a language model's program runs it: JSON-RPC in lines.
struct Mcp {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    calls: u64,
}

impl Mcp {
    fn start(server: &Server, actions: bool) -> Self {
        let (program, arguments) = judge("xo-mcp");
        let mut child = Command::new(program)
            .args(arguments)
            .env("XO_URL", server.url(""))
            .env("XO_TOKEN", server.token())
            .env("XO_MCP_ENABLE_ACTIONS", if actions { "1" } else { "0" })
            .env("NO_PROXY", "*")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node runs");
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut mcp = Self { child, input, output, calls: 0 };
        let client = json!({ "name": "test", "version": "1" });
        let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client });
        mcp.ask("initialize", &hello);
        mcp.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        mcp
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.input, "{message}").expect("the MCP server reads");
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).expect("a line"), 0, "the MCP server has ended");
            let mut answer: Value = serde_json::from_str(&line).expect("JSON");
            if answer["id"] == id {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }

    /// The text that a tool answers with.
    fn call(&mut self, tool: &str, arguments: &Value) -> String {
        let answer = self.ask("tools/call", &json!({ "name": tool, "arguments": arguments }));
        assert!(answer["isError"] != true, "{tool} {arguments}: {answer}");
        answer["content"][0]["text"].as_str().expect("text").to_owned()
    }

    /// The tools, each with the operations that it offers.
    fn tools(&mut self) -> Vec<(String, Vec<String>)> {
        let answer = self.ask("tools/list", &json!({}));
        let tools = answer["tools"].as_array().unwrap().iter();
        let operations = |tool: &Value| {
            let names = tool.pointer("/inputSchema/properties/operation/enum").and_then(Value::as_array);
            names.into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
        };
        tools.map(|tool| (tool["name"].as_str().unwrap().to_owned(), operations(tool))).collect()
    }
}

impl Drop for Mcp {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn xen_orchestras_mcp_server_reads_what_there_is() {
    let (server, ids) = furnished();
    let id_of = |name: &str| ids.iter().find(|(one, _)| *one == name).unwrap().1.clone();
    let mut mcp = Mcp::start(&server, false);
    let tools = mcp.tools();
    for (tool, operation) in [
        ("vms_query", "GetVm"),
        ("vdis_query", "GetVdis"),
        ("srs_query", "GetSrs"),
        ("tasks_query", "GetTasks"),
        ("vm_snapshots_query", "GetVmSnapshots"),
        ("users_query", "GetUsers"),
    ] {
        let found = tools.iter().find(|(name, _)| name == tool);
        let (_, operations) = found.unwrap_or_else(|| panic!("no {tool}: {tools:?}"));
        assert!(operations.iter().any(|name| name == operation), "{tool} {operations:?}");
    }
    assert!(tools.iter().all(|(name, _)| !name.ends_with("_action")), "{tools:?}");
    assert!(mcp.call("check_connection", &json!({})).contains("successful"));
    let summary = mcp.call("get_infrastructure_summary", &json!({}));
    assert!(summary.contains(&id_of("vms")) && summary.contains(&id_of("hosts")), "{summary}");
    // Which members are shown unless it is said, it takes from the examples.
    let vdis = mcp.call("vdis_query", &json!({ "operation": "GetVdis", "filter": "name_label:a" }));
    assert!(vdis.starts_with("| $SR | id | name_label | size | usage |"), "{vdis}");
    assert!(vdis.contains(&id_of("vdis")), "{vdis}");
    let vm = mcp.call("vms_query", &json!({ "operation": "GetVm", "id": id_of("vms") }));
    assert!(vm.contains("\"web\""), "{vm}");
    let tasks = json!({ "operation": "GetTasks", "fields": "id,status", "limit": 1 });
    assert!(mcp.call("tasks_query", &tasks).contains("success"));
    // Whatever it offers first of a collection, the list, it gets.
    for (tool, operations) in tools {
        if let Some(operation) = operations.first() {
            mcp.call(&tool, &json!({ "operation": operation }));
        }
    }
}

#[test]
fn xen_orchestras_mcp_server_writes_when_somebody_agrees_and_never_deletes() {
    let (server, ids) = furnished();
    let vm = &ids.iter().find(|(one, _)| *one == "vms").unwrap().1;
    let mut mcp = Mcp::start(&server, true);
    for (tool, operations) in mcp.tools() {
        let never = ["Delete", "Export", "CreateAuthentication"];
        let bad = operations.iter().find(|name| never.iter().any(|word| name.starts_with(word)));
        assert!(bad.is_none(), "{tool} {bad:?}");
    }
    let mut change = json!({ "operation": "UpdateVm", "id": vm, "body": { "name_label": "renamed" } });
    let asked = mcp.call("vms_action", &change);
    let token = asked.split("confirm_token: \"").nth(1).and_then(|rest| rest.split('"').next());
    let name = || server.json(&format!("/rest/v0/vms/{vm}"))["name_label"].take();
    assert_eq!(name(), "web", "{asked}");
    change["confirm_token"] = token.expect("a token").into();
    mcp.call("vms_action", &change);
    assert_eq!(name(), "renamed");
}

#[test]
fn a_client_from_the_rust_registry_signs_in_makes_a_token_and_lists_vms() {
    let (server, _) = furnished();
    let (program, _) = judge("xo-api-client");
    let url = format!("ws://{}/api/", server.address());
    let output = Command::new(program).args([&url, "admin", PASSWORD]).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["names"], &found["one"]), (&json!(["web"]), &json!("web")), "{found}");
    assert_eq!(found["halted"], 1);
    let token = format!("authenticationToken={}", found["token"].as_str().unwrap());
    server.request("GET", "/rest/v0/vms").anonymous().header("Cookie", &token).send().expect(200);
}
