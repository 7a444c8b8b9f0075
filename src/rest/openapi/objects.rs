//! Collections and their objects.

use serde_json::{Value, json};

use crate::inventory::{Collection, schema as shapes};

use super::operation::{Exposure, Operation, schema};

/// How operations call a collection: all of it, and one of it.
pub fn names(collection: Collection) -> (&'static str, &'static str) {
    match collection {
        Collection::Hosts => ("Hosts", "Host"),
        Collection::Networks => ("Networks", "Network"),
        Collection::Pools => ("Pools", "Pool"),
        Collection::Srs => ("Srs", "Sr"),
        Collection::Vbds => ("Vbds", "Vbd"),
        Collection::VdiSnapshots => ("VdiSnapshots", "VdiSnapshot"),
        Collection::Vdis => ("Vdis", "Vdi"),
        Collection::Vifs => ("Vifs", "Vif"),
        Collection::VmSnapshots => ("VmSnapshots", "VmSnapshot"),
        Collection::VmTemplates => ("VmTemplates", "VmTemplate"),
        Collection::Vms => ("Vms", "Vm"),
    }
}

/// What all lists take and answer.
pub fn listed(operation: Operation, example: &Value) -> Operation {
    let shown = json!([example]);
    let link = example.get("href").cloned().unwrap_or_default();
    let examples = json!({
        "members": { "summary": "with `fields`", "value": shown },
        "links": { "summary": "without `fields`", "value": [link] },
    });
    operation.shared(&["fields", "filter", "limit", "ndjson", "markdown"]).refused(&[422, 505]).answers(
        200,
        json!({
            "description": "Links, or the members that were asked for.",
            "content": {
                "application/json": { "schema": schema("Elements"), "examples": examples },
                "application/x-ndjson": { "schema": { "type": "string" } },
                "text/markdown": { "schema": { "type": "string" } },
            },
        }),
    )
}

/// All operations on objects but transfers and actions.
pub fn operations() -> Vec<Operation> {
    let root = json!({ "id": "vms", "type": "VM", "href": "/rest/v0/vms" });
    // Denied because tools are named by the first part of a path, and this has none.
    let get = Operation::new("get", "/", "GetCollections", "collections")
        .summary("Lists the collections.")
        .exposed(Exposure::Deny);
    let mut all = vec![listed(get, &root)];
    for collection in Collection::ALL {
        all.extend(of_all(collection));
        if collection.is_labelled() {
            all.extend(tags(collection));
        }
        if collection.holds_vms() {
            all.push(disks(collection));
        }
    }
    all.extend([create_vdi(), create_sr(), create_vm(), create_vbd()]);
    all
}

fn of_all(collection: Collection) -> Vec<Operation> {
    let (many, single) = names(collection);
    let (name, kind) = (collection.name(), collection.kind());
    let example = shapes::example(collection);
    let mut whole = example.clone();
    if let Some(members) = whole.as_object_mut() {
        members.remove("href");
    }
    let list = Operation::new("get", format!("/{name}"), format!("Get{many}"), name);
    let one = Operation::new("get", format!("/{name}/{{id}}"), format!("Get{single}"), name);
    // The example of one shows some of its members, so it stands at the schema and not as an answer.
    let one = one.summary(format!("One {kind}, whole.")).refused(&[404]).answers(
        200,
        json!({
            "description": "All its members, without `href`.",
            "content": { "application/json": { "schema": schema(kind) } },
        }),
    );
    let tasks = Operation::new("get", format!("/{name}/{{id}}/tasks"), format!("Get{single}Tasks"), name);
    let tasks = tasks.summary(format!("The tasks of a {kind}.")).flag("watch", super::tasks::WATCH);
    let change = Operation::new("patch", format!("/{name}/{{id}}"), format!("Update{single}"), name);
    let mut operations = vec![
        listed(list.summary(format!("Lists the {kind}s.")), &example),
        one,
        change
            .summary(format!("Changes a {kind}."))
            .takes(true, &changes(collection), &change_example(collection))
            .refused(&[404, 409, 507])
            .done(),
        listed(tasks.refused(&[404]), &super::tasks::example()),
    ];
    for (nothing, word) in [("messages", "Messages"), ("alarms", "Alarms")] {
        let path = format!("/{name}/{{id}}/{nothing}");
        let operation = Operation::new("get", path, format!("Get{single}{word}"), name).refused(&[404]);
        let operation = operation.summary(format!("The {nothing} about it, of which there are none."));
        let element = json!({ "id": SAMPLE, "href": format!("/rest/v0/{nothing}/{SAMPLE}") });
        operations.push(listed(operation, &element));
    }
    if !collection.has_actions() {
        let path = format!("/{name}/{{id}}/actions");
        operations.push(
            Operation::new("get", path, format!("Get{single}Actions"), name)
                .summary("What can be done to it: nothing.")
                .segment(
                    "id",
                    &json!({ "type": "string", "minLength": 1 }),
                    "The object's id, or `_` for any.",
                )
                .refused(&[404])
                .answers_json(200, "No links.", &schema("Links"), &json!([])),
        );
    }
    let deletes = match collection {
        Collection::Vdis | Collection::VdiSnapshots => Some("Deletes it with its content."),
        Collection::Srs => Some("Deletes an SR without disks; `actions/forget` leaves the files."),
        Collection::Vbds => Some("Detaches a disk, which stays."),
        Collection::Vifs => Some("Takes an interface away from its VM."),
        Collection::Networks => Some("Deletes a network that no interface is on."),
        _ if collection.holds_vms() => {
            Some("Deletes it with its snapshots, and the disks that no other VM uses.")
        }
        _ => None,
    };
    if let Some(summary) = deletes {
        let delete = Operation::new("delete", format!("/{name}/{{id}}"), format!("Delete{single}"), name);
        operations.push(delete.summary(summary).refused(&[404, 409, 422]).done());
    }
    operations
}

fn changes(collection: Collection) -> Value {
    if !collection.is_labelled() {
        return json!({ "type": "object", "description": "Nothing of it can be changed.", "additionalProperties": false });
    }
    let text = json!({ "type": "string", "maxLength": 65536 });
    let tags = json!({ "type": "array", "items": { "type": "string", "minLength": 1 }, "maxItems": 1000 });
    let mut properties = json!({
        "name_label": text, "nameLabel": text, "name_description": text, "nameDescription": text, "tags": tags,
    });
    if let (Collection::Vdis, Some(properties)) = (collection, properties.as_object_mut()) {
        let size = json!({
            "type": "integer", "minimum": 0, "maximum": 9_007_199_254_740_991_u64,
            "description": "bytes, not less than now",
        });
        properties.insert("size".into(), size);
    }
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn change_example(collection: Collection) -> Value {
    if collection.is_labelled() { json!({ "name_label": "a name", "tags": ["prod"] }) } else { json!({}) }
}

fn tags(collection: Collection) -> [Operation; 2] {
    let (_, single) = names(collection);
    let path = format!("/{}/{{id}}/tags/{{tag}}", collection.name());
    let one = |method, id: String, summary: &str| {
        let tag = json!({ "type": "string", "minLength": 1 });
        Operation::new(method, path.clone(), id, collection.name())
            .summary(summary)
            .segment("tag", &tag, "The tag.")
            .refused(&[404, 422])
            .done()
    };
    [
        one("put", format!("Put{single}Tag"), "Adds a tag, if it is not there."),
        one("delete", format!("Delete{single}Tag"), "Removes a tag, if it is there."),
    ]
}

fn disks(collection: Collection) -> Operation {
    let (_, single) = names(collection);
    let name = collection.name();
    let operation = Operation::new("get", format!("/{name}/{{id}}/vdis"), format!("Get{single}Vdis"), name);
    let operation = operation.summary("Its disks, in the collections that they are in.").refused(&[404]);
    listed(operation, &shapes::example(Collection::Vdis))
}

fn create_vdi() -> Operation {
    let size = json!({ "type": "integer", "minimum": 0, "maximum": 9_007_199_254_740_991_u64 });
    let body = json!({
        "type": "object",
        "properties": {
            "srId": { "type": "string", "description": "the SR's id" },
            "virtual_size": with(&size, "bytes, a multiple of 512"),
            "virtualSize": with(&size, "the same"),
            "name_label": { "type": "string" }, "name_description": { "type": "string" },
        },
        "required": ["srId"],
        "additionalProperties": false,
    });
    let example = json!({ "srId": SAMPLE, "virtual_size": 10_737_418_240_u64, "name_label": "data" });
    Operation::new("post", "/vdis", "CreateVdi", "vdis")
        .summary("Makes an empty disk.")
        .takes(true, &body, &example)
        .repeatable()
        .refused(&[404, 507])
        .makes("disk", "vdis")
}

fn create_sr() -> Operation {
    let body = json!({
        "type": "object",
        "properties": {
            "name_label": { "type": "string" }, "name_description": { "type": "string" },
            "path": {
                "type": "string",
                "description": "a directory under one of `storage.sr_roots`; one with VHD files is attached as it is",
            },
            "content_format": { "type": "string", "enum": ["raw", "vhd"], "description": "how disks are stored" },
            "read_only": { "type": "boolean" },
        },
        "required": ["name_label"],
        "additionalProperties": false,
    });
    Operation::new("post", "/srs", "CreateSr", "srs")
        .summary("Makes a storage repository, or attaches one.")
        .takes(true, &body, &json!({ "name_label": "backup", "path": "/srv/backup" }))
        .repeatable()
        .refused(&[404, 507])
        .makes("SR", "srs")
}

fn create_vm() -> Operation {
    let body = json!({
        "type": "object",
        "properties": {
            "name_label": { "type": "string" }, "name_description": { "type": "string" },
            "cpus": { "type": "integer", "minimum": 1, "maximum": 1024, "default": 1 },
            "memory": {
                "type": "integer", "minimum": 1 << 20, "maximum": 1_u64 << 46, "default": 1 << 30,
                "description": "bytes",
            },
            "vdis": { "type": "array", "items": { "type": "string" }, "description": "its disks, in their order" },
        },
        "required": ["name_label", "vdis"],
        "additionalProperties": false,
    });
    Operation::new("post", "/vms", "CreateVm", "vms")
        .summary("Makes a halted VM of disks that are there.")
        .takes(
            true,
            &body,
            &json!({ "name_label": "web", "cpus": 2, "memory": 2_147_483_648_u64, "vdis": [SAMPLE] }),
        )
        .repeatable()
        .refused(&[404])
        .makes("VM", "vms")
}

fn create_vbd() -> Operation {
    let position = json!({
        "oneOf": [
            { "type": "integer", "minimum": 0, "maximum": u32::MAX },
            { "type": "string", "pattern": "^([0-9]{1,9}|autodetect)$" },
        ],
        "description": "the first that is free, unless it is said",
    });
    let body = json!({
        "type": "object",
        "properties": {
            "VM": { "type": "string" }, "VDI": { "type": "string" },
            "mode": { "type": "string", "enum": ["RW", "RO"], "default": "RW" },
            "bootable": { "type": "boolean", "default": false },
            "userdevice": position, "position": position,
        },
        "required": ["VM", "VDI"],
        "additionalProperties": false,
    });
    Operation::new("post", "/vbds", "CreateVbd", "vbds")
        .summary("Attaches a disk to a VM.")
        .takes(true, &body, &json!({ "VM": SAMPLE, "VDI": SAMPLE, "mode": "RO" }))
        .repeatable()
        .refused(&[404])
        .makes("VBD", "vbds")
}

const SAMPLE: &str = "0b8e7c11-5f0d-4b53-9d0e-3f7d8a2b6c44";

fn with(schema: &Value, description: &str) -> Value {
    let mut schema = schema.clone();
    if let Some(members) = schema.as_object_mut() {
        members.insert("description".into(), description.into());
    }
    schema
}

/// The schemas of all objects, by the type that they have.
pub fn schemas() -> impl Iterator<Item = (String, Value)> {
    Collection::ALL.into_iter().map(|collection| (collection.kind().to_owned(), shapes::of(collection)))
}

/// The question which parameters an action takes.
pub fn parameters_of(path: &str, action: &str, id: &str, tag: &str, example: &Value) -> Operation {
    let whole =
        json!({ "type": "object", "properties": { "params": { "type": "object" } }, "required": ["params"] });
    Operation::new("get", format!("{path}/{action}"), id, tag)
        .summary("Which parameters it takes.")
        .segment("id", &json!({ "type": "string", "minLength": 1 }), "The object's id, or `_` for any.")
        .refused(&[404])
        .answers_json(200, "The parameters.", &whole, example)
}

/// Actions on VMs, VDIs and SRs, and how they are found.
pub fn actions() -> Vec<Operation> {
    let mut all = Vec::new();
    for collection in
        [Collection::Vms, Collection::VmSnapshots, Collection::VmTemplates, Collection::Vdis, Collection::Srs]
    {
        let (_, single) = names(collection);
        let (name, id) = (collection.name(), json!({ "type": "string", "minLength": 1 }));
        let path = format!("/{name}/{{id}}/actions");
        let links = json!([format!("/rest/v0/{name}/{SAMPLE}/actions/snapshot")]);
        let any = "The object's id, or `_` for any.";
        let list = Operation::new("get", path.clone(), format!("Get{single}Actions"), name)
            .summary("What can be done to it.")
            .segment("id", &id, any)
            .refused(&[404])
            .answers_json(200, "Links to the actions.", &schema("Links"), &links);
        all.push(list);
        if collection == Collection::Srs {
            all.push(
                Operation::new("post", format!("{path}/forget"), "ForgetSr", name)
                    .summary("Lets an SR go and leaves its files.")
                    .exposed(Exposure::Deny)
                    .takes(false, &super::tasks::nothing(), &json!({}))
                    .repeatable()
                    .refused(&[404, 413])
                    .done(),
            );
            all.push(
                Operation::new("post", format!("{path}/scan"), "ScanSr", name)
                    .summary("Looks through its directory again, for files that have come or gone.")
                    .flag("sync", "Answers when it is done, with 204.")
                    .takes(false, &super::tasks::nothing(), &json!({}))
                    .repeatable()
                    .refused(&[404, 413, 507])
                    .done()
                    .answers(202, super::tasks::accepted()),
            );
            for (action, id_of_it) in [("forget", "GetSrForgetAction"), ("scan", "GetSrScanAction")] {
                all.push(parameters_of(&path, action, id_of_it, name, &json!({ "params": {} })));
            }
            continue;
        }
        let described = json!({ "params": { "name_label": { "type": "string", "optional": true } } });
        // Snapshots and templates have the addresses and no actions: what is asked there is 404.
        let (get_id, post_id) = (format!("Get{single}SnapshotAction"), format!("Snapshot{single}"));
        let get = Operation::new("get", format!("{path}/snapshot"), get_id, name).refused(&[404]);
        let post = Operation::new("post", format!("{path}/snapshot"), post_id, name).refused(&[404, 409]);
        if matches!(collection, Collection::VmSnapshots | Collection::VmTemplates) {
            let nothing = "There is none: the answer is 404.";
            all.push(get.summary(nothing).exposed(Exposure::Deny));
            all.push(post.summary(nothing).exposed(Exposure::Deny).repeatable().refused(&[413]));
            continue;
        }
        all.push(
            get.summary("Which parameters a snapshot takes.").segment("id", &id, any).answers_json(
                200,
                "The parameters.",
                &json!({ "type": "object", "properties": { "params": { "type": "object" } }, "required": ["params"] }),
                &described,
            ),
        );
        let snapshots = if collection == Collection::Vms { "vm-snapshots" } else { "vdi-snapshots" };
        let body = json!({
            "type": "object", "properties": { "name_label": { "type": "string" } },
            "additionalProperties": false,
        });
        all.push(
            post.summary("Takes a snapshot, without a copy.")
                .flag("sync", "Answers when it is taken.")
                .takes(false, &body, &json!({ "name_label": "before the update" }))
                .repeatable()
                .refused(&[507])
                .makes("snapshot (`sync`)", snapshots)
                .answers(202, super::tasks::accepted()),
        );
    }
    all
}
