//! The demo against a server of the tests' own, which keeps disks in memory and can be told to be wrong.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use actix_web::http::header;
use actix_web::web::{Bytes, Data, Path, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::oneshot;

use super::*;

const SMALL: SampleSpec = SampleSpec { virtual_bytes: 20 << 20, noise_bytes: 1_000_003, text_bytes: 500_001 };
const SR: &str = "7f0e0c7c-0000-4000-8000-000000000001";
const TOKEN: &str = "a-token";
/// What the fake puts before a disk's bytes to make a "VHD" of them.
const VHD_HEAD: &[u8] = b"conectix, more or less";

/// What the fake server gets wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// One byte of a disk that came as a VHD changes.
    FlipsAByteOfTheCopy(usize),
    /// Ranges are ignored.
    NoRanges,
    /// A range begins a byte too early.
    RangeFromTooEarly,
    /// The rest of a cut download is another disk's.
    WrongRest,
    /// Imports are refused.
    NoSpace,
    /// A body ends before its length.
    CutsExports,
}

#[derive(Clone)]
struct Fake {
    fault: Fault,
    disks: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    made: Arc<AtomicUsize>,
}

fn allowed(request: &HttpRequest) -> bool {
    text(request, header::COOKIE) == format!("authenticationToken={TOKEN}")
}

fn text(request: &HttpRequest, name: header::HeaderName) -> String {
    request.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

async fn srs(request: HttpRequest) -> HttpResponse {
    assert!(allowed(&request) && request.query_string() == "fields=id,name_label");
    HttpResponse::Ok().json(json!([
        {"id": "other", "name_label": "other", "href": "/rest/v0/srs/other"},
        {"id": SR, "name_label": "local", "href": format!("/rest/v0/srs/{SR}")},
    ]))
}

async fn import(request: HttpRequest, fake: Data<Fake>, sr: Path<String>, mut body: Payload) -> HttpResponse {
    assert!(allowed(&request) && *sr == SR);
    if fake.fault == Fault::NoSpace {
        while body.next().await.is_some() {}
        return HttpResponse::InsufficientStorage().json(json!({"error": "no space", "code": "no_space"}));
    }
    let length: usize = text(&request, header::CONTENT_LENGTH).parse().unwrap();
    let mut disk = Vec::new();
    while let Some(piece) = body.next().await {
        disk.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(disk.len(), length);
    if !request.query_string().starts_with("raw&") {
        disk = disk.strip_prefix(VHD_HEAD).unwrap().to_vec();
        if let Fault::FlipsAByteOfTheCopy(at) = fake.fault {
            disk[at] ^= 1;
        }
    }
    let id = format!("disk-{}", fake.made.fetch_add(1, Ordering::SeqCst));
    fake.disks.lock().unwrap().insert(id.clone(), disk);
    HttpResponse::Created().json(json!({ "id": id }))
}

async fn export(request: HttpRequest, fake: Data<Fake>, name: Path<String>) -> HttpResponse {
    assert!(allowed(&request));
    let (id, format) = name.split_once('.').unwrap();
    let mut bytes = fake.disks.lock().unwrap()[id].clone();
    if format == "vhd" {
        bytes.splice(0..0, VHD_HEAD.iter().copied());
    }
    let etag = format!("\"{name}\"");
    let range = request.headers().get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
    let Some(range) = range.filter(|_| fake.fault != Fault::NoRanges) else {
        let whole = bytes.len() as u64;
        if fake.fault == Fault::CutsExports {
            bytes.truncate(bytes.len() / 2);
        }
        return send(HttpResponse::Ok(), etag, bytes, whole);
    };
    assert_eq!(text(&request, header::IF_RANGE), etag);
    let from: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    let total = bytes.len();
    let shown = if fake.fault == Fault::RangeFromTooEarly { from - 1 } else { from };
    let mut rest = bytes.split_off(shown);
    if fake.fault == Fault::WrongRest {
        rest.fill(7);
    }
    let mut answer = HttpResponse::PartialContent();
    answer.insert_header((header::CONTENT_RANGE, format!("bytes {shown}-{}/{total}", total - 1)));
    let len = rest.len() as u64;
    send(answer, etag, rest, len)
}

fn send(mut answer: actix_web::HttpResponseBuilder, etag: String, bytes: Vec<u8>, len: u64) -> HttpResponse {
    let pieces: Vec<_> =
        bytes.chunks(100_000).map(|piece| Ok::<_, io::Error>(Bytes::copy_from_slice(piece))).collect();
    answer.insert_header((header::ETAG, etag)).no_chunking(len).streaming(futures_util::stream::iter(pieces))
}

/// Starts the fake on a thread of its own. Answers its address, and what stops it.
fn serve(fault: Fault) -> (String, impl Future<Output = ()>) {
    let (started, starting) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let fake = Data::new(Fake { fault, disks: Arc::default(), made: Arc::default() });
            let server = HttpServer::new(move || {
                App::new()
                    .app_data(fake.clone())
                    .route("/rest/v0/srs", web::get().to(srs))
                    .route("/rest/v0/srs/{sr}/vdis", web::post().to(import))
                    .route("/rest/v0/vdis/{name}", web::get().to(export))
            });
            let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
            let address = server.addrs()[0];
            let server = server.run();
            started.send((format!("http://{address}"), server.handle())).unwrap();
            server.await.unwrap();
        });
    });
    let (base_url, handle) = starting.recv().unwrap();
    let stop = async move {
        handle.stop(false).await;
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    };
    (base_url, stop)
}

/// Runs the demo against a server with that fault. Also answers where it worked.
async fn demo(fault: Fault) -> (Result<Report, DemoError>, PathBuf) {
    let (told, place) = oneshot::channel();
    let start = move |data: PathBuf| async move {
        told.send(data).unwrap();
        let (base_url, stop) = serve(fault);
        Ok((Service { base_url, token: TOKEN.into() }, stop))
    };
    let done = perform(None, &SMALL, start, pending).await;
    (done, place.await.unwrap().parent().unwrap().to_owned())
}

#[tokio::test]
async fn every_step_is_done_and_every_byte_compared() {
    let (done, place) = demo(Fault::None).await;
    let report = done.unwrap();
    assert!(report.is_right());
    let text = report.to_string();
    let whole = SMALL.virtual_bytes;
    let bytes: Vec<u64> = report.steps.iter().map(|step| step.took.bytes).collect();
    let cut = whole / 100 * 40;
    let vhd = whole + VHD_HEAD.len() as u64;
    assert_eq!(bytes, [whole, whole, vhd, vhd, whole, cut, whole - cut], "{text}");
    assert_eq!(text.matches("  equal\n").count(), 3, "{text}");
    assert!(text.contains(&format!("connection dropped at byte {cut}")), "{text}");
    assert!(text.contains("Every byte was equal."), "{text}");
    assert!(!place.exists(), "the temporary directory is gone");
}

#[tokio::test]
async fn one_changed_byte_is_found_and_its_place_named() {
    let at = 13_000_001;
    let (done, place) = demo(Fault::FlipsAByteOfTheCopy(at)).await;
    let report = done.unwrap();
    assert!(!report.is_right());
    let text = report.to_string();
    assert!(text.contains(&format!("DIFFERS at byte {at}")), "{text}");
    assert_eq!(text.matches("  equal\n").count(), 2, "{text}");
    assert!(!place.exists());
}

#[tokio::test]
async fn a_resumed_download_with_other_bytes_is_found() {
    let report = demo(Fault::WrongRest).await.0.unwrap();
    let cut = SMALL.virtual_bytes / 100 * 40;
    assert!(!report.is_right());
    assert!(report.to_string().contains(&format!("DIFFERS at byte {cut}")), "{report}");
}

#[tokio::test]
async fn what_the_server_does_not_keep_of_its_promises_ends_the_demo() {
    for (fault, said) in [
        (Fault::NoRanges, "cannot resume the download: expected 206 Partial Content, found 200 OK"),
        (
            Fault::RangeFromTooEarly,
            "cannot resume the download: expected the Content-Range that was asked for",
        ),
        (Fault::NoSpace, "cannot import the .raw: the server answered 507 Insufficient Storage: {\"code\""),
        (Fault::CutsExports, "cannot export the .raw: "),
    ] {
        let (done, place) = demo(fault).await;
        let error = done.unwrap_err().to_string();
        assert!(error.starts_with(said), "{fault:?}: {error}");
        assert!(!place.exists(), "{fault:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_start_leaves_nothing() {
    let (told, place) = oneshot::channel();
    let start = move |data: PathBuf| async move {
        told.send(data).unwrap();
        Err::<(Service, std::future::Ready<()>), _>("the address is in use".into())
    };
    let error = perform(None, &SMALL, start, pending).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start the server: the address is in use");
    assert!(!place.await.unwrap().parent().unwrap().exists());
}

#[tokio::test]
async fn a_data_directory_that_was_given_is_kept_with_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (base_url, stop) = serve(Fault::None);
    let service = Service { base_url, token: TOKEN.into() };
    let report =
        perform(Some(data.clone()), &SMALL, |_| async { Ok((service, stop)) }, pending).await.unwrap();
    assert!(report.to_string().contains(&format!("Kept in {}", data.display())));
    for name in ["sample.raw", "export.vhd", "resumed.raw"] {
        assert!(data.join("demo").join(name).exists(), "{name}");
    }
    let same = check_file(&data.join("demo/resumed.raw"), Some(&data.join("demo/sample.raw"))).unwrap();
    assert_eq!(same.differs_at, None);
}

#[tokio::test]
async fn an_interrupted_demo_stops_its_server_and_leaves_nothing() {
    let (told, place) = oneshot::channel();
    let (stopped, was_stopped) = oneshot::channel();
    let start = move |data: PathBuf| async move {
        told.send(data).unwrap();
        // Accepts, and never answers.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", silent.local_addr().unwrap());
        let stop = async move {
            drop(silent);
            stopped.send(()).unwrap();
        };
        Ok((Service { base_url, token: TOKEN.into() }, stop))
    };
    let mut presses = 0;
    let ctrl_c = async || {
        presses += 1;
        if presses > 1 {
            pending::<()>().await;
        }
    };
    let error = perform(None, &SMALL, start, ctrl_c).await.unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
    was_stopped.await.unwrap();
    assert!(!place.await.unwrap().parent().unwrap().exists());
}

#[tokio::test]
async fn a_second_interruption_does_not_wait_for_the_server() {
    let (told, place) = oneshot::channel();
    let start = move |data: PathBuf| async move {
        told.send(data).unwrap();
        Ok((Service { base_url: "http://127.0.0.1:9".into(), token: TOKEN.into() }, pending()))
    };
    let error = perform(None, &SMALL, start, async || {}).await.unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
    assert!(!place.await.unwrap().parent().unwrap().exists());
}
