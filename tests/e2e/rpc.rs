//! JSON-RPC over WebSocket at `/api/` (rest-v0.md §2, JSON-RPC), as its clients use it.

use std::io::{Read, Write};
use std::net::TcpStream as Plain;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::support::disk::noise;
use crate::support::server::{PASSWORD, Server, gantry};
use crate::support::wait;

const LIMIT: Duration = Duration::from_secs(20);

/// A client that sends one message and takes what comes next as its answer.
struct Client {
    runtime: Runtime,
    stream: WebSocketStream<TcpStream>,
    id: i64,
}

impl Client {
    fn open(server: &Server) -> Self {
        Self::try_open(server, "/api/", &[]).expect("it is a WebSocket")
    }

    fn try_open(server: &Server, target: &str, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut request =
            format!("ws://{}{target}", server.address()).into_client_request().expect("an address");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a value"));
        }
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let opened = runtime.block_on(async {
            let stream = TcpStream::connect(server.address()).await.expect("it listens");
            client_async_with_config(request, stream, Some(config)).await
        });
        match opened {
            // As xo-cli counts.
            Ok((stream, _)) => Ok(Self { runtime, stream, id: -9_007_199_254_740_991 }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    fn send(&mut self, message: Message) {
        let sent = async { timeout(LIMIT, self.stream.send(message)).await };
        self.runtime.block_on(sent).expect("in time").expect("it is taken");
    }

    fn next(&mut self) -> Message {
        let next = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(message)) => return message,
                    other => panic!("{other:?}"),
                }
            }
        };
        self.runtime.block_on(async { timeout(LIMIT, next).await }).expect("an answer in time")
    }

    #[track_caller]
    fn ask_text(&mut self, text: &str) -> String {
        self.send(Message::text(text));
        match self.next() {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("no text: {other:?}"),
        }
    }

    #[track_caller]
    fn ask(&mut self, value: &Value) -> Value {
        serde_json::from_str(&self.ask_text(&value.to_string())).expect("JSON")
    }

    #[track_caller]
    fn answer(&mut self, method: &str, params: Value) -> Value {
        let id = self.id;
        self.id += 1;
        let answer = self.ask(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(id)), "{answer}");
        answer
    }

    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Value {
        let answer = self.answer(method, params);
        assert!(answer.get("error").is_none(), "{answer}");
        answer.get("result").unwrap_or_else(|| panic!("no result: {answer}")).clone()
    }

    #[track_caller]
    fn error(&mut self, method: &str, params: Value) -> Value {
        let answer = self.answer(method, params);
        assert!(answer.get("result").is_none(), "{answer}");
        assert!(answer["error"]["message"].is_string(), "{answer}");
        answer["error"].clone()
    }

    #[track_caller]
    fn fails(&mut self, method: &str, params: Value, number: i64) {
        let error = self.error(method, params);
        assert_eq!(error["code"], number, "{error}");
    }

    fn sign_in(&mut self) -> Value {
        self.call("session.signIn", json!({"email": "admin", "password": PASSWORD}))
    }

    /// Insists that the server ends the connection with that code.
    #[track_caller]
    fn is_closed(&mut self, code: CloseCode) {
        match self.next() {
            Message::Close(Some(frame)) => assert_eq!(frame.code, code, "{frame}"),
            other => panic!("not closed: {other:?}"),
        }
    }
}

fn status_with(server: &Server, token: &str) -> u16 {
    let cookie = format!("authenticationToken={token}");
    server.request("GET", "/rest/v0").anonymous().header("Cookie", &cookie).send().head.status
}

/// "`create-token <url> <user> [<password>]` = open, `session.signIn {email, password[, otp]}`, wait, `token.create
/// {description: "xo-cli create-token"[, expiresIn]}`, close"
#[test]
fn create_token_as_xo_cli_does_it_gives_a_token_that_works() {
    let server = Server::start();
    let mut client = Client::open(&server);
    let user = client.sign_in();
    assert_eq!((&user["email"], &user["permission"]), (&json!("admin"), &json!("admin")));
    assert!(user["id"].is_string() && user["groups"].is_array() && user["preferences"].is_object(), "{user}");
    let token =
        client.call("token.create", json!({"description": "xo-cli create-token", "expiresIn": "1 hour"}));
    let token = token.as_str().expect("a bare string");
    assert_eq!(token.len(), 43);
    assert_eq!(status_with(&server, token), 200);
    // Every other command of xo-cli signs in with it.
    let mut other = Client::open(&server);
    assert_eq!(other.call("session.signIn", json!({"token": token}))["id"], user["id"]);
    let audit = server.json("/rest/v0/audit?fields=*&filter=via:rpc");
    let actions: Vec<_> = audit.as_array().expect("a list").iter().map(|record| &record["action"]).collect();
    assert!(actions.contains(&&json!("login")) && actions.contains(&&json!("token.create")), "{audit}");
    assert_eq!(other.call("session.getUser", json!({}))["email"], "admin");
    assert_eq!(other.call("session.signOut", json!({})), json!(true));
    assert_eq!(other.call("session.getUser", json!({})), Value::Null);
}

/// "`register` = the same with … `client: {id: <random, kept in its config>}`", and with `client.id` a token is renewed.
#[test]
fn register_as_xo_cli_does_it_renews_the_token_of_the_same_client() {
    let server = Server::start();
    let mut client = Client::open(&server);
    client.call("session.signIn", json!({"username": "admin", "password": PASSWORD}));
    let register = json!({"client": {"id": "abc123"}, "description": "xo-cli@0.32.3 - host - Linux"});
    let first = client.call("token.create", register.clone());
    let second = client.call("token.create", register);
    assert_ne!(first, second);
    let user = client.call("session.getUser", json!({}))["id"].as_str().expect("an id").to_owned();
    let list = server.json(&format!("/rest/v0/users/{user}/authentication_tokens?filter=client:id:abc123"));
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
}

#[test]
fn ids_are_echoed_exactly_and_params_may_be_absent() {
    let server = Server::start();
    let mut client = Client::open(&server);
    for id in ["-9007199254740991", "9007199254740991", "-9223372036854775808", "0", "\"5f0e-uuid\"", "null"]
    {
        let answer = client.ask_text(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"session.getUser"}}"#));
        assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":null}}"#));
    }
}

#[test]
fn batches_are_answered_as_batches_and_notifications_not_at_all() {
    let server = Server::start();
    let mut client = Client::open(&server);
    let call = |id: Value, method: &str| json!({"jsonrpc": "2.0", "id": id, "method": method});
    let sign_in = json!({
        "jsonrpc": "2.0", "id": "a", "method": "session.signIn", "params": {"email": "admin", "password": PASSWORD},
    });
    let silent = json!({"jsonrpc": "2.0", "method": "session.getUser"});
    let answers = client.ask(&json!([
        sign_in,
        silent,
        call(json!(2), "session.getUser"),
        call(json!(3), "no.such"),
        7
    ]));
    let answers = answers.as_array().expect("a batch");
    assert_eq!(answers.len(), 4);
    assert_eq!((&answers[0]["id"], &answers[1]["id"]), (&json!("a"), &json!(2)));
    assert_eq!(answers[1]["result"]["email"], "admin", "what a batch does is done in its order");
    assert_eq!(answers[2]["error"]["code"], -32601);
    assert_eq!(answers[2]["error"]["message"], "method not found: no.such");
    assert_eq!((&answers[3]["id"], &answers[3]["error"]["code"]), (&Value::Null, &json!(-32600)));
    // A notification alone has no answer: the next one is that of the next call.
    client.send(Message::text(silent.to_string()));
    assert_eq!(client.ask(&call(json!(9), "session.getUser"))["id"], 9);
    assert_eq!(client.ask(&json!([]))["error"]["code"], -32600);
    let many: Vec<Value> = (0..101).map(|id| call(json!(id), "session.getUser")).collect();
    assert_eq!(client.ask(&json!(many))["error"]["code"], -32600);
}

#[test]
fn what_is_no_request_gets_its_error_and_does_not_close_the_connection() {
    let server = Server::start();
    let mut client = Client::open(&server);
    for (text, code) in [("{", -32700), ("nonsense", -32700), ("1", -32600), (r#"{"id":1}"#, -32600)] {
        let answer: Value = serde_json::from_str(&client.ask_text(text)).expect("JSON");
        assert_eq!(answer["error"]["code"], code, "{text}: {answer}");
    }
    client.fails("no.such", json!({}), -32601);
    client.fails("token.create", json!({}), 2);
    client.fails("xo.getAllObjects", json!({}), 2);
    client.sign_in();
    client.fails("token.create", json!({"expiresIn": 1}), 10);
    client.fails("token.create", json!({"nonsense": 1}), 10);
    client.fails("session.signIn", json!({"email": "admin"}), 10);
    client.fails("token.delete", json!({"tokens": ["0123456789abcdef"]}), 1);
    client.fails("session.signIn", json!({"token": "wrong"}), 3);
    assert_eq!(client.call("session.getUser", json!({}))["email"], "admin", "it stays signed in");
}

#[test]
fn messages_up_to_a_mebibyte_are_taken_whole_or_in_fragments_and_longer_ones_close_with_1009() {
    let server = Server::start();
    let text = |bytes: usize| {
        let call = |filler: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{filler}"}}"#);
        call(&"x".repeat(bytes - call("").len()))
    };
    let fragments = |text: String, pieces: usize| {
        let bytes = text.into_bytes();
        let size = bytes.len().div_ceil(pieces);
        let count = bytes.len().div_ceil(size);
        let frames: Vec<Message> = bytes
            .chunks(size)
            .enumerate()
            .map(|(at, chunk)| {
                let data = if at == 0 { Data::Text } else { Data::Continue };
                Message::Frame(Frame::message(chunk.to_vec(), OpCode::Data(data), at + 1 == count))
            })
            .collect();
        frames
    };
    let mut client = Client::open(&server);
    let answer: Value = serde_json::from_str(&client.ask_text(&text(1 << 20))).expect("JSON");
    assert_eq!(answer["error"]["code"], -32601);
    for frame in fragments(text(1 << 20), 17) {
        client.send(frame);
    }
    let Message::Text(answer) = client.next() else { panic!("no text") };
    assert!(answer.contains("-32601"), "{answer}");
    client.send(Message::text(text((1 << 20) + 1)));
    client.is_closed(CloseCode::Size);
    let mut client = Client::open(&server);
    for frame in fragments(text((1 << 20) + 1), 3) {
        client.send(frame);
    }
    client.is_closed(CloseCode::Size);
    let mut client = Client::open(&server);
    client.send(Message::binary(b"{}".to_vec()));
    client.is_closed(CloseCode::Unsupported);
}

#[test]
fn the_upgrade_is_at_api_with_its_slash_alone() {
    let server = Server::start();
    for target in ["/api", "/api/?x=1", "/api/?"] {
        assert_eq!(Client::try_open(&server, target, &[]).err(), Some(404), "{target}");
    }
    assert!(matches!(Client::try_open(&server, "/rest/v0/vdis", &[]).err(), Some(401)));
    server.request("GET", "/api/").anonymous().send().refused(400..=400);
    server.request("POST", "/api/").send().refused(404..=404);
}

#[test]
fn a_page_of_another_site_cannot_open_it_with_a_cookie() {
    let server = Server::start();
    let cookie = format!("authenticationToken={}", server.token());
    let own = format!("http://{}", server.address());
    let open = |headers: &[(&'static str, &str)]| Client::try_open(&server, "/api/", headers).err();
    assert_eq!(open(&[("origin", "https://evil.example"), ("cookie", &cookie)]), Some(403));
    assert_eq!(open(&[("origin", &own), ("cookie", &cookie)]), None);
    assert_eq!(open(&[("cookie", &cookie)]), None);
    // The cookie signs nobody in.
    let mut client = Client::try_open(&server, "/api/", &[("cookie", cookie.as_str())]).expect("it is open");
    assert_eq!(client.call("session.getUser", json!({})), Value::Null);
}

#[test]
fn nothing_is_sent_before_the_first_answer() {
    let server = Server::start();
    let mut stream = Plain::connect(server.address()).expect("it listens");
    let head = "GET /api/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("it is taken");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("it can be set");
    let mut got = Vec::new();
    let ended = stream.read_to_end(&mut got).expect_err("it stays open");
    assert!(matches!(ended.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{ended}");
    let text = String::from_utf8(got).expect("only the head");
    assert!(text.starts_with("HTTP/1.1 101 ") && text.ends_with("\r\n\r\n"), "{text:?}");
}

#[test]
fn wrong_passwords_are_slowed_as_over_rest() {
    let server = Server::start();
    let mut client = Client::open(&server);
    client.fails("session.signIn", json!({"email": "admin", "password": "wrong"}), 3);
    let error = client.error("session.signIn", json!({"email": "admin", "password": PASSWORD}));
    assert_eq!((&error["code"], &error["message"]), (&json!(3), &json!("invalid credentials")));
    assert!(
        error["data"]["retryAfter"].as_u64().is_some_and(|seconds| (1..=2).contains(&seconds)),
        "{error}"
    );
    // The same failure counts there, and a token is never slowed.
    server.request("GET", "/rest/v0").basic("admin", PASSWORD).send().refused(429..=429);
    client.call("session.signIn", json!({"token": server.token()}));
}

#[test]
fn the_methods_are_told_without_signing_in() {
    let server = Server::start();
    let mut client = Client::open(&server);
    let info = client.call("system.getMethodsInfo", json!({}));
    let names = client.call("system.listMethods", json!({}));
    let names: Vec<&str> = names.as_array().expect("names").iter().filter_map(Value::as_str).collect();
    for name in [
        "session.getUser",
        "session.signIn",
        "session.signOut",
        "system.getMethodsInfo",
        "system.getServerVersion",
        "system.getVersion",
        "system.listMethods",
        "token.create",
        "token.delete",
        "token.deleteOwn",
        "xo.getAllObjects",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
        let method = &info[name];
        assert!(method["description"].is_string() && method["params"].is_object(), "{name}: {method}");
    }
    assert_eq!(info.as_object().map(serde_json::Map::len), Some(names.len()));
    assert!(client.call("system.getServerVersion", json!({})).is_string());
    assert!(client.call("system.getVersion", json!({})).is_string());
}

#[test]
fn a_connection_whose_token_was_revoked_is_closed_at_its_next_message() {
    let server = Server::start();
    let mut client = Client::open(&server);
    client.sign_in();
    let token = client.call("token.create", json!({}));
    let mut other = Client::open(&server);
    other.call("session.signIn", json!({"token": token}));
    assert_eq!(client.call("token.deleteOwn", json!({"tokens": [token]})), json!(true));
    other.send(Message::text(r#"{"jsonrpc":"2.0","id":1,"method":"session.getUser"}"#));
    other.is_closed(CloseCode::Policy);
    assert_eq!(status_with(&server, token.as_str().expect("a token")), 401);
    // By pattern, and as an administrator.
    let kept = client.call("token.create", json!({"description": "to stay"}));
    let gone = client.call("token.create", json!({"description": "to go"}));
    client.call("token.delete", json!({"pattern": {"description": "to go"}}));
    assert_eq!(status_with(&server, kept.as_str().expect("a token")), 200);
    assert_eq!(status_with(&server, gone.as_str().expect("a token")), 401);
}

#[test]
fn a_connection_whose_token_has_expired_is_closed_at_its_next_message() {
    let server = Server::start();
    let mut client = Client::open(&server);
    client.call("session.signIn", json!({"token": server.token()}));
    let database = rusqlite::Connection::open(server.data().join("gantry.db")).expect("it is SQLite");
    database.busy_timeout(LIMIT).expect("it can be set");
    assert_eq!(database.execute("UPDATE tokens SET expires_ms = 1", []).expect("it is written"), 1);
    client.send(Message::text(r#"{"jsonrpc":"2.0","id":1,"method":"session.getUser"}"#));
    client.is_closed(CloseCode::Policy);
}

#[test]
fn a_new_password_ends_the_connections_that_were_opened_with_the_old_one() {
    let server = Server::start();
    let mut client = Client::open(&server);
    let id = client.sign_in()["id"].as_str().expect("an id").to_owned();
    let change = json!({"password": "another", "currentPassword": PASSWORD});
    server.request("PATCH", &format!("/rest/v0/users/{id}")).json(&change).send().expect(204);
    client.send(Message::text(r#"{"jsonrpc":"2.0","id":1,"method":"session.getUser"}"#));
    client.is_closed(CloseCode::Policy);
}

#[test]
fn all_objects_come_by_id_and_a_filter_is_an_object_or_an_expression() {
    let server = Server::start();
    let vdi = server.import("?raw&name_label=one", noise(4096, 1));
    server.import("?raw&name_label=two", noise(4096, 2));
    let mut client = Client::open(&server);
    client.call("session.signIn", json!({"token": server.token()}));
    let all = client.call("xo.getAllObjects", json!({}));
    let all = all.as_object().expect("a map");
    assert!(all.iter().all(|(id, object)| object["id"] == *id));
    for kind in ["pool", "host", "SR", "VDI"] {
        assert!(all.values().any(|object| object["type"] == kind), "{kind}");
    }
    assert_eq!(all[&vdi], server.json(&format!("/rest/v0/vdis/{vdi}")));
    for filter in [json!({"type": "VDI", "name_label": "one"}), json!("type:VDI name_label:/^one$/")] {
        let found = client.call("xo.getAllObjects", json!({"filter": filter}));
        assert_eq!(found.as_object().map(|map| map.keys().collect::<Vec<_>>()), Some(vec![&vdi]));
    }
    let two = client.call("xo.getAllObjects", json!({"filter": {"type": "VDI"}, "limit": 1}));
    assert_eq!(two.as_object().map(serde_json::Map::len), Some(1));
    client.fails("xo.getAllObjects", json!({"filter": "("}), 10);
    client.fails("xo.getAllObjects", json!({"limit": -1}), 10);
    client.fails("xo.getAllObjects", json!({"ndjson": true}), 10);
}

#[test]
fn a_token_of_some_objects_sees_these_alone_and_makes_no_stronger_one() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(4096, 1));
    server.import("?raw", noise(4096, 2));
    let made = gantry(["token", "create", "--scope", "read", "--object", &vdi, "--data"])
        .arg(server.data())
        .output();
    let token = String::from_utf8(made.expect("it runs").stdout).expect("text").trim().to_owned();
    let mut client = Client::open(&server);
    client.call("session.signIn", json!({"token": token}));
    let seen = client.call("xo.getAllObjects", json!({}));
    assert_eq!(seen.as_object().map(|map| map.keys().collect::<Vec<_>>()), Some(vec![&vdi]));
    client.fails("token.create", json!({"scope": ["admin"]}), 5);
    client.fails("token.delete", json!({"pattern": {}}), 2);
}

#[test]
fn idle_connections_do_not_hold_up_the_stop() {
    let mut server = Server::start();
    let mut clients: Vec<Client> = (0..5).map(|_| Client::open(&server)).collect();
    clients[0].sign_in();
    let begun = Instant::now();
    assert_eq!(server.terminate().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    clients.iter_mut().for_each(|client| client.is_closed(CloseCode::Away));
}

#[test]
fn connections_are_counted_and_one_that_has_ended_makes_room() {
    let server = Server::start();
    let mut clients: Vec<Client> = (0..64).map(|_| Client::open(&server)).collect();
    assert_eq!(Client::try_open(&server, "/api/", &[]).err(), Some(503));
    for client in &mut clients {
        client.call("session.signIn", json!({"token": server.token()}));
    }
    let mut one_more = Client::open(&server);
    one_more.fails("session.signIn", json!({"token": server.token()}), 25);
    drop(clients.pop());
    wait::until(LIMIT, || {
        let answer = one_more.answer("session.signIn", json!({"token": server.token()}));
        if answer.get("result").is_some() { Ok(()) } else { Err(answer.to_string()) }
    });
}

/// A batch whose answer would have twice the length that any may have.
fn long_batch() -> Message {
    let call = |id: usize| json!({"jsonrpc": "2.0", "id": id, "method": "xo.getAllObjects"});
    Message::text(json!((0..40).map(call).collect::<Vec<_>>()).to_string())
}

/// Makes all objects together have some 800 kB.
fn fill(server: &Server) {
    let text = "x".repeat(60_000);
    for pool in ["pools", "hosts", "srs"] {
        let link = server.json(&format!("/rest/v0/{pool}"))[0].as_str().expect("a link").to_owned();
        server.request("PATCH", &link).json(&json!({"name_description": text})).send().expect(204);
    }
    for n in 0..10 {
        let body = json!({"name_label": format!("vm {n}"), "name_description": text, "vdis": []});
        server.request("POST", "/rest/v0/vms").json(&body).send().expect(201);
    }
}

#[test]
fn an_answer_has_at_most_16_mib_and_what_goes_beyond_is_told() {
    let server = Server::start();
    fill(&server);
    let mut client = Client::open(&server);
    client.call("session.signIn", json!({"token": server.token()}));
    client.send(long_batch());
    let Message::Text(text) = client.next() else { panic!("no text") };
    assert!((15 << 20..17 << 20).contains(&text.len()), "{}", text.len());
    let answers: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answers.len(), 40);
    assert_eq!(answers[0]["result"].as_object().map(|map| map.len() > 10), Some(true));
    let error = &answers[39]["error"];
    assert_eq!(error["code"], -32000);
    assert!(error["message"].as_str().is_some_and(|message| message.contains("16 MiB")), "{error}");
}

#[test]
fn clients_that_do_not_read_their_answers_cost_bounded_memory_and_hold_up_nobody() {
    let server = Server::start();
    fill(&server);
    let mut silent: Vec<Client> = (0..16).map(|_| Client::open(&server)).collect();
    for client in &mut silent {
        client.call("session.signIn", json!({"token": server.token()}));
        client.send(long_batch());
        client.send(long_batch());
    }
    let mut client = Client::open(&server);
    client.call("session.signIn", json!({"token": server.token()}));
    // Until there is no room: from then on nothing grows any more.
    wait::until(Duration::from_secs(60), || {
        let answer = client.answer("xo.getAllObjects", json!({}));
        if answer["error"]["data"]["code"] == "busy" { Ok(()) } else { Err("there is room".to_owned()) }
    });
    let used = server.memory("VmHWM:");
    assert!(used < 512 << 20, "{} MiB", used >> 20);
    assert_eq!(client.call("session.getUser", json!({}))["email"], "admin", "what is short needs no room");
    drop(silent);
    wait::until(LIMIT, || {
        let answer = client.answer("xo.getAllObjects", json!({}));
        if answer.get("result").is_some() { Ok(()) } else { Err(answer.to_string()) }
    });
}
