//! Where a state that comes from another member is put until it is whole, so that it takes the old one's place at once or
//! not at all.

use std::sync::Arc;

use kelson_engine::{Backend, MemoryBackend};
use parking_lot::Mutex;

use crate::Error;

/// A place for one state beside the node's own.
pub(crate) trait Staging: Send + Sync + 'static {
    /// An empty backend; what an earlier one has left is gone.
    fn begin(&self) -> Result<Arc<dyn Backend>, Error>;

    /// The backend is whole and on stable storage: the next start takes it for the state.
    fn keep(&self, backend: Arc<dyn Backend>) -> Result<(), Error>;

    /// How long it takes until the backend is on stable storage.
    #[cfg(feature = "sim")]
    fn flushes(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

/// In memory, for whoever starts the next node to take.
#[derive(Default)]
pub(crate) struct MemoryStaging {
    pub(crate) kept: Mutex<Option<Arc<dyn Backend>>>,
}

impl Staging for MemoryStaging {
    fn begin(&self) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(MemoryBackend::new()))
    }

    fn keep(&self, backend: Arc<dyn Backend>) -> Result<(), Error> {
        *self.kept.lock() = Some(backend);
        Ok(())
    }
}

#[cfg(feature = "rocksdb")]
mod dir {
    use std::{fs, io, path::PathBuf, sync::Arc};

    use kelson_engine::{Backend, RocksBackend};

    use super::Staging;
    use crate::{Error, dir};

    /// In a directory beside the state's own.
    pub(crate) struct DirStaging {
        pub(crate) path: PathBuf,
    }

    impl DirStaging {
        fn failed(&self, what: &str, error: &io::Error) -> Error {
            Error::Directory { path: self.path.clone(), reason: format!("{what}: {error}") }
        }
    }

    impl Staging for DirStaging {
        fn begin(&self) -> Result<Arc<dyn Backend>, Error> {
            let place = self.path.join(dir::INCOMING);
            match fs::remove_dir_all(&place) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("cannot clear what came before", &error));
                }
                _ => {}
            }
            Ok(Arc::new(RocksBackend::open_aside(place)?))
        }

        fn keep(&self, backend: Arc<dyn Backend>) -> Result<(), Error> {
            // Its files are closed before anything says that they are whole.
            drop(backend);
            dir::mark_received(&self.path).map_err(|error| self.failed("cannot keep a state that has come", &error))
        }
    }
}

#[cfg(feature = "rocksdb")]
pub(crate) use dir::DirStaging;
