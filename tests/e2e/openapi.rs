//! The description of the API: what it says is so, and people and programs can work with it.

#[cfg(test)]
mod judges;
#[cfg(test)]
mod shapes;

use serde_json::Value;

use crate::support::http::Request;
use crate::support::server::Server;

fn anonymous(server: &Server, target: &str) -> Request {
    Request::new(server.address(), "GET", target)
}

#[test]
fn anybody_reads_the_description_and_it_is_the_golden_one() {
    let server = Server::start();
    let answer = anonymous(&server, "/rest/v0/docs/swagger.json").send().expect(200);
    assert_eq!(answer.head.need("Content-Type"), "application/json; charset=utf-8");
    let golden: Value = serde_json::from_str(include_str!("../openapi.json")).unwrap();
    assert_eq!(answer.json(), golden);
    assert_eq!(golden["openapi"], "3.1.0");
    assert_eq!(golden["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(anonymous(&server, "/rest/v0/mcp/status").send().expect(200).json()["enabled"], true);
    assert_eq!(anonymous(&server, "/rest/v0/gui-routes").send().expect(200).json(), serde_json::json!({}));
}

/// The page works offline and under a strict policy: all that it names comes from here, and nothing is inline.
#[cfg(feature = "swagger-ui")]
#[test]
fn the_description_is_a_page_that_needs_nothing_from_elsewhere() {
    let server = Server::start();
    for address in ["/rest/v0/docs", "/rest/v0/docs/", "/rest/v0/docs/index.html"] {
        let page = anonymous(&server, address).send().expect(200);
        assert!(page.head.need("Content-Type").starts_with("text/html"));
        let text = page.text();
        let mut parts = 0;
        for attribute in ["src=\"", "href=\""] {
            for part in text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(part.starts_with("/rest/v0/docs/"), "{part}");
                let part = anonymous(&server, part).send().expect(200);
                assert!(!part.body.is_empty());
                parts += 1;
            }
        }
        assert_eq!(parts, 5);
        for inline in ["<style", "style=", "onload", "javascript:", "<script>"] {
            assert!(!text.contains(inline), "{inline}");
        }
    }
    let start = anonymous(&server, "/rest/v0/docs/start.js").send().expect(200).text();
    assert!(start.contains("/rest/v0/docs/swagger.json") && !start.contains("http"));
    anonymous(&server, "/rest/v0/docs/other.js").send().expect(401);
    server.get("/rest/v0/docs/other.js").expect(404);
}
