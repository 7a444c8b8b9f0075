//! Credentials, row by row of rest-v0.md §2, and tokens over REST.

use serde_json::json;

use crate::support::curl::Curl;
use crate::support::http::Response;
use crate::support::server::{PASSWORD, Server};

const TARGET: &str = "/rest/v0/vdis";

/// A request without the session, with these headers.
fn with(server: &Server, headers: &[(&str, &str)]) -> Response {
    let request = server.request("GET", TARGET).anonymous();
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

#[track_caller]
fn unauthorized(response: &Response) {
    let refusal = response.refused(401..=401);
    assert_eq!(refusal.text, "invalid credentials");
    assert_eq!(response.head.need("WWW-Authenticate"), "Basic realm=\"xo\"");
}

#[test]
fn a_token_is_taken_from_either_cookie_and_the_first_name_wins() {
    let server = Server::start();
    let token = server.token();
    for cookie in [
        format!("authenticationToken={token}"),
        format!("token={token}"),
        format!("theme=dark; authenticationToken={token}; other=1"),
        format!("theme=dark;token={token}"),
        format!("token=wrong; authenticationToken={token}"),
    ] {
        with(&server, &[("Cookie", &cookie)]).expect(200);
    }
    unauthorized(&with(&server, &[("Cookie", &format!("authenticationToken=wrong; token={token}"))]));
    unauthorized(&with(&server, &[("Cookie", "authenticationToken=wrong")]));
    unauthorized(&with(&server, &[("Cookie", "token=")]));
    unauthorized(&with(&server, &[("Cookie", "theme=dark")]));
}

#[test]
fn without_credentials_nothing_is_told() {
    let server = Server::start();
    for (method, target) in [
        ("GET", "/rest/v0/vdis"),
        ("GET", "/rest/v0/tasks"),
        ("GET", "/rest/v0"),
        ("DELETE", "/rest/v0/vdis/00000000-0000-4000-8000-000000000000"),
        ("GET", "/rest/v0/no/such/route"),
        ("POST", "/rest/v0/srs/nonsense/vdis"),
    ] {
        unauthorized(&server.request(method, target).anonymous().send());
    }
}

#[test]
fn basic_takes_a_name_and_a_password_split_at_the_first_colon() {
    let server = Server::start();
    // The password of these tests has a colon in it.
    assert!(PASSWORD.contains(':'));
    server.request("GET", TARGET).basic("admin", PASSWORD).send().expect(200);
    unauthorized(&server.request("GET", TARGET).basic("nobody", PASSWORD).send());
    unauthorized(&server.request("GET", TARGET).basic("", "").send());
    unauthorized(&server.request("GET", TARGET).basic("admin", "wrong").send());
}

#[test]
fn after_a_wrong_password_every_password_of_that_name_waits() {
    let server = Server::start();
    unauthorized(&server.request("GET", TARGET).basic("admin", "wrong").send());
    let response = server.request("GET", TARGET).basic("admin", PASSWORD).send();
    response.refused(429..=429);
    let seconds: u64 = response.head.need("Retry-After").parse().expect("seconds");
    assert!((1..=2).contains(&seconds), "{seconds}");
    // A token is never slowed.
    server.get(TARGET).expect(200);
    crate::support::wait::until(std::time::Duration::from_secs(5), || {
        let status = server.request("GET", TARGET).basic("admin", PASSWORD).send().head.status;
        if status == 200 { Ok(()) } else { Err(format!("{status}")) }
    });
}

#[test]
fn a_cookie_and_an_authorization_header_together_are_refused() {
    let server = Server::start();
    let cookie = format!("authenticationToken={}", server.token());
    let response = server.request("GET", TARGET).basic("admin", PASSWORD).header("Cookie", &cookie).send();
    let refusal = response.refused(400..=400);
    assert_eq!(refusal.text, "Having multiple authentication methods is not supported, please choose one");
    // A cookie that is about something else is no method.
    server.request("GET", TARGET).basic("admin", PASSWORD).header("Cookie", "theme=dark").send().expect(200);
}

#[test]
fn a_malformed_authorization_header_is_refused() {
    let server = Server::start();
    for value in ["X", "Basic", "dXNlcjpwYXNz"] {
        let refusal = with(&server, &[("Authorization", value)]).refused(400..=400);
        assert_eq!(refusal.text, "Malformed Authorization header", "{value}");
    }
    for value in ["Basic !!!", "Basic bm9jb2xvbg==", "Digest abc"] {
        let status = with(&server, &[("Authorization", value)]).head.status;
        assert!(matches!(status, 400 | 401), "{value}: {status}");
    }
}

#[test]
fn users_me_is_redirected_with_method_and_rest_of_the_path() {
    let server = Server::start();
    let me = server.get("/rest/v0/users/me").expect(307);
    let own = me.head.need("Location").to_owned();
    let id = own.strip_prefix("/rest/v0/users/").expect("a user's address").to_owned();
    let user = server.json(&own);
    assert_eq!(user["id"], id);
    assert_eq!(user["email"], "admin");
    assert_eq!(user["permission"], "admin");
    assert!(user["groups"].is_array() && user["preferences"].is_object(), "{user}");
    assert!(!user.to_string().contains("argon2"), "{user}");
    for (method, rest) in
        [("GET", "/authentication_tokens"), ("POST", "/authentication_tokens"), ("DELETE", "/a/b")]
    {
        let response = server.request(method, &format!("/rest/v0/users/me{rest}")).send().expect(307);
        assert_eq!(response.head.need("Location"), format!("{own}{rest}"));
    }
    unauthorized(&server.request("GET", "/rest/v0/users/me").anonymous().send());
}

#[test]
fn a_token_is_made_over_rest_by_curl_and_works() {
    let server = Server::start();
    let url = server.url("/rest/v0/users/me/authentication_tokens");
    let body = r#"{"description": "for a script", "expiresIn": "1 hour", "client": {"id": "my-script"}}"#;
    let curl = Curl::anonymous().args(["-u", &format!("admin:{PASSWORD}"), "-L", "-X", "POST"]);
    let done = curl.args(["-H", "Content-Type: application/json", "-d", body]).run(&url);
    assert_eq!((done.exit, done.status), (0, 201), "{done:?}");
    let token = done.json()["token"].clone();
    let secret = token["id"].as_str().expect("the secret");
    assert_eq!(secret.len(), 43, "32 bytes, base64url: {secret}");
    assert!(secret.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'), "{secret}");
    let (created, expires) =
        (token["created_at"].as_u64().expect("ms"), token["expiration"].as_u64().expect("ms"));
    assert_eq!(expires - created, 3_600_000, "{token}");
    assert_eq!(token["description"], "for a script");
    assert_eq!(token["client"]["id"], "my-script");
    let me = server.get("/rest/v0/users/me").expect(307);
    assert_eq!(
        format!("/rest/v0/users/{}", token["user_id"].as_str().expect("an id")),
        me.head.need("Location")
    );
    let done =
        Curl::anonymous().args(["-b", &format!("authenticationToken={secret}")]).run(&server.url(TARGET));
    assert_eq!(done.status, 200, "{done:?}");
}

#[test]
fn a_token_lasts_30_days_unless_told_and_never_less_than_a_minute_or_more_than_half_a_year() {
    let server = Server::start();
    let own = server.get("/rest/v0/users/me").expect(307).head.need("Location").to_owned();
    let make = |body: serde_json::Value| {
        server.request("POST", &format!("{own}/authentication_tokens")).json(&body).send()
    };
    let lasts = |body: serde_json::Value| {
        let token = make(body).expect(201).json()["token"].clone();
        token["expiration"].as_u64().expect("ms") - token["created_at"].as_u64().expect("ms")
    };
    const DAY: u64 = 86_400_000;
    assert_eq!(lasts(json!({})), 30 * DAY);
    assert_eq!(lasts(json!({"expiresIn": 60_000})), 60_000);
    assert_eq!(lasts(json!({"expiresIn": "2 weeks"})), 14 * DAY);
    for wrong in [
        json!(59_999),
        json!("1 second"),
        json!("10 years"),
        json!(400 * DAY),
        json!("soon"),
        json!(-1),
        json!([]),
    ] {
        make(json!({"expiresIn": wrong})).refused(400..=422);
    }
    // Without a body at all.
    server.request("POST", &format!("{own}/authentication_tokens")).send().expect(201);
}

#[test]
fn the_old_address_makes_tokens_too() {
    let server = Server::start();
    let request = server.request("POST", "/rest/v0/users/authentication_tokens").basic("admin", PASSWORD);
    let token = request.send().expect(201).json()["token"]["id"].as_str().expect("a secret").to_owned();
    with(&server, &[("Cookie", &format!("token={token}"))]).expect(200);
    let wrong = server.request("POST", "/rest/v0/users/authentication_tokens").basic("admin", "wrong").send();
    unauthorized(&wrong);
}

#[test]
fn another_users_tokens_are_forbidden() {
    let server = Server::start();
    let added =
        crate::support::server::gantry(["user", "add", "other", "--data"]).arg(server.data()).output();
    assert!(added.expect("the program runs").status.success());
    let users = server.json("/rest/v0/users?fields=id,email");
    let other =
        users.as_array().and_then(|users| users.iter().find(|user| user["email"] == "other").cloned());
    let other = other.expect("the other user is listed")["id"].as_str().expect("an id").to_owned();
    let target = format!("/rest/v0/users/{other}/authentication_tokens");
    let refusal = server.request("POST", &target).send().refused(403..=403);
    assert_eq!(refusal.text, "forbidden operation: create authentication token");
}

#[test]
fn a_token_survives_a_restart_and_is_not_kept_in_the_clear() {
    let mut server = Server::start();
    server.kill();
    server.start_again();
    server.get(TARGET).expect(200);
    for file in crate::support::server::files_under(server.data()) {
        let bytes = std::fs::read(&file).expect("it can be read");
        let secret = server.token().as_bytes();
        assert!(
            !bytes.windows(secret.len()).any(|part| part == secret),
            "the token lies in {}",
            file.display()
        );
        assert!(
            !bytes.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes()),
            "the password lies in {}",
            file.display()
        );
    }
    assert!(!server.log().contains(server.token()), "the token is in the log");
}

#[test]
fn a_token_is_made_by_a_form_and_a_refusal_names_its_member() {
    let server = Server::start();
    let own = server.get("/rest/v0/users/me").expect(307).head.need("Location").to_owned();
    let target = format!("{own}/authentication_tokens");
    let form = |body: &str| {
        let request = server.request("POST", &target);
        request
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(body.as_bytes().to_vec())
            .send()
    };
    let made = form("description=f&renewable=true&expiresIn=60000&scope=export").expect(201).json();
    let token = &made["token"];
    assert_eq!((&token["renewable"], &token["scope"]), (&json!(true), &json!(["export"])), "{made}");
    for (body, member, value) in [
        ("expiresIn=10 s", "body.expiresIn", "10 s"),
        ("scope=everything", "body.scope", "everything"),
        ("renewable=perhaps", "body.renewable", "perhaps"),
    ] {
        let refused = form(body).expect(422).json();
        let given = &refused["error"][member]["value"];
        assert!(given == value || given[0] == value, "{refused}");
    }
}
