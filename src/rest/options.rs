//! `OPTIONS`: which methods an address takes.

use actix_web::http::Method;
use actix_web::http::header::{ALLOW, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse};

use crate::inventory::Collection;

/// The answer to `OPTIONS` of an address that has a route; nothing for other requests.
pub fn answer(request: &HttpRequest) -> Option<HttpResponse> {
    if *request.method() != Method::OPTIONS {
        return None;
    }
    let allowed = allowed(request.match_pattern()?.trim_end_matches('/'));
    let mut response = HttpResponse::Ok();
    response.insert_header((ALLOW, allowed)).insert_header((CONTENT_TYPE, "text/plain; charset=utf-8"));
    Some(response.body(allowed))
}

/// The methods of a route, by its pattern. What is not named here can be read.
fn allowed(pattern: &str) -> &'static str {
    let rest = pattern.strip_prefix("/rest/v0/").unwrap_or_default();
    let segments: Vec<&str> = rest.split('/').collect();
    let collection = segments.first().and_then(|name| Collection::named(name));
    match (collection, segments.as_slice()) {
        (_, ["users", "me", ..]) => "GET,HEAD,POST,PUT,PATCH,DELETE",
        (_, ["users", "authentication_tokens"] | ["pools", _, "vms"] | ["srs", _, "vdis"]) => "POST",
        (_, ["events", _, "subscriptions"]) => "POST",
        (_, ["users", _, "authentication_tokens"]) => "GET,HEAD,POST",
        (_, ["users", _, "authentication_tokens", _] | ["events", _, "subscriptions", _]) => "DELETE",
        (_, ["tasks"]) => "GET,HEAD,DELETE",
        (_, ["tasks" | "users", _]) => "GET,HEAD,PATCH,DELETE",
        (_, ["vdis", "{id}.{extension}"]) => "GET,HEAD,PUT",
        (Some(_), [_, "{id}.{extension}"]) => "GET,HEAD",
        (_, ["users" | "vdis" | "srs" | "vms" | "vbds"]) => "GET,HEAD,POST",
        (Some(Collection::Hosts | Collection::Pools), [_, _]) => "GET,HEAD,PATCH",
        (Some(_), [_, _]) => "GET,HEAD,PATCH,DELETE",
        (Some(_), [_, _, "tags", _]) => "PUT,DELETE",
        (_, ["tasks" | "srs" | "vdis" | "vms", _, "actions", _]) => "GET,HEAD,POST",
        _ => "GET,HEAD",
    }
}
