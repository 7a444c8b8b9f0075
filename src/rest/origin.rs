//! Requests that a page of somebody else's makes in a user's browser, and what answers say to browsers.
//!
//! A browser adds cookies to a request whoever's page makes it, so a write with a cookie is done only when nothing says
//! that the page is foreign. Programs that are no browsers send none of these headers and pass.

use actix_http::RequestHead;
use actix_web::HttpResponse;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};

use crate::config::Config;

use super::error::ApiError;

/// How long a browser may remember a preflight's answer.
const MAX_AGE_S: &str = "600";

/// What pages of configured origins may send.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
const HEADERS: &str = "Authorization, Content-Type, Range, If-Range, If-Match, If-None-Match, Idempotency-Key, \
                       Content-Digest, Repr-Digest, Upload-Offset, Upload-Length, Upload-Complete, Upload-Metadata, \
                       Upload-Draft-Interop-Version, Tus-Resumable, Last-Event-ID";
/// What they may read of answers, besides what all may.
const EXPOSED: &str = "Location, ETag, Accept-Ranges, Content-Range, Content-Length, Content-Disposition, Retry-After, \
                       Repr-Digest, Gantry-Task, Idempotent-Replayed, Upload-Offset, Upload-Length, Upload-Complete, \
                       Tus-Resumable, Tus-Version";

/// What a page may load: its own scripts and images, nothing of anybody else's.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Refuses a write that a foreign page makes with credentials that the browser has added by itself.
///
/// # Errors
/// 403 `cross_site`.
pub fn refuse_cross_site(config: &Config, head: &RequestHead) -> Result<(), ApiError> {
    if matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    require_own_page(config, head)
}

/// The same for what is no write by its method and may still change something, such as the upgrade to a WebSocket.
///
/// # Errors
/// 403 `cross_site`.
pub fn require_own_page(config: &Config, head: &RequestHead) -> Result<(), ApiError> {
    let headers = &head.headers;
    let cookie = has_session_cookie(headers);
    let basic = scheme_is_basic(headers);
    if !cookie && !basic {
        return Ok(());
    }
    let origins: Vec<&str> =
        headers.get_all(header::ORIGIN).map(|value| value.to_str().unwrap_or("?")).collect();
    if cookie {
        match origins.as_slice() {
            [] => {}
            [origin] if is_configured(config, origin) => return Ok(()),
            [origin] if is_own(config, head, origin) => {}
            _ => return Err(ApiError::CrossSite),
        }
    } else if let [origin] = origins.as_slice()
        && is_configured(config, origin)
    {
        return Ok(());
    }
    // Only browsers say it, and a page cannot make them say anything else. A password that the browser remembers is
    // sent like a cookie; one that a program has is not said to come from a page.
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    match site {
        Some("cross-site" | "same-site") => Err(ApiError::CrossSite),
        _ => Ok(()),
    }
}

fn has_session_cookie(headers: &HeaderMap) -> bool {
    let pairs = headers.get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
    let mut names = pairs.flat_map(|pairs| pairs.split(';')).filter_map(|pair| pair.split('=').next());
    names.any(|name| matches!(name.trim(), "authenticationToken" | "token"))
}

fn scheme_is_basic(headers: &HeaderMap) -> bool {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.get(..6)).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic "))
}

/// An origin without what it need not say, in lower case.
fn normal(origin: &str) -> String {
    let origin = origin.trim().to_ascii_lowercase();
    let port = if origin.starts_with("https://") { ":443" } else { ":80" };
    origin.strip_suffix(port).map(str::to_owned).unwrap_or(origin)
}

/// Whether the configuration names an origin: as one that browsers may call from, or as its own address. `*` names
/// nobody who may use a cookie.
fn is_configured(config: &Config, origin: &str) -> bool {
    let origin = normal(origin);
    let public = config.http.public_url.iter().filter_map(|url| {
        let scheme = url.find("://")? + 3;
        let end = url.get(scheme..)?.find('/').map_or(url.len(), |slash| scheme + slash);
        url.get(..end)
    });
    let named = config.http.cors_origins.iter().map(String::as_str).filter(|one| *one != "*");
    named.chain(public).any(|one| normal(one) == origin)
}

/// Whether an origin is the address that the request was sent to.
fn is_own(config: &Config, head: &RequestHead, origin: &str) -> bool {
    let host = head.uri.authority().map(|authority| authority.as_str());
    let host = host.or_else(|| head.headers.get(header::HOST).and_then(|value| value.to_str().ok()));
    let origin = normal(origin);
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    // Without TLS of its own, it may be a proxy that has it.
    let schemes: &[&str] = if config.tls.is_on() { &["https"] } else { &["http", "https"] };
    schemes.contains(&scheme)
        && host.is_some_and(|host| normal(&format!("{scheme}://{host}")) == format!("{scheme}://{authority}"))
}

/// The answer to a preflight of a configured origin; nothing for what is none. Needs no credentials, which browsers do
/// not send with it.
pub fn preflight(config: &Config, head: &RequestHead) -> Option<HttpResponse> {
    if head.method != Method::OPTIONS
        || !head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        || allowed_origin(config, &head.headers).is_none()
    {
        return None;
    }
    Some(
        HttpResponse::build(StatusCode::NO_CONTENT)
            .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, METHODS))
            .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS))
            .insert_header((header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_S))
            .finish(),
    )
}

/// What `Access-Control-Allow-Origin` is to be: the origin when it is named, `*` when all are.
fn allowed_origin(config: &Config, headers: &HeaderMap) -> Option<HeaderValue> {
    let mut origins = headers.get_all(header::ORIGIN);
    let (origin, None) = (origins.next()?, origins.next()) else { return None };
    let named = &config.http.cors_origins;
    let text = origin.to_str().ok()?;
    if named.iter().any(|one| one != "*" && normal(one) == normal(text)) {
        return Some(origin.clone());
    }
    named.iter().any(|one| one == "*").then(|| HeaderValue::from_static("*"))
}

/// What an answer has to say to browsers about who may read it.
#[derive(Debug)]
pub struct Shared {
    origin: Option<HeaderValue>,
    varies: bool,
}

impl Shared {
    /// For the answer to a request.
    pub fn of(config: &Config, headers: &HeaderMap) -> Self {
        let varies = !config.http.cors_origins.is_empty();
        Self { origin: if varies { allowed_origin(config, headers) } else { None }, varies }
    }

    /// Adds the headers of an answer.
    pub fn add_to(self, headers: &mut HeaderMap) {
        if self.varies {
            let others = headers.get(header::VARY).and_then(|value| value.to_str().ok());
            let all = others.and_then(|others| HeaderValue::try_from(format!("{others}, Origin")).ok());
            headers.insert(header::VARY, all.unwrap_or(HeaderValue::from_static("Origin")));
        }
        if let Some(origin) = self.origin {
            if origin != "*" {
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
        secure(headers);
    }
}

/// Adds what keeps a browser from doing with an answer what it is not for. What a route has said itself stays.
fn secure(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html")) {
        return;
    }
    let page: [(HeaderName, &str); 3] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in page {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: Method, headers: &[(&'static str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        head.method = method;
        head.headers.insert(header::HOST, HeaderValue::from_static("gantry.example:8080"));
        for (name, value) in headers {
            head.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        head
    }

    fn config() -> Config {
        let mut config = Config::default();
        config.http.public_url = Some("https://public.example/gantry".into());
        config.http.cors_origins = vec!["https://app.example".into(), "*".into()];
        config
    }

    fn refused(method: Method, headers: &[(&'static str, &str)]) -> bool {
        refuse_cross_site(&config(), &head(method, headers)).is_err()
    }

    const COOKIE: (&str, &str) = ("cookie", "a=b; authenticationToken=secret");

    #[test]
    fn a_write_with_a_cookie_from_a_foreign_page_is_refused() {
        for origin in [
            "https://evil.example",
            "null",
            "",
            "http://gantry.example",
            "http://gantry.example:8081",
            "http://gantry.example:8080.evil.example",
            "https://app.example.evil.example",
            "ftp://gantry.example:8080",
        ] {
            assert!(refused(Method::POST, &[COOKIE, ("origin", origin)]), "{origin:?}");
            assert!(refused(Method::DELETE, &[("cookie", "token=x"), ("origin", origin)]), "{origin:?}");
            assert!(!refused(Method::GET, &[COOKIE, ("origin", origin)]), "{origin:?}");
        }
        let twice = [COOKIE, ("origin", "https://app.example"), ("origin", "https://evil.example")];
        assert!(refused(Method::PUT, &twice));
        for site in ["cross-site", "same-site"] {
            assert!(refused(Method::PATCH, &[COOKIE, ("sec-fetch-site", site)]), "{site}");
        }
    }

    #[test]
    fn programs_and_own_pages_pass() {
        assert!(!refused(Method::POST, &[COOKIE]));
        assert!(!refused(Method::POST, &[COOKIE, ("sec-fetch-mode", "cors")]));
        for origin in [
            "http://gantry.example:8080",
            "https://GANTRY.example:8080",
            "https://public.example",
            "https://public.example:443",
            "https://app.example",
        ] {
            assert!(!refused(Method::POST, &[COOKIE, ("origin", origin)]), "{origin}");
        }
        assert!(!refused(Method::POST, &[COOKIE, ("sec-fetch-site", "same-origin")]));
        let configured = [COOKIE, ("origin", "https://app.example"), ("sec-fetch-site", "cross-site")];
        assert!(!refused(Method::POST, &configured));
    }

    #[test]
    fn a_password_counts_as_a_cookie_only_where_a_browser_says_that_a_page_sent_it() {
        let basic = ("authorization", "Basic YTpi");
        assert!(!refused(Method::POST, &[basic, ("origin", "https://evil.example")]));
        assert!(refused(Method::POST, &[basic, ("sec-fetch-site", "cross-site")]));
        assert!(!refused(Method::POST, &[("authorization", "Bearer x"), ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn behind_tls_of_its_own_a_plain_page_of_the_same_host_is_foreign() {
        let mut config = Config::default();
        config.tls.self_signed = true;
        let from = |origin| refuse_cross_site(&config, &head(Method::POST, &[COOKIE, ("origin", origin)]));
        assert!(from("http://gantry.example:8080").is_err());
        assert!(from("https://gantry.example:8080").is_ok());
    }

    #[test]
    fn only_named_origins_may_read_with_credentials() {
        let told = |config: &Config, origin: &str| {
            let mut headers = HeaderMap::new();
            Shared::of(config, &head(Method::GET, &[("origin", origin)]).headers).add_to(&mut headers);
            let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
            (text(header::ACCESS_CONTROL_ALLOW_ORIGIN), text(header::ACCESS_CONTROL_ALLOW_CREDENTIALS))
        };
        let named = told(&config(), "https://app.example");
        assert_eq!(named, (Some("https://app.example".into()), Some("true".into())));
        assert_eq!(told(&config(), "https://evil.example"), (Some("*".into()), None));
        assert_eq!(told(&Config::default(), "https://app.example"), (None, None));
    }

    #[test]
    fn a_preflight_is_answered_to_configured_origins_only() {
        let asks = ("access-control-request-method", "DELETE");
        let of = |config: &Config, headers: &[(&'static str, &str)]| {
            preflight(config, &head(Method::OPTIONS, headers)).is_some()
        };
        let origin = ("origin", "https://app.example");
        assert!(of(&config(), &[origin, asks]));
        assert!(!of(&config(), &[origin]) && !of(&config(), &[asks]));
        assert!(!of(&Config::default(), &[origin, asks]));
    }

    #[test]
    fn pages_get_a_policy_and_everything_is_what_it_says_it_is() {
        let of = |kind| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            secure(&mut headers);
            headers
        };
        let page = of("text/html; charset=utf-8");
        assert!(
            page.get("content-security-policy").unwrap().to_str().unwrap().contains("frame-ancestors 'none'")
        );
        assert_eq!(page.get("x-frame-options").unwrap(), "DENY");
        assert_eq!(page.get("referrer-policy").unwrap(), "no-referrer");
        let json = of("application/json");
        assert_eq!(json.len(), 2);
        assert_eq!(json.get("x-content-type-options").unwrap(), "nosniff");
    }
}
