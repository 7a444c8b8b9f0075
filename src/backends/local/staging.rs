//! Content in the making.

use std::path::PathBuf;
use std::sync::Arc;

use crate::ids::ContentId;
use crate::state::now_ms;

use super::sr_dir::SrDir;
use super::{LocalStore, Sr};

/// A place for content in the making. Unless it is committed, its file goes when this is dropped.
#[derive(Debug)]
pub struct Staging {
    content: ContentId,
    created_ms: i64,
    sr: Arc<Sr>,
    file: String,
    handed_over: bool,
}

impl Staging {
    /// The identity that the content will have.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// When it was begun, Unix milliseconds.
    pub fn created_ms(&self) -> i64 {
        self.created_ms
    }

    /// Where the file is to be written.
    pub fn path(&self) -> PathBuf {
        self.sr.dir.file(&self.file)
    }

    /// The SR that it lies in.
    pub fn sr(&self) -> &Arc<Sr> {
        &self.sr
    }

    /// The file, relative to the SR's directory.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// From here on the file is the matter of an intent.
    pub(super) fn hand_over(mut self) {
        self.handed_over = true;
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        let (sr, file) = (Arc::clone(&self.sr), std::mem::take(&mut self.file));
        let sweep = move || {
            if let Err(error) = sr.dir.unlink(&file) {
                tracing::error!(%file, %error, "an unfinished import could not be removed; the next start does it");
            }
        };
        // Removing a large file takes long, and an executor's thread must not wait for it.
        if tokio::runtime::Handle::try_current().is_ok() {
            drop(std::thread::Builder::new().name("sweep".into()).spawn(sweep));
        } else {
            sweep();
        }
    }
}

impl LocalStore {
    /// A place for new content on an SR.
    pub fn stage(&self, sr: &Arc<Sr>) -> Staging {
        let content = ContentId::random();
        let file = SrDir::work_file(content, sr.content_format);
        Staging { content, created_ms: now_ms(), sr: Arc::clone(sr), file, handed_over: false }
    }
}
