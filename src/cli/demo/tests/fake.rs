//! A server of the tests' own, which keeps disks and VMs in memory and can be told to be wrong.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use actix_web::http::header;
use actix_web::web::{Bytes, Data, Path, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures_util::{Stream, StreamExt};
use serde_json::json;

const SR: &str = "7f0e0c7c-0000-4000-8000-000000000001";
const POOL: &str = "7f0e0c7c-0000-4000-8000-000000000002";
pub(super) const TOKEN: &str = "a-token";
/// What the fake puts before a disk's bytes to make a "VHD" of them.
pub(super) const VHD_HEAD: &[u8] = b"conectix, more or less";
/// What the fake puts before a disk's bytes to make an "XVA" of its VM.
pub(super) const XVA_HEAD: &[u8] = b"ova.xml, and so on";

/// What the fake server gets wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
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
    /// One byte of a disk that came as an XVA changes.
    FlipsAByteOfTheVm(usize),
    /// A VM's second export has no length either.
    NeverKnowsItsLength,
    /// A VM's second export is another one's.
    OtherXva,
    /// A VM that came as an XVA has no disk.
    LosesTheDisk,
}

#[derive(Clone)]
struct Fake {
    fault: Fault,
    disks: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    vms: Arc<Mutex<HashMap<String, Machine>>>,
    made: Arc<AtomicUsize>,
}

/// A VM: its disk, and whether it was exported before.
#[derive(Default)]
struct Machine {
    disk: String,
    exported: bool,
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

async fn pools(request: HttpRequest) -> HttpResponse {
    assert!(allowed(&request) && request.query_string() == "fields=id");
    HttpResponse::Ok().json(json!([{"id": POOL, "href": format!("/rest/v0/pools/{POOL}")}]))
}

/// The whole of a body that has a length.
async fn upload(request: &HttpRequest, mut body: Payload) -> Vec<u8> {
    let length: usize = text(request, header::CONTENT_LENGTH).parse().unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(bytes.len(), length);
    bytes
}

impl Fake {
    fn id(&self, kind: &str) -> String {
        format!("{kind}-{}", self.made.fetch_add(1, Ordering::SeqCst))
    }

    fn keep_disk(&self, disk: Vec<u8>) -> String {
        let id = self.id("disk");
        self.disks.lock().unwrap().insert(id.clone(), disk);
        id
    }

    fn keep_vm(&self, disk: String) -> String {
        let id = self.id("vm");
        self.vms.lock().unwrap().insert(id.clone(), Machine { disk, exported: false });
        id
    }
}

fn created(id: &str) -> HttpResponse {
    HttpResponse::Created().json(json!({ "id": id }))
}

async fn import(request: HttpRequest, fake: Data<Fake>, sr: Path<String>, mut body: Payload) -> HttpResponse {
    assert!(allowed(&request) && *sr == SR);
    if fake.fault == Fault::NoSpace {
        while body.next().await.is_some() {}
        return HttpResponse::InsufficientStorage().json(json!({"error": "no space", "code": "no_space"}));
    }
    let mut disk = upload(&request, body).await;
    if !request.query_string().starts_with("raw&") {
        disk = disk.strip_prefix(VHD_HEAD).unwrap().to_vec();
        if let Fault::FlipsAByteOfTheCopy(at) = fake.fault {
            disk[at] ^= 1;
        }
    }
    created(&fake.keep_disk(disk))
}

async fn create_vm(request: HttpRequest, fake: Data<Fake>, vm: web::Json<serde_json::Value>) -> HttpResponse {
    assert!(allowed(&request));
    let disk = vm["vdis"][0].as_str().unwrap().to_owned();
    assert!(fake.disks.lock().unwrap().contains_key(&disk));
    let expected = json!({"name_label": "gantry-demo", "cpus": 2, "memory": 1 << 30, "vdis": [disk]});
    assert_eq!(*vm, expected);
    created(&fake.keep_vm(disk))
}

async fn import_vm(
    request: HttpRequest,
    fake: Data<Fake>,
    pool: Path<String>,
    body: Payload,
) -> HttpResponse {
    assert!(allowed(&request) && *pool == POOL);
    let mut disk = upload(&request, body).await.strip_prefix(XVA_HEAD).unwrap().to_vec();
    if let Fault::FlipsAByteOfTheVm(at) = fake.fault {
        disk[at] ^= 1;
    }
    created(&fake.keep_vm(fake.keep_disk(disk)))
}

async fn disks_of(request: HttpRequest, fake: Data<Fake>, vm: Path<String>) -> HttpResponse {
    assert!(allowed(&request) && request.query_string() == "fields=id");
    let disk = fake.vms.lock().unwrap()[&*vm].disk.clone();
    let disks = if fake.fault == Fault::LosesTheDisk { json!([]) } else { json!([{"id": disk}]) };
    HttpResponse::Ok().json(disks)
}

async fn export(request: HttpRequest, fake: Data<Fake>, name: Path<String>) -> HttpResponse {
    assert!(allowed(&request));
    let (id, format) = name.split_once('.').unwrap();
    let mut bytes = fake.disks.lock().unwrap()[id].clone();
    if format == "vhd" {
        bytes.splice(0..0, VHD_HEAD.iter().copied());
    }
    part(&request, fake.fault, bytes, &name)
}

/// The first export of a VM has no length and takes no ranges, as one that is compressed on its way.
async fn export_vm(request: HttpRequest, fake: Data<Fake>, name: Path<String>) -> HttpResponse {
    assert!(allowed(&request) && request.query_string() == "compress=zstd");
    let id = name.strip_suffix(".xva").unwrap();
    let (disk, before) = {
        let mut vms = fake.vms.lock().unwrap();
        let vm = vms.get_mut(id).unwrap();
        (vm.disk.clone(), std::mem::replace(&mut vm.exported, true))
    };
    let mut bytes = fake.disks.lock().unwrap()[&disk].clone();
    bytes.splice(0..0, XVA_HEAD.iter().copied());
    if before && fake.fault != Fault::NeverKnowsItsLength {
        if fake.fault == Fault::OtherXva {
            bytes[5] ^= 1;
        }
        return part(&request, fake.fault, bytes, &name);
    }
    assert!(!request.headers().contains_key(header::RANGE));
    let mut answer = HttpResponse::Ok();
    answer.insert_header((header::ETAG, format!("\"{name}\""))).streaming(pieces(&bytes))
}

/// What was asked for, of something whose length is known.
fn part(request: &HttpRequest, fault: Fault, mut bytes: Vec<u8>, name: &str) -> HttpResponse {
    let etag = format!("\"{name}\"");
    let range = request.headers().get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
    let Some(range) = range.filter(|_| fault != Fault::NoRanges) else {
        let whole = bytes.len() as u64;
        if fault == Fault::CutsExports {
            bytes.truncate(bytes.len() / 2);
        }
        return send(HttpResponse::Ok(), etag, bytes, whole);
    };
    assert_eq!(text(request, header::IF_RANGE), etag);
    let from: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    let total = bytes.len();
    let shown = if fault == Fault::RangeFromTooEarly { from - 1 } else { from };
    let mut rest = bytes.split_off(shown);
    if fault == Fault::WrongRest {
        rest.fill(7);
    }
    let mut answer = HttpResponse::PartialContent();
    answer.insert_header((header::CONTENT_RANGE, format!("bytes {shown}-{}/{total}", total - 1)));
    let len = rest.len() as u64;
    send(answer, etag, rest, len)
}

fn pieces(bytes: &[u8]) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let pieces: Vec<_> = bytes.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    futures_util::stream::iter(pieces)
}

fn send(mut answer: actix_web::HttpResponseBuilder, etag: String, bytes: Vec<u8>, len: u64) -> HttpResponse {
    answer.insert_header((header::ETAG, etag)).no_chunking(len).streaming(pieces(&bytes))
}

/// Starts the fake on a thread of its own. Answers its address, and what stops it.
pub(super) fn serve(fault: Fault) -> (String, impl Future<Output = ()>) {
    let (started, starting) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let (disks, vms, made) = Default::default();
            let fake = Data::new(Fake { fault, disks, vms, made });
            let server = HttpServer::new(move || {
                App::new()
                    .app_data(fake.clone())
                    .route("/rest/v0/srs", web::get().to(srs))
                    .route("/rest/v0/srs/{sr}/vdis", web::post().to(import))
                    .route("/rest/v0/vdis/{name}", web::get().to(export))
                    .route("/rest/v0/pools", web::get().to(pools))
                    .route("/rest/v0/pools/{pool}/vms", web::post().to(import_vm))
                    .route("/rest/v0/vms", web::post().to(create_vm))
                    .route("/rest/v0/vms/{vm}/vdis", web::get().to(disks_of))
                    .route("/rest/v0/vms/{name}", web::get().to(export_vm))
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
