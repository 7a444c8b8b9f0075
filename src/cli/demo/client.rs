//! The requests that the demo makes: the same that a script would make.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, COOKIE, HeaderMap, HeaderValue};
use reqwest::{Body, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::console::Meter;
use super::error::DemoError;
use crate::ids::DiskFormat;

/// Bytes read at once from a file that is uploaded.
const UPLOAD_PIECE: usize = 256 * 1024;
/// Silence after which a request has failed.
const SILENCE: Duration = Duration::from_secs(60);
/// What the demo's VM is said to have; nothing runs it.
const VM_CPUS: u32 = 2;
const VM_MEMORY: u64 = 1 << 30;
/// Most characters of an unexpected body that are shown.
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
        let srs = self.list(STEP, "srs?fields=id,name_label").await?;
        let local = srs.iter().find(|sr| member(sr, "name_label") == Some("local"));
        let missing =
            || DemoError::Unexpected { step: STEP, expected: "an SR with that name", found: "none".into() };
        local.and_then(|sr| member(sr, "id")).map(str::to_owned).ok_or_else(missing)
    }

    /// The id of the pool that every server is.
    pub(super) async fn pool(&self) -> Result<String, DemoError> {
        self.only("find the pool", "one pool", "pools?fields=id").await
    }

    /// The id of the one disk that a VM has.
    pub(super) async fn disk_of(&self, vm: &str) -> Result<String, DemoError> {
        self.only("find the VM's disk", "one disk", &format!("vms/{vm}/vdis?fields=id")).await
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
        let (step, raw) = match format {
            DiskFormat::Raw => ("import the .raw", "raw&"),
            DiskFormat::Vhd => ("import the .vhd", ""),
        };
        self.upload(step, &format!("srs/{sr}/vdis?{raw}name_label={name}"), path, meter).await
    }

    /// Sends an XVA as a new VM. Answers the VM's id.
    pub(super) async fn import_vm(
        &self,
        pool: &str,
        path: &Path,
        meter: &Meter,
    ) -> Result<String, DemoError> {
        self.upload("import the .xva", &format!("pools/{pool}/vms"), path, meter).await
    }

    /// Makes a VM of a disk. Answers the VM's id.
    pub(super) async fn make_vm(&self, name: &str, vdi: &str) -> Result<String, DemoError> {
        const STEP: &str = "make a VM";
        let failed = |source| DemoError::Http { step: STEP, source };
        let vm = json!({ "name_label": name, "cpus": VM_CPUS, "memory": VM_MEMORY, "vdis": [vdi] });
        let request = self.http.post(self.address("vms")).json(&vm);
        created(STEP, request.send().await.map_err(failed)?).await
    }

    /// A GET whose answer is to be looked at. `path` is the address below `/rest/v0/`.
    pub(super) fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(self.address(path))
    }

    fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    async fn list(&self, step: &'static str, path: &str) -> Result<Vec<Value>, DemoError> {
        let failed = |source| DemoError::Http { step, source };
        let answer = accepted(step, self.get(path).send().await.map_err(failed)?, StatusCode::OK).await?;
        answer.json().await.map_err(failed)
    }

    /// The id of the only object in a collection.
    async fn only(
        &self,
        step: &'static str,
        expected: &'static str,
        path: &str,
    ) -> Result<String, DemoError> {
        let objects = self.list(step, path).await?;
        let id = match objects.as_slice() {
            [object] => member(object, "id"),
            _ => None,
        };
        let unexpected = || DemoError::Unexpected {
            step,
            expected,
            found: shown(&Value::from(objects.as_slice()).to_string()),
        };
        id.map(str::to_owned).ok_or_else(unexpected)
    }

    async fn upload(
        &self,
        step: &'static str,
        path: &str,
        file: &Path,
        meter: &Meter,
    ) -> Result<String, DemoError> {
        let read = |source| DemoError::File { action: "read", path: file.into(), source };
        let failed = |source| DemoError::Http { step, source };
        let opened = tokio::fs::File::open(file).await.map_err(read)?;
        let len = opened.metadata().await.map_err(read)?.len();
        meter.set_total(len);
        let counter = meter.clone();
        let pieces = ReaderStream::with_capacity(opened, UPLOAD_PIECE).inspect(move |piece| {
            counter.add(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        });
        let request = self.http.post(self.address(path));
        let request = request.header(CONTENT_LENGTH, len).body(Body::wrap_stream(pieces));
        created(step, request.send().await.map_err(failed)?).await
    }
}

fn member<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

/// The answer, if its status is the expected one.
pub(super) async fn accepted(
    step: &'static str,
    answer: Response,
    expected: StatusCode,
) -> Result<Response, DemoError> {
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
    Err(DemoError::Refused { step, status, answer: shown(&body) })
}

/// The id of what a request made.
async fn created(step: &'static str, answer: Response) -> Result<String, DemoError> {
    let answer = accepted(step, answer, StatusCode::CREATED).await?;
    let made: Value = answer.json().await.map_err(|source| DemoError::Http { step, source })?;
    let missing =
        || DemoError::Unexpected { step, expected: "the new object's id", found: shown(&made.to_string()) };
    member(&made, "id").map(str::to_owned).ok_or_else(missing)
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
