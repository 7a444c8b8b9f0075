//! §2 Authentication over REST. What belongs to JSON-RPC is proven elsewhere.

use base64::Engine as _;
use serde_json::json;

use super::Site;
use crate::support::http::Request;
use crate::support::server::{PASSWORD, Server, gantry};

fn basic(pair: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// The table of credentials, column "→".
#[test]
fn each_credential_is_taken_or_refused_as_its_row_says() {
    let server = Server::start();
    let token = server.token().to_owned();
    let admin = basic(&format!("admin:{PASSWORD}"));
    let invalid = "invalid credentials";
    let several = "Having multiple authentication methods is not supported, please choose one";
    let malformed = "Malformed Authorization header";
    let cookie = |text: String| ("Cookie", text);
    let header = |text: String| ("Authorization", text);
    let table = [
        ("the cookie authenticationToken", vec![cookie(format!("authenticationToken={token}"))], 200, ""),
        ("the cookie token", vec![cookie(format!("token={token}"))], 200, ""),
        ("the first name wins", vec![cookie(format!("token=x; authenticationToken={token}"))], 200, ""),
        ("the first name wins", vec![cookie(format!("token={token}; authenticationToken=x"))], 401, invalid),
        ("Basic, split at the first colon only", vec![header(admin.clone())], 200, ""),
        ("Bearer, the same as the cookie", vec![header(format!("Bearer {token}"))], 200, ""),
        ("a cookie and a header", vec![cookie(format!("token={token}")), header(admin)], 400, several),
        ("a header without a space", vec![header("X".into())], 400, malformed),
        ("nothing", vec![], 401, invalid),
        ("an unknown token", vec![cookie("authenticationToken=nonsense".into())], 401, invalid),
        ("an unknown user", vec![header(basic("nobody:x"))], 401, invalid),
    ];
    for (row, headers, status, message) in table {
        let mut request = Request::new(server.address(), "GET", "/rest/v0");
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let response = request.send();
        assert_eq!(response.head.status, status, "{row}: {}", response.text());
        if status != 200 {
            assert_eq!(response.json()["error"], message, "{row}");
        }
        let challenge = response.head.header("WWW-Authenticate");
        assert_eq!(challenge, (status == 401).then_some("Basic realm=\"xo\""), "{row}");
    }
}

/// "plus `?otp=<code>` when the user has two-factor": nobody has it here, and clients send it all the same.
#[test]
fn an_otp_that_nobody_asked_for_does_no_harm() {
    let server = Server::start();
    server.request("GET", "/rest/v0?otp=123456").basic("admin", PASSWORD).send().expect(200);
}

/// "valid user, not permitted: `403` `{"error": "not enough privileges", "data": {"missingPrivileges": [{objectId, action,
/// resource}]}}`".
#[test]
fn who_may_not_is_told_what_is_missing() {
    let site = Site::new();
    let made = gantry(["user", "add", "eve", "--role", "viewer", "--data"]).arg(site.server.data()).output();
    let made = made.expect("it runs");
    let password = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    assert!(made.status.success() && !password.is_empty(), "{made:?}");
    let target = format!("/rest/v0/vdis/{}", site.vdi);
    let refusal = site.server.request("DELETE", &target).basic("eve", &password).send().refused(403..=403);
    assert_eq!(refusal.body["error"], "not enough privileges");
    let missing = &refusal.body["data"]["missingPrivileges"][0];
    assert_eq!(missing["objectId"], site.vdi.as_str(), "{missing}");
    assert!(missing["action"].is_string() && missing["resource"].is_string(), "{missing}");
}

/// "Public routes (no credentials)": `GET /ping` → `{"result": "pong", "timestamp": <ms>}`.
#[test]
fn ping_needs_no_credentials() {
    let server = Server::start();
    let pong = server.request("GET", "/rest/v0/ping").anonymous().send().expect(200).json();
    assert_eq!(pong["result"], "pong");
    assert!(pong["timestamp"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "{pong}");
}

/// "`/users/me`, `/users/me/<anything>` (any method): `307` to the own id; method and body are kept".
#[test]
fn me_is_a_redirect_that_curl_follows_with_its_body() {
    let server = Server::start();
    let head = server.get("/rest/v0/users/me").expect(307).head;
    let own = head.need("Location").to_owned();
    assert!(own.starts_with("/rest/v0/users/") && own != "/rest/v0/users/me", "{own}");
    let user = server.json(&own);
    for member in ["id", "email", "permission", "groups", "preferences"] {
        assert!(user.get(member).is_some(), "{member} of {user}");
    }
    assert_eq!(user["permission"], "admin");
    assert!(user.get("pw_hash").is_none_or(|hash| hash == "***obfuscated***"));
    for method in ["POST", "PATCH", "DELETE", "PUT"] {
        let head = server.request(method, "/rest/v0/users/me/x/y?a=b").send().expect(307).head;
        assert!(head.need("Location").starts_with(&format!("{own}/x/y")), "{method}");
    }
    let body = json!({"description": "of curl"}).to_string();
    let done = server.curl().args(["-L", "-X", "POST", "-H", "Content-Type: application/json", "-d", &body]);
    let done = done.run(&server.url("/rest/v0/users/me/authentication_tokens"));
    assert_eq!((done.exit, done.status), (0, 201), "{done:?}");
    let token = &done.json()["token"];
    for member in ["id", "user_id", "created_at", "expiration", "description"] {
        assert!(token.get(member).is_some(), "{member} of {token}");
    }
    assert_eq!(token["id"].as_str().map(str::len), Some(43), "32 random bytes in base64url");
    let month =
        token["expiration"].as_u64().zip(token["created_at"].as_u64()).map(|(end, begin)| end - begin);
    assert_eq!(month, Some(30 * 24 * 3_600_000), "default validity 30 days");
    assert!(own.ends_with(token["user_id"].as_str().expect("an id")));
}

/// "`expiresIn` is ms as a number or a duration string; at least 1 minute, at most half a year, otherwise an error"; old
/// form `POST /users/authentication_tokens`; another user's id 403; the list has no secrets.
#[test]
fn tokens_are_made_by_both_addresses_and_listed_without_their_secrets() {
    let server = Server::start();
    let make = |body| server.request("POST", "/rest/v0/users/authentication_tokens").json(&body).send();
    for (expires, ms) in
        [(json!(3_600_000), 3_600_000), (json!("1 hour"), 3_600_000), (json!("2 weeks"), 1_209_600_000_u64)]
    {
        let token = make(json!({"expiresIn": expires})).expect(201).json()["token"].clone();
        let life =
            token["expiration"].as_u64().zip(token["created_at"].as_u64()).map(|(end, begin)| end - begin);
        assert_eq!(life, Some(ms), "{token}");
        let secret = token["id"].as_str().expect("a secret");
        let own = token["user_id"].as_str().expect("an id");
        let list = server.get(&format!("/rest/v0/users/{own}/authentication_tokens")).expect(200);
        assert!(!list.text().contains(secret), "a secret is never shown again");
        assert!(list.json().as_array().is_some_and(|list| list.iter().all(|one| one.get("href").is_none())));
    }
    for expires in [json!(59_999), json!("1 year"), json!("soon")] {
        make(json!({ "expiresIn": expires })).refused(400..=422);
    }
    let target = format!("/rest/v0/users/{}/authentication_tokens", super::NOBODY);
    let refusal = server.request("POST", &target).json(&json!({})).send().refused(403..=403);
    assert!(refusal.text.starts_with("forbidden operation"), "{}", refusal.text);
    assert!(refusal.body["data"]["operation"].is_string() && refusal.body["data"]["reason"].is_string());
}
