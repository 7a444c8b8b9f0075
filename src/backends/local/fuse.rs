//! Where tests stop what changes an SR's directory, at a step of their choice, as a crash would. Elsewhere it is nothing.

#[cfg(not(test))]
#[derive(Debug, Default)]
pub struct Fuse {}

#[cfg(not(test))]
impl Fuse {
    /// Makes a change.
    pub fn run<T>(&self, change: impl FnOnce() -> T) -> T {
        change()
    }
}

#[cfg(test)]
pub use blowing::{Fuse, Moment};

#[cfg(test)]
mod blowing {
    use std::io;
    use std::sync::Mutex;

    use crate::backends::local::sr_dir::SrDirError;

    /// When a test is asked about a change.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Moment {
        Before,
        After,
    }

    type Watch = Box<dyn FnMut(Moment) -> bool + Send>;

    /// Asks a test before and after each change.
    #[derive(Default)]
    pub struct Fuse(Mutex<Option<Watch>>);

    impl std::fmt::Debug for Fuse {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Fuse")
        }
    }

    impl Fuse {
        /// From now on `watch` is asked; a change before which it says no is refused.
        pub fn set(&self, watch: impl FnMut(Moment) -> bool + Send + 'static) {
            *self.0.lock().unwrap() = Some(Box::new(watch));
        }

        pub fn run(&self, change: impl FnOnce() -> Result<(), SrDirError>) -> Result<(), SrDirError> {
            let mut watch = self.0.lock().unwrap();
            let Some(watch) = watch.as_mut() else { return change() };
            if !watch(Moment::Before) {
                let source = io::Error::other("the fuse has blown");
                return Err(SrDirError::Io { action: "changing", path: "the directory".into(), source });
            }
            let done = change();
            watch(Moment::After);
            done
        }
    }
}
