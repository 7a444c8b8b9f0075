//! What the clients do until the server dies under them. Each goes on until its connection is cut, so that the kill
//! meets whatever the program is at; some stop in the middle of a body and wait there.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::Receiver;

use serde_json::json;

use super::model::{Content, Disk, Seen, content, grown, vhd};
use crate::support::MIB;
use crate::support::disk::next;
use crate::support::http::{Request, Response};
use crate::support::tools::qemu;
use crate::support::vhd::get64;

/// Numbers that a seed fixes.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        next(&mut self.0) % sides
    }

    /// A disk's size: whole sectors, seldom whole blocks of anything.
    pub fn size(&mut self) -> usize {
        (MIB + 512 * self.roll(6 * 1024)) as usize
    }
}

/// Where the server is in this round, and what is remembered of all rounds.
#[derive(Clone, Copy)]
pub struct Wire<'a> {
    pub address: SocketAddr,
    pub token: &'a str,
    pub seen: &'a Seen,
}

impl Wire<'_> {
    fn request(&self, method: &str, target: &str) -> Request {
        let cookie = format!("authenticationToken={}", self.token);
        Request::new(self.address, method, target).header("Cookie", &cookie)
    }

    fn noted(&self, response: Response) -> Response {
        if let Some(task) = response.head.header("Gantry-Task") {
            self.seen.task(task);
        }
        response
    }

    fn send(&self, request: Request, status: u16) -> io::Result<Response> {
        Ok(self.noted(request.try_send()?).expect(status))
    }

    /// Sends a body; now and then only a part of it, and then waits for the end of the connection.
    fn upload(&self, dice: &mut Dice, request: Request, body: Vec<u8>, status: u16) -> io::Result<Response> {
        if dice.roll(4) > 0 {
            return self.send(request.body(body), status);
        }
        let mut upload = request.try_begin(Some(body.len() as u64))?;
        upload.write(&body[..dice.roll(body.len() as u64) as usize])?;
        let answer = upload.try_answer()?;
        panic!("{} to an upload that has not ended", answer.head.status);
    }

    /// Notes every task in the list.
    pub fn list(&self) -> io::Result<()> {
        let tasks = self.send(self.request("GET", "/rest/v0/tasks?fields=id"), 200)?.json();
        tasks.as_array().into_iter().flatten().for_each(|task| {
            self.seen.task(task["id"].as_str().expect("an id"));
        });
        Ok(())
    }
}

fn form(dice: &mut Dice, content: &Content) -> (&'static str, Vec<u8>) {
    if dice.roll(2) == 0 { ("vhd", vhd(content)) } else { ("raw", content.to_vec()) }
}

/// Replaces, grows and renames one disk.
pub fn write(wire: Wire<'_>, dice: &mut Dice, disk: &mut Disk) -> io::Error {
    loop {
        if let Err(cut) = write_once(wire, dice, disk) {
            return cut;
        }
    }
}

fn write_once(wire: Wire<'_>, dice: &mut Dice, disk: &mut Disk) -> io::Result<()> {
    let address = format!("/rest/v0/vdis/{}", disk.id);
    let size = disk.sure.len();
    match dice.roll(5) {
        0 | 1 => {
            let new = content(size, dice.roll(u64::MAX));
            wire.seen.content(&disk.id, &new);
            disk.maybe = Some(new.clone());
            let (format, body) = form(dice, &new);
            let request = wire.request("PUT", &format!("{address}.{format}"));
            wire.upload(dice, request, body, 204)?;
            disk.sure = new;
            disk.maybe = None;
        }
        2 | 3 => {
            let larger = size + 512 * (1 + dice.roll(24) as usize);
            let new = grown(&disk.sure, larger);
            wire.seen.content(&disk.id, &new);
            disk.maybe = Some(new.clone());
            wire.send(wire.request("PATCH", &address).json(&json!({ "size": larger })), 204)?;
            disk.sure = new;
            disk.maybe = None;
        }
        _ => {
            let label = format!("{:x}", dice.roll(u64::MAX));
            disk.maybe_label = Some(label.clone());
            wire.send(wire.request("PATCH", &address).json(&json!({ "name_label": label })), 204)?;
            disk.label = label;
            disk.maybe_label = None;
        }
    }
    Ok(())
}

/// Disks that come and go.
#[derive(Default)]
pub struct Stock {
    pub disks: Vec<Disk>,
    /// Imports that were not answered, by their label.
    pub coming: Vec<(String, Content)>,
    /// Those whose removal was answered.
    pub gone: Vec<String>,
}

const MOST_DISKS: usize = 4;

/// Imports disks and deletes them.
pub fn stock(wire: Wire<'_>, dice: &mut Dice, srs: [&str; 2], stock: &mut Stock) -> io::Error {
    loop {
        if let Err(cut) = stock_once(wire, dice, srs, stock) {
            return cut;
        }
    }
}

fn stock_once(wire: Wire<'_>, dice: &mut Dice, srs: [&str; 2], stock: &mut Stock) -> io::Result<()> {
    if stock.disks.len() < MOST_DISKS && dice.roll(3) > 0 {
        let label = format!("{:x}", dice.roll(u64::MAX));
        let new = content(dice.size(), dice.roll(u64::MAX));
        let (format, body) = form(dice, &new);
        let form = if format == "raw" { "raw&" } else { "" };
        let sr = srs[dice.roll(2) as usize];
        let target = format!("/rest/v0/srs/{sr}/vdis?{form}name_label={label}");
        stock.coming.push((label.clone(), new.clone()));
        let answer = wire.upload(dice, wire.request("POST", &target), body, 201)?;
        let id = answer.json()["id"].as_str().expect("an id").to_owned();
        stock.coming.pop();
        wire.seen.content(&id, &new);
        stock.disks.push(Disk::new(id, new, label));
    } else if !stock.disks.is_empty() {
        let which = dice.roll(stock.disks.len() as u64) as usize;
        let disk = &mut stock.disks[which];
        let address = format!("/rest/v0/vdis/{}", disk.id);
        let mut reader = wire.request("GET", &format!("{address}.raw")).try_open()?;
        wire.seen.task(reader.head.need("Gantry-Task"));
        disk.going = true;
        wire.send(wire.request("DELETE", &address), 204)?;
        let disk = stock.disks.swap_remove(which);
        stock.gone.push(disk.id);
        // Whoever reads it already reads it to its end.
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        assert!(bytes == *disk.sure, "a download of a deleted disk is not what it was");
    }
    Ok(())
}

/// A download that was cut.
pub struct Partial {
    disk: String,
    format: &'static str,
    etag: String,
    have: Vec<u8>,
}

/// Downloads disks, first what is left of the download that the kill before has cut. In the middle of some it waits
/// until the server is dead, which drops the other end of `killed`.
pub fn read(
    wire: Wire<'_>,
    dice: &mut Dice,
    disks: &[String],
    left: &mut Option<Partial>,
    killed: &Receiver<()>,
    scratch: &Path,
) -> io::Error {
    loop {
        let wait = (dice.roll(3) == 0).then_some(killed);
        if let Err(cut) = read_once(wire, dice, disks, left, wait, scratch) {
            return cut;
        }
    }
}

/// One download, or the rest of one. What is cut stays in `left`.
pub fn read_once(
    wire: Wire<'_>,
    dice: &mut Dice,
    disks: &[String],
    left: &mut Option<Partial>,
    wait: Option<&Receiver<()>>,
    scratch: &Path,
) -> io::Result<()> {
    let partial = left.get_or_insert_with(|| Partial {
        disk: disks[dice.roll(disks.len() as u64) as usize].clone(),
        format: if dice.roll(4) == 0 { "vhd" } else { "raw" },
        etag: String::new(),
        have: Vec::new(),
    });
    let mut request = wire.request("GET", &format!("/rest/v0/vdis/{}.{}", partial.disk, partial.format));
    if !partial.have.is_empty() {
        let range = format!("bytes={}-", partial.have.len());
        request = request.header("Range", &range).header("If-Range", &partial.etag);
    }
    let mut download = request.try_open()?;
    let etag = download.head.need("ETag").to_owned();
    match download.head.status {
        206 => assert_eq!(etag, partial.etag, "a part of something else"),
        200 => (partial.etag, partial.have) = (etag, Vec::new()),
        status => panic!("{status} to a download: {:?}", download.head),
    }
    wire.seen.task(download.head.need("Gantry-Task"));
    if let Some(killed) = wait {
        let much = dice.roll(download.head.length());
        let taken = (&mut download).take(much).read_to_end(&mut partial.have);
        taken?;
        let _ = killed.recv();
    }
    // What has come stays when the rest does not.
    download.read_to_end(&mut partial.have)?;
    let Some(Partial { disk, format, have, .. }) = left.take() else { return Ok(()) };
    let content = if format == "vhd" { inside(&have, scratch) } else { have };
    assert!(wire.seen.has_held(&disk, &content), "a download of {disk} as {format} is no content of it");
    Ok(())
}

/// The disk that qemu finds in a VHD.
fn inside(vhd: &[u8], scratch: &Path) -> Vec<u8> {
    let (file, raw) = (scratch.join("downloaded.vhd"), scratch.join("downloaded.raw"));
    std::fs::write(&file, vhd).expect("there is room");
    qemu::vhd_to_raw(&file, &raw);
    let mut content = std::fs::read(raw).expect("it was made");
    // Virtual size, in the footer.
    let size = get64(vhd, vhd.len() - 512 + 48) as usize;
    assert!(content.len() >= size, "qemu finds {} of {size} bytes", content.len());
    content.truncate(size);
    content
}

/// Reads single parts of disks and looks at the list of tasks.
pub fn peek(wire: Wire<'_>, dice: &mut Dice, disks: &[String]) -> io::Error {
    loop {
        if let Err(cut) = peek_once(wire, dice, disks) {
            return cut;
        }
    }
}

fn peek_once(wire: Wire<'_>, dice: &mut Dice, disks: &[String]) -> io::Result<()> {
    let disk = &disks[dice.roll(disks.len() as u64) as usize];
    let start = dice.roll(MIB - 70_000);
    let range = format!("bytes={start}-{}", start + dice.roll(70_000));
    let request = wire.request("GET", &format!("/rest/v0/vdis/{disk}.raw")).header("Range", &range);
    // A range without a tag, just after the content was replaced, is refused with good reason: name one.
    let head = wire.send(wire.request("HEAD", &format!("/rest/v0/vdis/{disk}.raw")), 200)?;
    let request = request.header("If-Range", head.head.need("ETag"));
    let answer = wire.noted(request.try_send()?);
    assert!(matches!(answer.head.status, 200 | 206), "{}: {}", answer.head.status, answer.text());
    wire.list()
}
