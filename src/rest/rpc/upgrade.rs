//! From a request to a connection.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use actix_web::body::BoxBody;
use actix_web::http::header::{HOST, HeaderMap, ORIGIN};
use actix_web::{HttpRequest, HttpResponse, web};

use super::connection::serve;
use super::incoming::Incoming;
use super::outlet::Outlet;
use super::session::Session;
use crate::auth::credentials_from;
use crate::config;
use crate::rest::App;
use crate::rest::address::client_address;
use crate::rest::connection::Connection;
use crate::rest::error::ApiError;

/// `GET /api/`: the upgrade to a WebSocket. Needs no credentials; they come over the connection.
///
/// # Errors
/// 404 with a query, 400 for what is no upgrade, 403 for a page of another site that sends a token along, 503 for one
/// connection too many.
pub async fn connect(
    app: web::Data<App>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    if request.uri().query().is_some() {
        return nowhere(request).await;
    }
    let headers = request.headers();
    if has_token(headers) && is_foreign(&app.config.http, headers) {
        return Err(ApiError::ForbiddenOperation {
            operation: "open a WebSocket",
            reason: "the page that asks is of another site",
        });
    }
    if app.closing.is_cancelled() {
        return Err(ApiError::NoStream { message: "the server is stopping".into() });
    }
    let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    let address = client_address(&app.config.http.trusted_proxies, headers, peer);
    let seat = app.rpc.seats.open(address).map_err(|full| ApiError::NoStream {
        message: format!("{} WebSockets are open already: close one, or try again", full.most),
    })?;
    let (response, sender, receiver) =
        actix_ws::handle(&request, body).map_err(|error| ApiError::BadRequest {
            code: "websocket_needed",
            message: format!("this address is for WebSockets: {error}"),
        })?;
    let connection = request.conn_data::<Arc<Connection>>();
    let closing = app.closing.clone();
    let (head, body) = response.into_parts();
    let (outlet, body) = Outlet::new(sender, body, connection, closing.clone());
    let session = Session::new(app.clone(), address, seat);
    actix_web::rt::spawn(serve(session, Incoming::new(receiver), outlet, closing));
    Ok(head.set_body(BoxBody::new(body)))
}

/// `/api` and its like: there is nothing, and nobody needs credentials to learn that.
///
/// # Errors
/// Always 404.
pub async fn nowhere(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::NoSuchRoute {
        method: request.method().to_string(),
        path: request.path().chars().take(200).collect(),
    })
}

/// Whether a browser has sent a token along.
fn has_token(headers: &HeaderMap) -> bool {
    let cookies = headers.get_all("cookie").filter_map(|value| value.to_str().ok());
    matches!(credentials_from(cookies, None), Ok(Some(_)))
}

/// Whether the page that asks is neither of this host nor of an origin that may ask.
fn is_foreign(http: &config::Http, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let Ok(origin) = origin.to_str() else { return true };
    let allowed = http.cors_origins.iter().any(|one| one.eq_ignore_ascii_case(origin));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let public = http.public_url.as_deref().and_then(authority);
    let Some((scheme, origin)) = split(origin) else { return !allowed };
    let same = |host: &str| without_port(scheme, host).eq_ignore_ascii_case(without_port(scheme, origin));
    !(allowed || host.is_some_and(same) || public.is_some_and(same))
}

/// Scheme and authority of an origin.
fn split(origin: &str) -> Option<(&str, &str)> {
    origin.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
}

/// Host and port of an address.
fn authority(url: &str) -> Option<&str> {
    split(url).and_then(|(_, rest)| rest.split('/').next())
}

/// An authority without the port that goes without saying.
fn without_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let usual = if scheme == "https" { ":443" } else { ":80" };
    authority.strip_suffix(usual).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn foreign(http: &config::Http, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        is_foreign(http, &headers)
    }

    #[test]
    fn pages_of_this_host_and_programs_are_not_foreign() {
        let http = config::Http::default();
        assert!(!foreign(&http, "xo.example.org", None));
        assert!(!foreign(&http, "xo.example.org:8080", Some("http://xo.example.org:8080")));
        assert!(!foreign(&http, "xo.example.org", Some("https://XO.example.org:443")));
        for other in [
            "https://evil.example",
            "http://xo.example.org:81",
            "null",
            "file://",
            "https://xo.example.org.evil",
        ] {
            assert!(foreign(&http, "xo.example.org", Some(other)), "{other}");
        }
    }

    #[test]
    fn what_the_configuration_names_is_not_foreign() {
        let http = config::Http {
            public_url: Some("https://xo.example.org/gantry".into()),
            cors_origins: vec!["https://tools.example.org".into()],
            ..config::Http::default()
        };
        assert!(!foreign(&http, "10.0.0.1:8080", Some("https://xo.example.org")));
        assert!(!foreign(&http, "10.0.0.1:8080", Some("https://tools.example.org")));
        assert!(foreign(&http, "10.0.0.1:8080", Some("https://evil.example")));
    }

    #[test]
    fn a_token_comes_in_either_cookie() {
        let with = |cookie: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static("cookie"), HeaderValue::from_static(cookie));
            has_token(&headers)
        };
        assert!(with("token=x") && with("a=b; authenticationToken=x"));
        assert!(!with("a=b"));
    }
}
