//! Where the demo works: a data directory of its own that it removes, or the one that it was given.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::console::say;
use super::error::DemoError;

/// The directories. Dropped, it removes what is temporary.
#[derive(Debug)]
pub(super) struct Workspace {
    data: PathBuf,
    files: PathBuf,
    temporary: Option<PathBuf>,
}

impl Workspace {
    /// Blocking.
    pub(super) fn open(data: Option<PathBuf>) -> Result<Self, DemoError> {
        let failed = |path: &Path, source| DemoError::File { action: "make", path: path.into(), source };
        if let Some(data) = data {
            let files = data.join("demo");
            fs::create_dir_all(&files).map_err(|source| failed(&files, source))?;
            return Ok(Self { data, files, temporary: None });
        }
        let mut random = [0; 8];
        let parent = std::env::temp_dir();
        let no_random = |error: getrandom::Error| failed(&parent, io::Error::other(error));
        getrandom::fill(&mut random).map_err(no_random)?;
        let root = parent.join(format!("gantry-demo-{:016x}", u64::from_ne_bytes(random)));
        fs::DirBuilder::new().mode(0o700).create(&root).map_err(|source| failed(&root, source))?;
        let workspace = Self { data: root.join("data"), files: root.join("files"), temporary: Some(root) };
        fs::create_dir(&workspace.files).map_err(|source| failed(&workspace.files, source))?;
        Ok(workspace)
    }

    /// The server's data directory.
    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// Where the demo's own files go.
    pub(super) fn files(&self) -> &Path {
        &self.files
    }

    /// The data directory, when it stays.
    pub(super) fn kept(&self) -> Option<String> {
        self.temporary.is_none().then(|| self.data.display().to_string())
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Some(root) = self.temporary.take()
            && let Err(error) = fs::remove_dir_all(&root)
        {
            say(&format!("cannot remove {}: {error}", root.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_temporary_one_is_private_and_goes_with_all_that_is_in_it() {
        let workspace = Workspace::open(None).unwrap();
        let root = workspace.files().parent().unwrap().to_owned();
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir_all(workspace.data().join("srs")).unwrap();
        fs::write(workspace.files().join("x"), "x").unwrap();
        assert_eq!(workspace.kept(), None);
        drop(workspace);
        assert!(!root.exists());
    }

    #[test]
    fn a_given_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(Some(dir.path().join("data"))).unwrap();
        fs::write(workspace.files().join("x"), "x").unwrap();
        assert!(workspace.kept().is_some());
        drop(workspace);
        assert!(dir.path().join("data/demo/x").exists());
    }
}
