//! Requests that pages make in browsers.

use serde_json::json;

use crate::support::http::Response;
use crate::support::server::{Server, Setup};

/// A write with the session's cookie.
fn write(server: &Server, headers: &[(&str, &str)]) -> Response {
    let mut request = server.request("POST", "/rest/v0/users/authentication_tokens").json(&json!({}));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.send()
}

#[test]
fn a_foreign_page_cannot_write_with_a_users_cookie() {
    let server = Server::start();
    for headers in [
        [("Origin", "https://evil.example")],
        [("Origin", "null")],
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-site")],
    ] {
        assert_eq!(write(&server, &headers).refused(403..=403).code, "cross_site", "{headers:?}");
    }
    let foreign = [("Origin", "https://evil.example")];
    for (method, target) in
        [("DELETE", "/rest/v0/tasks"), ("PATCH", "/rest/v0/vdis/x"), ("patch", "/rest/v0/vdis/x")]
    {
        let request = server.request(method, target).header(foreign[0].0, foreign[0].1);
        assert_eq!(request.send().refused(403..=403).code, "cross_site", "{method}");
    }
    let upload =
        server.request("POST", &server.import_target("?raw")).header("Origin", "https://evil.example");
    let refused = upload.header("Expect", "100-continue").begin(Some(4096)).answer();
    assert_eq!(refused.head.status, 403, "also before the body is asked for");
    assert_eq!(server.vdis(), Vec::<String>::new());
    // It may not read either: no answer tells its browser that it may.
    let read =
        server.request("GET", "/rest/v0/srs").header("Origin", "https://evil.example").send().expect(200);
    assert_eq!(read.head.header("Access-Control-Allow-Origin"), None);
}

#[test]
fn programs_and_own_pages_write_as_before() {
    let server = Server::start();
    let own = format!("http://{}", server.address());
    for headers in [
        vec![],
        vec![("Sec-Fetch-Mode", "cors")],
        vec![("Origin", own.as_str()), ("Sec-Fetch-Site", "same-origin")],
        vec![("Sec-Fetch-Site", "none")],
    ] {
        write(&server, &headers).expect(201);
    }
    let bearer = server.request("POST", "/rest/v0/users/authentication_tokens").anonymous().json(&json!({}));
    let bearer =
        bearer.basic("admin", crate::support::server::PASSWORD).header("Origin", "https://tool.example");
    bearer.send().expect(201);
}

#[test]
fn only_configured_origins_are_told_that_they_may() {
    let config =
        "[http]\ncors_origins = [\"https://app.example\"]\npublic_url = \"https://gantry.example/x\"";
    let server = Setup::default().config(config).start();
    write(&server, &[("Origin", "https://app.example"), ("Sec-Fetch-Site", "cross-site")]).expect(201);
    write(&server, &[("Origin", "https://gantry.example")]).expect(201);
    write(&server, &[("Origin", "https://other.example")]).expect(403);
    let read =
        server.request("GET", "/rest/v0/srs").header("Origin", "https://app.example").send().expect(200);
    assert_eq!(read.head.need("Access-Control-Allow-Origin"), "https://app.example");
    assert_eq!(read.head.need("Access-Control-Allow-Credentials"), "true");
    assert!(read.head.need("Access-Control-Expose-Headers").contains("Gantry-Task"));
    assert!(read.head.need("Vary").split(", ").any(|name| name == "Origin"), "{:?}", read.head);
    let preflight = |origin: &str| {
        let request = server.request("OPTIONS", "/rest/v0/vdis/x").anonymous().header("Origin", origin);
        request.header("Access-Control-Request-Method", "DELETE").send()
    };
    let answer = preflight("https://app.example").expect(204);
    assert!(answer.head.need("Access-Control-Allow-Methods").contains("DELETE"));
    assert!(answer.head.need("Access-Control-Allow-Headers").contains("Content-Type"));
    assert_eq!(answer.head.need("Access-Control-Allow-Origin"), "https://app.example");
    assert_eq!(preflight("https://other.example").head.header("Access-Control-Allow-Origin"), None);
}

#[test]
fn any_origin_is_none_that_may_use_a_cookie() {
    let server = Setup::default().config("[http]\ncors_origins = [\"*\"]").start();
    let read =
        server.request("GET", "/rest/v0/srs").header("Origin", "https://any.example").send().expect(200);
    assert_eq!(read.head.need("Access-Control-Allow-Origin"), "*");
    assert_eq!(read.head.header("Access-Control-Allow-Credentials"), None);
    write(&server, &[("Origin", "https://any.example")]).expect(403);
}

#[test]
fn every_answer_is_what_it_says_it_is() {
    let server = Server::start();
    for target in ["/rest/v0/srs", "/rest/v0/nowhere", "/health/live", "/rest/v0/ping"] {
        assert_eq!(server.get(target).head.need("X-Content-Type-Options"), "nosniff", "{target}");
    }
}
