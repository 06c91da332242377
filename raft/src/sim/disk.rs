//! A log medium on which writes take simulated time, and which loses what was not synced.

use std::{io, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::log::{
    disk::{Change, Disk, Meta},
    memory::{Content, MemoryDisk},
};

/// How long the next synced write takes; `None`: it fails, as does every later one.
pub(super) type Pace = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

/// See the module's documentation.
pub(super) struct SimDisk {
    live: MemoryDisk,
    durable: Mutex<Durable>,
    pace: Pace,
}

#[derive(Default)]
struct Durable {
    content: Content,
    /// What was written since the last sync, the write under way included.
    unsynced: Vec<Change>,
    broken: bool,
    /// There is a writer that waits for its writes to settle; who writes before it has started does not.
    awaited: bool,
}

impl SimDisk {
    pub(super) fn new(content: Content, pace: Pace) -> SimDisk {
        let durable = Mutex::new(Durable { content: content.clone(), ..Durable::default() });
        SimDisk { live: MemoryDisk::with_content(content), durable, pace }
    }

    /// What a power cut leaves when the first `kept` of the changes that were not synced have reached the medium, in
    /// thousandths of them. The parts of a purge go together: a position without its effect would be found out.
    pub(super) fn cut(&self, kept: usize) -> Content {
        let durable = self.durable.lock();
        let mut content = durable.content.clone();
        let mut end = (durable.unsynced.len() * kept).div_ceil(1000);
        if end > 0 && matches!(durable.unsynced[end - 1], Change::Purge { .. }) {
            end += 1;
        }
        durable.unsynced.iter().take(end).for_each(|change| content.apply(change));
        content
    }

    /// The same medium for the next process: the end of this one loses nothing that it has written.
    pub(super) fn left(&self) -> SimDisk {
        let durable = self.durable.lock();
        let (content, unsynced) = (durable.content.clone(), durable.unsynced.clone());
        let durable = Mutex::new(Durable { content, unsynced, ..Durable::default() });
        SimDisk { live: MemoryDisk::with_content(self.live.content()), durable, pace: self.pace.clone() }
    }

    /// Whether a power cut would lose something.
    pub(super) fn is_unsynced(&self) -> bool {
        !self.durable.lock().unsynced.is_empty()
    }

    pub(super) fn with_durable<T>(&self, look: impl FnOnce(&Content) -> T) -> T {
        look(&self.durable.lock().content)
    }

    fn failed() -> io::Error {
        io::Error::other("the simulated disk is broken")
    }
}

impl Disk for SimDisk {
    fn write(&self, changes: &[Change], sync: bool) -> io::Result<()> {
        let mut durable = self.durable.lock();
        if durable.broken {
            return Err(SimDisk::failed());
        }
        durable.unsynced.extend_from_slice(changes);
        let at_once = sync && !durable.awaited;
        drop(durable);
        if at_once {
            self.sync();
        }
        self.live.write(changes, sync)
    }

    fn settle(&self, sync: bool) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.durable.lock().awaited = true;
            if !sync {
                return Ok(());
            }
            let Some(pause) = (self.pace)() else {
                self.durable.lock().broken = true;
                return Err(SimDisk::failed());
            };
            tokio::time::sleep(pause).await;
            self.sync();
            Ok(())
        })
    }

    fn meta(&self, name: Meta) -> io::Result<Option<Bytes>> {
        self.live.meta(name)
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        self.live.bounds()
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        self.live.read(range, max_bytes)
    }

    fn size(&self) -> u64 {
        self.live.size()
    }

    fn place(&self) -> String {
        "the simulated log".to_owned()
    }
}

impl SimDisk {
    /// The process that wrote has ended.
    pub(super) fn leave(&self) {
        self.durable.lock().awaited = false;
    }

    /// Everything written is on the medium.
    pub(super) fn sync(&self) {
        let mut durable = self.durable.lock();
        let Durable { content, unsynced, .. } = &mut *durable;
        unsynced.drain(..).for_each(|change| content.apply(&change));
    }
}
