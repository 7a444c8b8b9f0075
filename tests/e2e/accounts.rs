//! Users over REST: making, changing and removing them, one's own password, and tokens that renew themselves.

use std::sync::Barrier;

use serde_json::{Value, json};

use crate::support::server::{PASSWORD, Server, created};

fn own_id(server: &Server) -> String {
    let me = server.get("/rest/v0/users/me").expect(307);
    me.head.need("Location").rsplit('/').next().expect("an id").to_owned()
}

fn make(server: &Server, body: &Value) -> String {
    created(&server.request("POST", "/rest/v0/users").json(body).send(), "users")
}

fn login(server: &Server, name: &str, password: &str) -> u16 {
    server.request("GET", "/rest/v0").basic(name, password).send().head.status
}

/// A token of somebody's, by his password.
fn token_of(server: &Server, name: &str, password: &str, more: &Value) -> String {
    let target = "/rest/v0/users/authentication_tokens";
    let made = server.request("POST", target).basic(name, password).json(more).send().expect(201).json();
    made["token"]["id"].as_str().expect("a token").to_owned()
}

fn with(server: &Server, token: &str, target: &str) -> crate::support::http::Response {
    let cookie = format!("authenticationToken={token}");
    server.request("GET", target).anonymous().header("Cookie", &cookie).send()
}

/// interface.md: `PATCH /rest/v0/users/<own id>` `{"password", "currentPassword"}` ends the other tokens
#[test]
fn ones_own_password_is_changed_by_the_current_one_and_ends_the_other_tokens() {
    let server = Server::start();
    let target = format!("/rest/v0/users/{}", own_id(&server));
    let other = token_of(&server, "admin", PASSWORD, &json!({}));
    let change = |body: Value| server.request("PATCH", &target).json(&body).send();
    change(json!({"password": "new one"})).refused(422..=422);
    change(json!({"password": "", "currentPassword": PASSWORD})).refused(422..=422);
    assert_eq!(change(json!({"password": "new one", "currentPassword": PASSWORD})).expect(204).body, b"");
    assert_eq!(login(&server, "admin", "new one"), 200);
    assert_eq!(with(&server, &other, "/rest/v0").head.status, 401);
    server.get("/rest/v0").expect(200);
    change(json!({"password": "x", "currentPassword": "wrong"})).refused(403..=403);
    // It counts as a failed login.
    change(json!({"password": "x", "currentPassword": "new one"})).refused(429..=429);
    assert_eq!(login(&server, "admin", "new one"), 429);
}

#[test]
fn an_administrator_makes_changes_and_removes_users() {
    let server = Server::start();
    let ann = make(&server, &json!({"name": "ann", "password": "geheim", "role": "operator"}));
    let bob = make(&server, &json!({"email": "bob@example.org", "password": "geheim", "permission": "none"}));
    let target = |id: &str| format!("/rest/v0/users/{id}");
    let shown = server.json(&target(&ann));
    assert_eq!((&shown["role"], &shown["permission"]), (&json!("operator"), &json!("none")));
    assert_eq!(server.json(&target(&bob))["role"], "viewer");
    assert_eq!(login(&server, "bob@example.org", "geheim"), 200);
    let post = |body: Value| server.request("POST", "/rest/v0/users").json(&body).send();
    assert_eq!(
        post(json!({"name": "ann", "password": "x"})).refused(409..=409).text,
        "there is a user \"ann\" already"
    );
    for bad in [
        json!({"name": "c"}),
        json!({"password": "x"}),
        json!({"name": "a:b", "password": "x"}),
        json!({"name": "c", "password": ""}),
        json!({"name": "c", "password": "x", "role": "king"}),
        json!({"name": "c", "password": "x", "nonsense": 1}),
    ] {
        post(bad).refused(422..=422);
    }
    let token = token_of(&server, "ann", "geheim", &json!({}));
    let patch = |id: &str, body: Value| server.request("PATCH", &target(id)).json(&body).send();
    patch(&ann, json!({"password": "another"})).expect(204);
    assert_eq!(login(&server, "ann", "another"), 200);
    assert_eq!(with(&server, &token, "/rest/v0").head.status, 401, "a new password ends the tokens");
    patch(&ann, json!({"role": "admin"})).expect(204);
    assert_eq!(server.json(&target(&ann))["permission"], "admin");
    let delete = |id: &str| server.request("DELETE", &target(id)).send();
    let me = own_id(&server);
    delete(&me).refused(409..=409);
    delete(&ann).expect(204);
    delete(&ann).refused(404..=404);
    patch(&me, json!({"role": "viewer"})).refused(409..=409);
    assert_eq!(login(&server, "ann", "another"), 401);
}

#[test]
fn who_is_no_administrator_changes_his_own_password_alone() {
    let server = Server::start();
    let bob = make(&server, &json!({"name": "bob", "password": "geheim"}));
    let cookie = format!("authenticationToken={}", token_of(&server, "bob", "geheim", &json!({})));
    let send = |method: &str, target: &str, body: Value| {
        server.request(method, target).anonymous().header("Cookie", &cookie).json(&body).send()
    };
    send("POST", "/rest/v0/users", json!({"name": "eve", "password": "x"})).refused(403..=403);
    let admin = format!("/rest/v0/users/{}", own_id(&server));
    send("PATCH", &admin, json!({"password": "x", "currentPassword": PASSWORD})).refused(403..=403);
    send("DELETE", &admin, json!({})).refused(403..=403);
    let own = format!("/rest/v0/users/{bob}");
    send("PATCH", &own, json!({"role": "admin"})).refused(403..=403);
    send("PATCH", &own, json!({"password": "x", "currentPassword": "geheim"})).expect(204);
    assert_eq!(login(&server, "bob", "x"), 200);
}

#[test]
fn the_same_request_for_a_user_again_is_the_same_user() {
    let server = Server::start();
    let body = json!({"name": "ann", "password": "geheim"});
    let post = || {
        let request = server.request("POST", "/rest/v0/users").header("Idempotency-Key", "one");
        created(&request.json(&body).send(), "users")
    };
    assert_eq!(post(), post());
}

/// "near expiry the server renews by `Set-Cookie: authenticationToken=…`" for tokens that were made renewable
#[test]
fn a_renewable_token_near_its_end_is_renewed_once_by_a_cookie() {
    let server = Server::start();
    let plain = token_of(&server, "admin", PASSWORD, &json!({"expiresIn": "1 hour"}));
    let token = token_of(&server, "admin", PASSWORD, &json!({"expiresIn": "1 hour", "renewable": true}));
    let cookie_of = |token: &str| {
        with(&server, token, "/rest/v0").expect(200).head.header("Set-Cookie").map(str::to_owned)
    };
    assert_eq!(cookie_of(&token), None, "it is not near its end");
    let database = rusqlite::Connection::open(server.data().join("gantry.db")).expect("it is SQLite");
    database.busy_timeout(std::time::Duration::from_secs(20)).expect("it can be set");
    let age = "UPDATE tokens SET created_ms = created_ms - 3000000, expires_ms = expires_ms - 3000000
               WHERE expires_ms - created_ms = 3600000";
    assert_eq!(database.execute(age, []).expect("it is written"), 2);
    assert_eq!(cookie_of(&plain), None, "it was not made renewable");
    // Not a browser's, which could be given another.
    let bearer = format!("Bearer {token}");
    let answer =
        server.request("GET", "/rest/v0").anonymous().header("Authorization", &bearer).send().expect(200);
    assert_eq!(answer.head.header("Set-Cookie"), None);
    let barrier = Barrier::new(4);
    let told: Vec<String> = std::thread::scope(|scope| {
        let ask = || {
            barrier.wait();
            cookie_of(&token)
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("it is answered")).collect()
    });
    let [cookie] = told.as_slice() else { panic!("one is told: {told:?}") };
    let rest = cookie.strip_prefix("authenticationToken=").expect("the cookie");
    let (renewed, attributes) = rest.split_once("; ").expect("attributes");
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict");
    assert_eq!(cookie_of(renewed), None, "it is fresh");
    assert_eq!(cookie_of(&token), None, "the old one works for some minutes");
}
