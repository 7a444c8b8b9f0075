//! The requests that the demo makes: the same that a script would make.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, COOKIE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE,
};
use reqwest::{Body, Response, StatusCode};
use serde_json::Value;
use tokio_util::io::ReaderStream;

use super::console::Meter;
use super::error::DemoError;
use super::sink::{Received, Sink, Target};
use crate::ids::DiskFormat;

/// Bytes read at once from a file that is uploaded.
const UPLOAD_PIECE: usize = 256 * 1024;
/// Silence after which a request has failed.
const SILENCE: Duration = Duration::from_secs(60);
/// Most characters of an error's body that are shown.
const SHOWN: usize = 300;

/// A server, and a token for it.
#[derive(Debug, Clone)]
pub struct Service {
    /// `http://127.0.0.1:PORT`, without a path.
    pub base_url: String,
    /// Of a user who may import and export.
    pub token: String,
}

pub(super) struct Client {
    http: reqwest::Client,
    base: String,
}

/// A download that went as far as it was meant to.
pub(super) struct Downloaded {
    pub(super) received: Received,
    /// Length of the whole representation.
    pub(super) whole: u64,
    pub(super) etag: String,
}

/// The part of a download that is wanted.
pub(super) enum Part<'a> {
    Whole,
    /// Drops the connection after that many hundredths.
    First {
        percent: u64,
    },
    /// What is left after `from` bytes of the representation with this ETag.
    Rest {
        from: u64,
        etag: &'a str,
    },
}

impl Client {
    pub(super) fn new(service: &Service) -> Result<Self, DemoError> {
        // Without one reqwest panics; somebody else having installed it is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        let cookie = HeaderValue::from_str(&format!("authenticationToken={}", service.token));
        let mut cookie = cookie.map_err(|_| DemoError::Unexpected {
            step: "log in",
            expected: "a token that fits a header",
            found: "other characters".into(),
        })?;
        cookie.set_sensitive(true);
        headers.insert(COOKIE, cookie);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // A proxy from the environment has no business on the loopback.
        let http = reqwest::Client::builder()
            .no_proxy()
            .default_headers(headers)
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(SILENCE)
            .build()
            .map_err(|source| DemoError::Http { step: "log in", source })?;
        Ok(Self { http, base: format!("{}/rest/v0", service.base_url.trim_end_matches('/')) })
    }

    /// The id of the SR that every server has.
    pub(super) async fn local_sr(&self) -> Result<String, DemoError> {
        const STEP: &str = "find the SR `local`";
        let failed = |source| DemoError::Http { step: STEP, source };
        let request = self.http.get(format!("{}/srs?fields=id,name_label", self.base));
        let answer = accepted(STEP, request.send().await.map_err(failed)?, StatusCode::OK).await?;
        let srs: Value = answer.json().await.map_err(failed)?;
        let mut found = srs.as_array().into_iter().flatten();
        let id = found.find(|sr| member(sr, "name_label") == Some("local")).and_then(|sr| member(sr, "id"));
        let missing =
            || DemoError::Unexpected { step: STEP, expected: "an SR with that name", found: "none".into() };
        id.map(str::to_owned).ok_or_else(missing)
    }

    /// Sends a file as a new disk. Answers the disk's id.
    pub(super) async fn import(
        &self,
        sr: &str,
        format: DiskFormat,
        name: &str,
        path: &Path,
        meter: &Meter,
    ) -> Result<String, DemoError> {
        let step = match format {
            DiskFormat::Raw => "import the .raw",
            DiskFormat::Vhd => "import the .vhd",
        };
        let read = |source| DemoError::File { action: "read", path: path.into(), source };
        let failed = |source| DemoError::Http { step, source };
        let file = tokio::fs::File::open(path).await.map_err(read)?;
        let len = file.metadata().await.map_err(read)?.len();
        meter.set_total(len);
        let counter = meter.clone();
        let pieces = ReaderStream::with_capacity(file, UPLOAD_PIECE).inspect(move |piece| {
            counter.add(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        });
        let raw = if format == DiskFormat::Raw { "raw&" } else { "" };
        let request = self
            .http
            .post(format!("{}/srs/{sr}/vdis?{raw}name_label={name}", self.base))
            .header(CONTENT_LENGTH, len)
            .body(Body::wrap_stream(pieces));
        let answer = accepted(step, request.send().await.map_err(failed)?, StatusCode::CREATED).await?;
        let created: Value = answer.json().await.map_err(failed)?;
        let missing =
            || DemoError::Unexpected { step, expected: "the new disk's id", found: created.to_string() };
        member(&created, "id").map(str::to_owned).ok_or_else(missing)
    }

    /// Fetches an export of a disk, or a part of it.
    pub(super) async fn export(
        &self,
        vdi: &str,
        format: DiskFormat,
        part: Part<'_>,
        target: Target,
        meter: &Meter,
    ) -> Result<Downloaded, DemoError> {
        let step = match (&part, format) {
            (Part::Rest { .. }, _) => "resume the download",
            (_, DiskFormat::Raw) => "export the .raw",
            (_, DiskFormat::Vhd) => "export the .vhd",
        };
        let failed = |source| DemoError::Http { step, source };
        let request = self.http.get(format!("{}/vdis/{vdi}.{format}", self.base));
        let (request, status) = match part {
            Part::Rest { from, etag } => {
                let request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, etag);
                (request, StatusCode::PARTIAL_CONTENT)
            }
            Part::Whole | Part::First { .. } => (request, StatusCode::OK),
        };
        let mut answer = accepted(step, request.send().await.map_err(failed)?, status).await?;
        let etag = header(step, &answer, &ETAG)?;
        let len = number(step, "a Content-Length", &header(step, &answer, &CONTENT_LENGTH)?)?;
        let whole = match part {
            Part::Rest { from, .. } => {
                total_of_range(step, from, len, &header(step, &answer, &CONTENT_RANGE)?)?
            }
            Part::Whole | Part::First { .. } => len,
        };
        let end = match part {
            Part::First { percent } => len / 100 * percent,
            Part::Whole | Part::Rest { .. } => len,
        };
        meter.set_total(whole);
        let sink = Sink::start(target);
        let mut left = end;
        while left > 0 {
            let Some(mut chunk) = answer.chunk().await.map_err(failed)? else { break };
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= chunk.len() as u64;
            meter.add(chunk.len() as u64);
            if !sink.push(chunk).await {
                break;
            }
        }
        if end == len && left == 0 {
            // The end of the body, so that a server that sends too much is found out.
            while let Some(chunk) = answer.chunk().await.map_err(failed)? {
                if !sink.push(chunk).await {
                    break;
                }
            }
        }
        // For a part, this is where the connection is cut.
        drop(answer);
        Ok(Downloaded { received: sink.finish().await?, whole, etag })
    }
}

fn member<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

/// The answer, if its status is the expected one.
async fn accepted(step: &'static str, answer: Response, expected: StatusCode) -> Result<Response, DemoError> {
    let status = answer.status();
    if status == expected {
        return Ok(answer);
    }
    if status.is_success() {
        let expected = match expected {
            StatusCode::PARTIAL_CONTENT => "206 Partial Content",
            StatusCode::CREATED => "201 Created",
            _ => "200 OK",
        };
        return Err(DemoError::Unexpected { step, expected, found: status.to_string() });
    }
    let body = answer.text().await.unwrap_or_default();
    Err(DemoError::Refused { step, status, answer: body.chars().take(SHOWN).collect() })
}

fn header(
    step: &'static str,
    answer: &Response,
    name: &'static reqwest::header::HeaderName,
) -> Result<String, DemoError> {
    let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
    let missing = || DemoError::Unexpected {
        step,
        expected: name.as_str(),
        found: "no such header in the answer".into(),
    };
    value.map(str::to_owned).ok_or_else(missing)
}

fn number(step: &'static str, expected: &'static str, text: &str) -> Result<u64, DemoError> {
    text.parse().map_err(|_| DemoError::Unexpected { step, expected, found: text.into() })
}

/// The total in `bytes FROM-LAST/TOTAL`, if the rest is what was asked for.
fn total_of_range(step: &'static str, from: u64, len: u64, range: &str) -> Result<u64, DemoError> {
    let unexpected = || DemoError::Unexpected {
        step,
        expected: "the Content-Range that was asked for",
        found: range.into(),
    };
    let (span, total) =
        range.strip_prefix("bytes ").and_then(|range| range.split_once('/')).ok_or_else(unexpected)?;
    let total = number(step, "a total in Content-Range", total)?;
    let last = total.checked_sub(1).ok_or_else(unexpected)?;
    if span == format!("{from}-{last}") && total - from.min(total) == len {
        Ok(total)
    } else {
        Err(unexpected())
    }
}
