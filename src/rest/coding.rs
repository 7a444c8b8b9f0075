//! What becomes of an answer on its way out: JSON is compressed for clients that take gzip, and an answer to HEAD is
//! not produced. What an export sends is never touched: its bytes are what its length, its ranges and its entity tag
//! speak of.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::Method;
use actix_web::http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, VARY,
};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::events::NoBody;

/// A body of a known length below this costs more to compress than it saves.
const LEAST_BYTES: usize = 1024;
/// From here on a body is compressed on a thread that may be busy.
const LARGE_BYTES: usize = 64 << 10;

/// What a request says of how it wants its answer.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    gzip: bool,
    head_only: bool,
}

impl Wanted {
    /// Reads it from a request.
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        Self { gzip: takes_gzip(headers), head_only: *method == Method::HEAD }
    }

    /// The answer as it is sent.
    pub async fn answer(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        let response = if is_text(response.headers()) { self.coded(response).await } else { response };
        // The library would produce such a body to its end, and send none of it.
        if self.head_only && response.response().body().size() == BodySize::Stream {
            return response.map_body(|_, _| BoxBody::new(NoBody));
        }
        response
    }

    async fn coded(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        let (request, response) = response.into_parts();
        let (mut response, body) = response.into_parts();
        response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
        if !self.gzip || matches!(body.size(), BodySize::None | BodySize::Sized(0)) {
            return ServiceResponse::new(request, response.set_body(body));
        }
        let body = match body.try_into_bytes() {
            Ok(bytes) if bytes.len() < LEAST_BYTES => {
                return ServiceResponse::new(request, response.set_body(BoxBody::new(bytes)));
            }
            Ok(bytes) => match whole(bytes.clone()).await {
                Some(coded) => BoxBody::new(coded),
                None => return ServiceResponse::new(request, response.set_body(BoxBody::new(bytes))),
            },
            Err(body) => BoxBody::new(Gzip { body, encoder: Some(encoder()) }),
        };
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        ServiceResponse::new(request, response.set_body(body))
    }
}

/// Whether an answer may be compressed: what is JSON or a table of it, and has no entity tag that speaks of its bytes.
fn is_text(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    matches!(kind, "application/json" | "application/x-ndjson" | "text/markdown")
        && !headers.contains_key(ETAG)
        && !headers.contains_key(CONTENT_ENCODING)
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).filter_map(|value| value.to_str().ok());
    let mut any = None;
    for coding in values.flat_map(|value| value.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let wanted =
            weight.is_none_or(|weight| weight.trim().parse::<f32>().is_ok_and(|weight| weight > 0.0));
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            return wanted;
        }
        if name == "*" {
            any = Some(wanted);
        }
    }
    any.unwrap_or(false)
}

fn encoder() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::fast())
}

/// A whole body, compressed, or nothing when that is not to be had.
async fn whole(bytes: Bytes) -> Option<Bytes> {
    let large = bytes.len() >= LARGE_BYTES;
    let compress = move || {
        let mut encoder = encoder();
        encoder.write_all(&bytes).ok()?;
        encoder.finish().ok().map(Bytes::from)
    };
    if large { tokio::task::spawn_blocking(compress).await.ok()? } else { compress() }
}

/// A body that is compressed as it comes. After each piece the client has all of it: some pieces tell of something that
/// happens now, and the next one may be long in coming.
struct Gzip {
    body: BoxBody,
    /// Nothing after the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl MessageBody for Gzip {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        loop {
            let this = &mut *self;
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            let coded = match ready!(Pin::new(&mut this.body).poll_next(cx)) {
                Some(Ok(piece)) => {
                    encoder.write_all(&piece).and_then(|()| encoder.flush())?;
                    std::mem::take(encoder.get_mut())
                }
                Some(Err(error)) => {
                    this.encoder = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => match this.encoder.take() {
                    Some(encoder) => encoder.finish()?,
                    None => return Poll::Ready(None),
                },
            };
            // An empty piece would be the end of a chunked body.
            if !coded.is_empty() {
                return Poll::Ready(Some(Ok(coded.into())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(value: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
        takes_gzip(&headers)
    }

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        for yes in ["gzip", "deflate, gzip;q=0.5", "GZIP", "*", "br;q=1, *;q=0.1", "x-gzip"] {
            assert!(takes(yes), "{yes}");
        }
        for no in ["", "identity", "gzip;q=0", "*;q=0", "gzip;q=0, *", "br", "gzip;q=x"] {
            assert!(!takes(no), "{no}");
        }
    }

    #[test]
    fn exports_and_what_has_an_entity_tag_stay_as_they_are() {
        let headers = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            headers
        };
        assert!(is_text(&headers("application/json; charset=utf-8")));
        assert!(is_text(&headers("application/x-ndjson")));
        for kind in ["application/octet-stream", "text/event-stream"] {
            assert!(!is_text(&headers(kind)), "{kind}");
        }
        let mut tagged = headers("application/json");
        tagged.insert(ETAG, HeaderValue::from_static("\"x\""));
        assert!(!is_text(&tagged));
    }
}
