//! A log medium that can be held in the middle of a sync, fail, and lose what was not synced.

use std::{io, ops::Range, time::Duration};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::log::{
    disk::{Change, Disk, Meta},
    memory::{Content, MemoryDisk},
};

#[derive(Default)]
pub(crate) struct TestDisk {
    live: MemoryDisk,
    inner: Mutex<Inner>,
    moved: Condvar,
}

#[derive(Default)]
struct Inner {
    durable: Content,
    /// Writes since the last sync.
    unsynced: Vec<Vec<Change>>,
    /// A write that waits for its sync at the held disk: some of it may be on the medium already.
    under_way: Option<Vec<Change>>,
    held: bool,
    broken: bool,
    /// Synced writes that wait at the held disk.
    stuck: usize,
    syncs: usize,
}

impl TestDisk {
    /// From now on a synced write does not return.
    pub(crate) fn hold(&self) {
        self.inner.lock().held = true;
    }

    pub(crate) fn let_go(&self) {
        self.inner.lock().held = false;
        self.moved.notify_all();
    }

    /// Every write fails from now on, a held one included.
    pub(crate) fn break_down(&self) {
        let mut inner = self.inner.lock();
        inner.broken = true;
        inner.held = false;
        self.moved.notify_all();
    }

    pub(crate) fn stuck(&self) -> usize {
        self.inner.lock().stuck
    }

    pub(crate) fn syncs(&self) -> usize {
        self.inner.lock().syncs
    }

    /// What a crash would leave when `kept` of the unsynced writes reached the medium by themselves.
    pub(crate) fn crashed(&self, kept: usize) -> TestDisk {
        self.crashed_with(|write, changes| if write < kept { changes } else { 0 })
    }

    /// What a crash would leave when each write that was not synced, the one under way included, reached the medium in
    /// part: `part` is told the number of the write and of its changes, and says how many of these are there. Zero for
    /// some and all for later ones is a reordering; anything between is a torn write.
    pub(crate) fn crashed_with(&self, mut part: impl FnMut(usize, usize) -> usize) -> TestDisk {
        let inner = self.inner.lock();
        let mut left = inner.durable.clone();
        for (number, write) in inner.unsynced.iter().chain(&inner.under_way).enumerate() {
            write.iter().take(part(number, write.len())).for_each(|change| left.apply(change));
        }
        TestDisk {
            live: MemoryDisk::with_content(left.clone()),
            inner: Mutex::new(Inner { durable: left, ..Inner::default() }),
            moved: Condvar::new(),
        }
    }

    pub(crate) fn corrupt(&self, index: u64) {
        self.live.corrupt(index);
    }
}

impl Disk for TestDisk {
    fn write(&self, changes: &[Change], sync: bool) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if sync {
            inner.stuck += 1;
            inner.under_way = Some(changes.to_vec());
            while inner.held {
                // The bound is for a test that fails in between: its node must be able to end.
                if self.moved.wait_for(&mut inner, Duration::from_secs(30)).timed_out() {
                    break;
                }
            }
            inner.stuck -= 1;
            inner.under_way = None;
        }
        if inner.broken {
            return Err(io::Error::other("the test's disk is broken"));
        }
        inner.unsynced.push(changes.to_vec());
        if sync {
            let unsynced = std::mem::take(&mut inner.unsynced);
            unsynced.iter().flatten().for_each(|change| inner.durable.apply(change));
            inner.syncs += 1;
        }
        self.live.write(changes, sync)
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
        "the test's log".to_owned()
    }
}
