//! A download: the whole of an export, as much of it as is wanted before the cut, or what is left of it.

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode};

use super::client::{Client, accepted};
use super::console::Meter;
use super::error::DemoError;
use super::sink::{Received, Sink, Target};

/// What is downloaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Export<'a> {
    /// Its address below `/rest/v0/`.
    pub(super) path: &'a str,
    /// What this is for, as it fits behind "cannot".
    pub(super) step: &'static str,
}

/// The part of a download that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    /// All of it, whether the server can tell its length or not.
    Whole,
    /// Drops the connection after that many hundredths.
    First { percent: u64 },
    /// What is left after `from` bytes of the representation with this ETag.
    Rest { from: u64, etag: &'a str },
}

/// A download that went as far as it was meant to.
pub(super) struct Downloaded {
    pub(super) received: Received,
    /// Length of the whole representation, unless the server did not know it.
    pub(super) whole: Option<u64>,
    pub(super) etag: String,
}

impl Export<'_> {
    /// Downloads a part of it.
    ///
    /// # Errors
    /// What the server refuses or does not keep of its promises; what cannot be written.
    pub(super) async fn download(
        self,
        client: &Client,
        part: Part<'_>,
        target: Target,
        meter: &Meter,
    ) -> Result<Downloaded, DemoError> {
        let Self { path, step } = self;
        let failed = |source| DemoError::Http { step, source };
        let request = client.get(path);
        let (request, status) = match part {
            Part::Rest { from, etag } => {
                let request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, etag);
                (request, StatusCode::PARTIAL_CONTENT)
            }
            Part::Whole | Part::First { .. } => (request, StatusCode::OK),
        };
        let mut answer = accepted(step, request.send().await.map_err(failed)?, status).await?;
        let etag = header(step, &answer, &ETAG)?;
        let len = match part {
            // What is compressed for the first time has no length before its end.
            Part::Whole if !answer.headers().contains_key(CONTENT_LENGTH) => None,
            _ => Some(number(step, "a Content-Length", &header(step, &answer, &CONTENT_LENGTH)?)?),
        };
        let (whole, end) = match (part, len) {
            (Part::Rest { from, .. }, Some(len)) => {
                let range = header(step, &answer, &CONTENT_RANGE)?;
                (Some(total_of_range(step, from, len, &range)?), len)
            }
            (Part::First { percent }, Some(len)) => (Some(len), len / 100 * percent),
            (_, len) => (len, len.unwrap_or(u64::MAX)),
        };
        if let Some(whole) = whole {
            meter.set_total(whole);
        }
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
        if len == Some(end) && left == 0 {
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

fn header(step: &'static str, answer: &Response, name: &'static HeaderName) -> Result<String, DemoError> {
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
