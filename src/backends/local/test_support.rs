//! A store for tests, with an SR of raw disks that are told apart by the byte that fills them, and crashes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::fuse::Moment;
use super::{Committed, Destination, LocalError, LocalStore, NewDisk, NewSr, NewVdi, Sr, Staging};
use crate::config::{Size, Storage};
use crate::disk::writer::{DiskWriter, VhdIdentity, Written};
use crate::ids::{DiskFormat, SrId, VdiId};
use crate::state::disks::{self, ContentRow, VdiRow};
use crate::state::{Db, moves};

/// The size of every disk.
pub const SIZE: u64 = 64 << 10;

pub struct Bench {
    folder: TempDir,
    runtime: Runtime,
    store: Option<LocalStore>,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut bench = Self { folder, runtime, store: None };
        bench.open();
        bench
    }

    fn open(&mut self) {
        let folder = self.folder.path();
        let options =
            Storage { reserve: Size(0), sr_roots: vec![folder.to_path_buf()], ..Storage::default() };
        // The threads of the store before may hold its locks for a moment.
        for _ in 0..500 {
            let db = Db::open(&folder.join("gantry.db")).unwrap();
            match LocalStore::open(db, folder, options.clone(), &Default::default()) {
                Ok(store) => return self.store = Some(store),
                Err(LocalError::SrDir(_)) => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the directory stays locked");
    }

    /// Ends the store without any care, and opens it again.
    pub fn crash(&mut self) {
        self.store = None;
        self.open();
    }

    pub fn store(&self) -> &LocalStore {
        self.store.as_ref().unwrap()
    }

    pub fn sr(&self) -> Arc<Sr> {
        self.store().sr(self.store().site().default_sr).unwrap()
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Another SR.
    pub fn add_sr(&self, path: Option<&str>, format: Option<DiskFormat>) -> SrId {
        let new = NewSr {
            id: SrId::random(),
            name_label: "another".into(),
            name_description: None,
            path: path.map(|name| self.folder.path().join(name)),
            content_format: format,
            read_only: false,
        };
        self.wait(self.store().create_sr(new)).unwrap().id
    }

    /// Calls the directory's changes to a halt after so many of them, and the database with the last one if that is
    /// asked for. Answers whether it came to that.
    pub fn stop_after(&self, steps: usize, with_db: bool) -> Arc<AtomicBool> {
        let stopped = Arc::new(AtomicBool::new(false));
        let (told, db, mut left) = (Arc::clone(&stopped), self.store().db().clone(), steps);
        self.sr().dir.fuse().set(move |moment| match moment {
            Moment::Before if left == 0 => {
                told.store(true, Ordering::Relaxed);
                false
            }
            Moment::Before => true,
            Moment::After => {
                left -= 1;
                if left == 0 && with_db {
                    told.store(true, Ordering::Relaxed);
                    db.close_blocking();
                }
                true
            }
        });
        stopped
    }

    /// A staged disk full of a byte.
    pub fn staged(&self, sr: &Arc<Sr>, byte: u8) -> (Staging, Written) {
        let staging = self.store().stage(sr);
        let identity = VhdIdentity { unique_id: [1; 16], timestamp: 0 };
        let mut writer =
            DiskWriter::create(&staging.path(), sr.content_format, Some(SIZE), identity).unwrap();
        writer.write(0, &vec![byte; SIZE as usize]).unwrap();
        (staging, writer.finish(SIZE).unwrap())
    }

    pub fn new_disk(&self, sr: &Arc<Sr>, byte: u8) -> NewDisk {
        let (staging, written) = self.staged(sr, byte);
        let vdi = NewVdi {
            id: VdiId::random(),
            name_label: format!("disk {byte}"),
            name_description: String::new(),
            tags: vec!["tag".into()],
            vdi_type: "system".into(),
            record: Default::default(),
        };
        NewDisk { staging, written, vdi }
    }

    /// A VDI full of a byte.
    pub fn make(&self, byte: u8) -> VdiId {
        let (vdi, (staging, written)) = (VdiId::random(), self.staged(&self.sr(), byte));
        let (name_label, name_description) = (format!("disk {byte}"), String::new());
        let destination = Destination::New { vdi, name_label, name_description };
        self.wait(self.store().commit(staging, written, destination, None)).unwrap();
        vdi
    }

    /// Fills a VDI with a byte.
    pub fn replace(&self, vdi: VdiId, byte: u8) -> Result<Committed, LocalError> {
        let row = self.row(vdi).unwrap();
        let (staging, written) = self.staged(&self.store().sr(row.sr)?, byte);
        let claim = self.store().claim(vdi)?;
        let destination = Destination::Replace { vdi, expected: row.content, claim };
        self.wait(self.store().commit(staging, written, destination, None))
    }

    pub fn snapshot(&self, vdi: VdiId) -> VdiId {
        self.wait(self.store().snapshot_vdi(vdi, None)).unwrap()
    }

    pub fn delete(&self, vdi: VdiId) -> Result<(), LocalError> {
        self.wait(self.store().delete_vdi(vdi))
    }

    pub fn row(&self, vdi: VdiId) -> Option<VdiRow> {
        self.store().db().call_blocking(move |db| Ok(disks::find_vdi(db, vdi)?)).unwrap()
    }

    pub fn content(&self, vdi: VdiId) -> ContentRow {
        let id = self.row(vdi).unwrap().content;
        self.store().db().call_blocking(move |db| Ok(disks::find_content(db, id)?)).unwrap().unwrap()
    }

    /// The byte that a VDI is full of; nothing when there is no such VDI.
    pub fn byte(&self, vdi: VdiId) -> Option<u8> {
        self.row(vdi)?;
        let (_, _, pin) = self.wait(self.store().pin_vdi(vdi)).unwrap();
        let open = self.wait(self.store().open_content(&pin)).unwrap();
        let mut bytes = vec![0; SIZE as usize];
        open.reader.read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mixture");
        Some(bytes[0])
    }

    /// The disks' files in the default SR, and what fills them.
    pub fn files(&self) -> BTreeMap<String, u8> {
        let dir = self.sr();
        let mut names: Vec<String> = std::fs::read_dir(dir.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".gantry")
            .collect();
        names.extend(dir.dir.own_files("work").unwrap());
        names.extend(dir.dir.own_files("pinned").unwrap());
        names
            .into_iter()
            .filter_map(|name| match std::fs::read(dir.dir.file(&name)) {
                Ok(bytes) => Some((name, bytes[0])),
                // What goes on another thread may go between the listing and this.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => panic!("{name}: {error}"),
            })
            .collect()
    }

    /// Insists on these VDIs, each full of its byte, on a file of its content under the name of a VDI that refers to
    /// it, and on nothing else.
    #[track_caller]
    pub fn assert_holds(&self, expected: &[(VdiId, u8)], when: &str) {
        let sr = self.sr();
        let id = sr.id;
        let mut files = BTreeMap::new();
        for (vdi, byte) in expected {
            assert_eq!(self.byte(*vdi), Some(*byte), "{when}");
            let content = self.content(*vdi);
            let (named, _) = crate::backends::local::sr_dir::SrDir::disk_of(&content.file).unwrap();
            let sharers = self
                .store()
                .db()
                .call_blocking(move |db| Ok(disks::vdis_of_content(db, content.id)?))
                .unwrap();
            assert!(sharers.contains(&named), "{when}: {}", content.file);
            files.insert(content.file, *byte);
        }
        assert_eq!(self.files(), files, "{when}");
        let (vdis, contents, intents, moves) = self
            .store()
            .db()
            .call_blocking(move |db| {
                let contents = disks::contents_of_sr(db, id)?;
                Ok((
                    disks::vdi_ids(db, id)?.len(),
                    contents.len(),
                    disks::intents_of_sr(db, id)?,
                    moves::of_sr(db, id)?,
                ))
            })
            .unwrap();
        assert_eq!((vdis, contents), (expected.len(), files.len()), "{when}");
        assert_eq!((intents, moves), (Vec::new(), Vec::new()), "{when}");
    }
}
