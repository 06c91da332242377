//! The network: streams with delays of their own, ways that can be cut in one direction, members that fall silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use kelson_raft::{Connection, Dial, Dialing, Node};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::Notify,
    task::AbortHandle,
};

use crate::{dice::Dice, poll::pause};

/// Bytes that a stream takes at each end before anybody reads them.
const BUFFER: usize = 256 << 10;

pub struct Net {
    dice: Dice,
    inner: Mutex<Inner>,
    healed: Notify,
}

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<u64, Node>,
    /// Ways, as from and to, that carry nothing at present.
    cut: BTreeSet<(u64, u64)>,
    /// Members whose power is off: nothing comes from them, not even the end of a stream.
    silent: BTreeSet<u64>,
    /// Milliseconds that a way takes beyond the usual.
    slow: BTreeMap<(u64, u64), u64>,
    /// Of a hundred pieces, how many are lost and sent again after the retransmission timeout.
    loss: u64,
    streams: Vec<Stream>,
}

struct Stream {
    ends: [u64; 2],
    tasks: [AbortHandle; 2],
}

/// Under which URL a member is reached.
pub fn url(id: u64) -> String {
    format!("http://member{id}:2380")
}

/// One member's way into the network.
pub struct Socket {
    pub net: Arc<Net>,
    pub from: u64,
}

impl Net {
    pub fn new(dice: Dice) -> Net {
        Net { dice, inner: Mutex::default(), healed: Notify::new() }
    }

    /// The member can be dialled; streams of its earlier life are reset.
    pub fn plug(&self, id: u64, node: Node) {
        self.reset(|ends| ends.contains(&id));
        let mut inner = self.inner.lock();
        inner.silent.remove(&id);
        inner.nodes.insert(id, node);
        drop(inner);
        self.healed.notify_waiters();
    }

    /// The member's process is gone: who dials it is refused. With its power off nobody hears of that.
    pub fn unplug(&self, id: u64, silent: bool) {
        let mut inner = self.inner.lock();
        inner.nodes.remove(&id);
        if silent {
            inner.silent.insert(id);
        }
    }

    /// Nobody is there any more.
    pub fn clear(&self) {
        *self.inner.lock() = Inner::default();
    }

    pub fn cut(&self, ways: impl IntoIterator<Item = (u64, u64)>) {
        self.inner.lock().cut.extend(ways);
    }

    /// These ways are open again; whether one of them was still cut.
    pub fn open(&self, ways: impl IntoIterator<Item = (u64, u64)>) -> bool {
        let mut inner = self.inner.lock();
        let opened = ways.into_iter().filter(|way| inner.cut.remove(way)).count();
        drop(inner);
        self.healed.notify_waiters();
        opened > 0
    }

    pub fn slow(&self, way: (u64, u64), ms: u64) {
        self.inner.lock().slow.insert(way, ms);
    }

    pub fn lose(&self, percent: u64) {
        self.inner.lock().loss = percent;
    }

    /// Everything is as it should be.
    pub fn heal(&self) {
        let mut inner = self.inner.lock();
        inner.cut.clear();
        inner.slow.clear();
        inner.loss = 0;
        drop(inner);
        self.healed.notify_waiters();
    }

    /// Breaks streams.
    pub fn reset(&self, which: impl Fn(&[u64; 2]) -> bool) {
        self.inner.lock().streams.retain(|stream| {
            let broken = which(&stream.ends);
            if broken {
                stream.tasks.iter().for_each(AbortHandle::abort);
            }
            !broken && !stream.tasks.iter().all(AbortHandle::is_finished)
        });
    }

    fn carries(&self, from: u64, to: u64) -> bool {
        let inner = self.inner.lock();
        !inner.cut.contains(&(from, to)) && !inner.silent.contains(&from) && !inner.silent.contains(&to)
    }

    /// Waits until the way is open.
    async fn pass(&self, from: u64, to: u64) {
        loop {
            let healed = self.healed.notified();
            if self.carries(from, to) {
                return;
            }
            healed.await;
        }
    }

    fn delay(&self, from: u64, to: u64) -> Duration {
        let (slow, loss) = {
            let inner = self.inner.lock();
            (inner.slow.get(&(from, to)).copied().unwrap_or(0), inner.loss)
        };
        let usual = if self.dice.percent(3) { self.dice.between(5, 60) } else { self.dice.between(0, 2) };
        let again = if self.dice.percent(loss) { self.dice.between(200, 600) } else { 0 };
        let slow = if slow == 0 { 0 } else { self.dice.between(slow / 2, slow) };
        Duration::from_millis(usual + again + slow)
    }

    async fn carry(
        self: Arc<Self>,
        (from, to): (u64, u64),
        mut out: ReadHalf<DuplexStream>,
        mut into: WriteHalf<DuplexStream>,
    ) {
        let mut buffer = vec![0; 8 << 10];
        loop {
            let length = out.read(&mut buffer).await.unwrap_or(0);
            pause(self.delay(from, to)).await;
            self.pass(from, to).await;
            if length == 0 {
                // Who does not listen any more does not mind.
                let _ = into.shutdown().await;
                return;
            }
            if into.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    }

    async fn connect(self: Arc<Self>, from: u64, url: &str) -> io::Result<Box<dyn Connection>> {
        let to = url.trim_start_matches("http://member").trim_end_matches(":2380").parse::<u64>();
        let to = to.map_err(|_| io::ErrorKind::InvalidInput)?;
        // What is cut is silent.
        pause(self.delay(from, to)).await;
        self.pass(from, to).await;
        pause(self.delay(to, from)).await;
        self.pass(to, from).await;
        let node = self.inner.lock().nodes.get(&to).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, near_end) = tokio::io::duplex(BUFFER);
        let (far_end, far) = tokio::io::duplex(BUFFER);
        let (near_out, near_in) = tokio::io::split(near_end);
        let (far_out, far_in) = tokio::io::split(far_end);
        let there = tokio::spawn(self.clone().carry((from, to), near_out, far_in));
        let back = tokio::spawn(self.clone().carry((to, from), far_out, near_in));
        let tasks = [there.abort_handle(), back.abort_handle()];
        self.inner.lock().streams.push(Stream { ends: [from, to], tasks });
        node.accept(Box::new(far));
        Ok(Box::new(near))
    }
}

impl Dial for Socket {
    fn dial<'a>(&'a self, url: &'a str) -> Dialing<'a> {
        Box::pin(self.net.clone().connect(self.from, url))
    }
}
