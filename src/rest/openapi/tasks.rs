//! Tasks and events.

use serde_json::{Value, json};

use super::objects::listed;
use super::operation::{Exposure, Operation, schema};

/// What `watch` does.
pub const WATCH: &str = "With `ndjson`: an endless stream of what happens from now on, `[\"update\", task]` or \
                         `[\"remove\", {id, href}]`.";

const TASK: &str = "0mwv1yhnh0003jnt";

/// A task in a list.
pub fn example() -> Value {
    json!({
        "id": TASK,
        "status": "pending",
        "properties": { "name": "Export of VDI 6f2c8a4e-93d1-4d0b-a7a5-1f0f5a3c9b10 as vhd", "progress": 47 },
        "href": format!("/rest/v0/tasks/{TASK}"),
    })
}

/// The answer to what goes on by itself.
pub fn accepted() -> Value {
    json!({
        "description": "It goes on as a task.",
        "headers": { "Location": { "description": "The task.", "schema": { "type": "string" } } },
        "content": { "application/json": {
            "schema": schema("Accepted"),
            "examples": { "example": { "value": { "taskId": TASK } } },
        } },
    })
}

/// All operations on tasks and streams of events.
pub fn operations() -> Vec<Operation> {
    let list = Operation::new("get", "/tasks", "GetTasks", "tasks").summary("Lists the tasks.");
    let wait = json!({ "type": "string", "enum": ["", "true", "false", "result"] });
    let mut whole = example();
    if let Some(members) = whole.as_object_mut() {
        members.remove("href");
        members.insert("start".into(), 1_764_000_000_000_u64.into());
    }
    let mut all = vec![
        listed(list.flag("watch", WATCH), &example()),
        Operation::new("delete", "/tasks", "DeleteTasks", "tasks")
            .summary("Forgets all tasks that have ended.")
            .done(),
        Operation::new("get", "/tasks/{id}", "GetTask", "tasks")
            .summary("One task.")
            .query(
                "wait",
                &wait,
                "`true` or `result`: answers when it has ended; empty: with its next change.",
            )
            .refused(&[404, 422, 505])
            .answers_json(200, "The task.", &schema("task"), &whole),
        Operation::new("patch", "/tasks/{id}", "UpdateTask", "tasks")
            .summary("Holds a task to a rate, or puts it before others.")
            .takes(true, &adjustment(), &json!({ "bandwidth": 2_000_000 }))
            .refused(&[404, 409])
            .done(),
        Operation::new("delete", "/tasks/{id}", "DeleteTask", "tasks")
            .summary("Forgets a task that has ended.")
            .refused(&[404, 409])
            .done(),
        Operation::new("get", "/tasks/{id}/actions", "GetTaskActions", "tasks")
            .summary("What can be done to a task.")
            .segment("id", &json!({ "type": "string", "minLength": 1 }), "The task's id, or `_` for any.")
            .refused(&[404])
            .answers_json(
                200,
                "Links to the actions.",
                &schema("Links"),
                &json!([format!("/rest/v0/tasks/{TASK}/actions/abort")]),
            ),
    ];
    for (action, id, summary) in [
        ("abort", "AbortTask", "Aborts a task."),
        ("pause", "PauseTask", "Pauses a task; its client stays connected and gets nothing."),
        ("resume", "ResumeTask", "Lets a paused task go on."),
    ] {
        all.push(
            Operation::new("post", format!("/tasks/{{id}}/actions/{action}"), id, "tasks")
                .summary(summary)
                .flag("sync", "Answers when it is done, with 204.")
                .takes(false, &nothing(), &json!({}))
                .repeatable()
                .refused(&[404])
                .done()
                .answers(202, accepted()),
        );
        let question = format!("Get{id}Action");
        all.push(super::objects::parameters_of(
            "/tasks/{id}/actions",
            action,
            &question,
            "tasks",
            &json!({ "params": {} }),
        ));
    }
    all.extend(events());
    all
}

/// A body of no members.
pub fn nothing() -> Value {
    json!({ "type": "object", "additionalProperties": false })
}

fn adjustment() -> Value {
    json!({
        "type": "object",
        "properties": {
            "bandwidth": {
                "type": ["integer", "null"], "minimum": 1, "maximum": 9_007_199_254_740_991_u64,
                "description": "bytes a second; null for no limit",
            },
            "priority": { "type": "integer", "minimum": -1000, "maximum": 1000 },
        },
        "additionalProperties": false,
    })
}

fn events() -> [Operation; 3] {
    let subscription = json!({
        "type": "object",
        "properties": {
            "collection": { "type": "string", "description": "the type of the objects: `VM`, `VDI`, `task` …" },
            "fields": {
                "oneOf": [{ "const": "*" }, { "type": "array", "items": { "type": "string" } }],
                "description": "the members that are sent; all, unless they are named",
            },
        },
        "required": ["collection"],
        "additionalProperties": false,
    });
    let connection = json!({ "type": "string", "minLength": 1 });
    [
        Operation::new("get", "/events", "GetEvents", "events")
            .summary("A stream of server-sent events, which begins with its own id.")
            .exposed(Exposure::Deny)
            .refused(&[505])
            .answers(
                200,
                json!({
                    "description": "`init`, then `ping`, `add`, `update` and `remove`, without an end.",
                    "content": { "text/event-stream": { "schema": { "type": "string" } } },
                }),
            ),
        Operation::new("post", "/events/{connection}/subscriptions", "CreateEventSubscription", "events")
            .summary("Subscribes a stream to a type of objects.")
            .segment("connection", &connection, "The stream's id.")
            .exposed(Exposure::Deny)
            .takes(true, &subscription, &json!({ "collection": "VDI", "fields": ["id", "name_label"] }))
            .repeatable()
            .refused(&[404])
            .answers_json(201, "It is subscribed.", &schema("Created"), &json!({ "id": "VDI" })),
        Operation::new(
            "delete",
            "/events/{connection}/subscriptions/{kind}",
            "DeleteEventSubscription",
            "events",
        )
        .summary("Ends a subscription.")
        .segment("connection", &connection, "The stream's id.")
        .segment("kind", &connection, "The type of the objects.")
        .refused(&[404])
        .done(),
    ]
}
