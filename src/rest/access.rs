//! One line of the log for each request, written when its answer has ended or broke off (target `access`).
//!
//! It is made ready with the head; of a body's pieces only the length is added up.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use actix_http::RequestHead;
use actix_web::body::BodySize;
use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode, Version};

use crate::config::Config;

use super::address::client_address;
use super::caller::Caller;

/// What stands in the place of what must not be in a log.
const MASK: &str = "***";
/// A run of so many letters of a token is one: no id is as long.
const TOKEN_CHARS: usize = 40;
/// The longest path and query that are written.
const MAX_CHARS: usize = 1024;
/// Parameters whose values are secrets by their name.
const SECRETS: [&str; 8] =
    ["token", "authenticationtoken", "secret", "password", "otp", "key", "signature", "access_token"];

/// The line of a request; written when it is dropped.
#[derive(Debug)]
pub struct Line {
    method: Method,
    path: String,
    version: Version,
    from: IpAddr,
    since: Instant,
    user: Option<String>,
    status: Option<StatusCode>,
    task: Option<String>,
    size: BodySize,
    sent: u64,
    ended: bool,
    forgotten: bool,
}

impl Line {
    /// Begins with a request's head. Nothing when nobody would read it.
    pub fn begin(config: &Config, head: &RequestHead) -> Option<Box<Self>> {
        if !tracing::enabled!(target: "access", tracing::Level::INFO) {
            return None;
        }
        let peer = head.peer_addr.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        Some(Box::new(Self {
            method: head.method.clone(),
            path: masked(head.uri.path(), head.uri.query()),
            version: head.version,
            from: client_address(&config.http.trusted_proxies, &head.headers, peer),
            since: Instant::now(),
            user: None,
            status: None,
            task: None,
            size: BodySize::None,
            sent: 0,
            ended: false,
            forgotten: false,
        }))
    }

    /// Says who has sent it, and what the answer's head is.
    pub fn answered(
        &mut self,
        caller: Option<&Caller>,
        status: StatusCode,
        headers: &HeaderMap,
        size: BodySize,
    ) {
        self.user = caller.map(|caller| caller.principal().name.clone());
        self.status = Some(status);
        let task = headers.get("gantry-task").and_then(|value| value.to_str().ok());
        let location = headers.get("location").and_then(|value| value.to_str().ok());
        let task = task.or_else(|| location?.strip_prefix("/rest/v0/tasks/"));
        self.task = task.map(str::to_owned);
        self.size = if self.method == Method::HEAD { BodySize::None } else { size };
    }

    /// Counts a piece of the body that went to the connection.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u64);
    }

    /// The body has come to its end.
    pub fn ended(&mut self) {
        self.ended = true;
    }

    /// Writes nothing.
    pub fn forget(mut self) {
        self.forgotten = true;
    }

    fn end(&self) -> &'static str {
        match (self.status, self.size) {
            (None, _) => "no answer",
            (_, BodySize::None | BodySize::Sized(0)) => "complete",
            (_, BodySize::Sized(size)) if size == self.sent => "complete",
            _ if self.ended => "complete",
            _ => "broken off",
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.forgotten {
            return;
        }
        tracing::info!(
            target: "access",
            method = %self.method,
            path = %self.path,
            status = self.status.map(|status| status.as_u16()),
            bytes = self.sent,
            ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            user = self.user,
            from = %self.from,
            task = self.task,
            protocol = ?self.version,
            end = self.end(),
            "request"
        );
    }
}

/// A path with its query, without what looks like a secret.
fn masked(path: &str, query: Option<&str>) -> String {
    let segments: Vec<&str> =
        path.split('/').map(|segment| if looks_like_token(segment) { MASK } else { segment }).collect();
    let mut text = segments.join("/");
    for (place, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        text.push(if place == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, value)) if is_secret(name) || looks_like_token(value) => {
                // writing to a String cannot fail
                let _ = write!(text, "{name}={MASK}");
            }
            _ if looks_like_token(pair) => text.push_str(MASK),
            _ => text.push_str(pair),
        }
    }
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn is_secret(name: &str) -> bool {
    let name = decoded(name).to_ascii_lowercase();
    SECRETS.contains(&name.as_str())
}

fn looks_like_token(text: &str) -> bool {
    let mut run = 0;
    decoded(text).bytes().any(|byte| {
        run = if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') { run + 1 } else { 0 };
        run >= TOKEN_CHARS
    })
}

/// A text with its percent-encoding undone, as far as it is one.
fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let mut ahead = bytes.clone();
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                bytes = ahead;
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "Xk3v9-_aaBBccDDeeFFggHHiiJJkkLLmmNNooPPqqR0";

    #[test]
    fn what_looks_like_a_token_is_masked_wherever_it_stands() {
        let path = format!("/rest/v0/users/me/authentication_tokens/{SECRET}");
        assert_eq!(masked(&path, None), "/rest/v0/users/me/authentication_tokens/***");
        let query = format!("a=1&b={SECRET}&{SECRET}&filter=id:{SECRET}&Token=x&%74oken=y&otp=123456");
        assert_eq!(masked("/x", Some(&query)), "/x?a=1&b=***&***&filter=***&Token=***&%74oken=***&otp=***");
        let encoded: String = SECRET.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(masked(&format!("/{encoded}"), None), "/***");
    }

    #[test]
    fn ids_names_and_filters_stay() {
        let path = "/rest/v0/vdis/0f2d2a1e-55d1-4a43-9a5e-0d3f5a7a9b10.vhd";
        let query = "filter=name_label:%2F^a%2F&raw&limit=10&public=0123456789abcdef";
        assert_eq!(masked(path, Some(query)), format!("{path}?{query}"));
        assert_eq!(masked("/%zz%4", None), "/%zz%4");
    }

    #[test]
    fn long_paths_are_cut() {
        let text = masked(&format!("/{}", "a.".repeat(5000)), None);
        assert_eq!(text.chars().count(), MAX_CHARS + 1);
    }
}
