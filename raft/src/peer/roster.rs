//! Where the other members are, and the ways to them.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use openraft::async_runtime::WatchReceiver;
use openraft::{RaftMetrics, type_config::alias::WatchReceiverOf};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    Connection, Dial, Purpose,
    frame::Frames,
    hello::{self, Hello},
    link::Link,
};
use crate::{Error, types::Types};

/// How long the parts of a conversation may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Dialling a member and being welcomed.
    pub(crate) connect: Duration,
    /// Silence on a stream that owes an answer, after which it is given up.
    pub(crate) stall: Duration,
    /// Silence of the leader after which there is none, as far as this member knows.
    pub(crate) lead: Duration,
    /// The whole of what a client waits for.
    pub(crate) request: Duration,
}

/// The members as this one sees them. Shared by all that talks to them.
pub(crate) struct Roster {
    pub(crate) me: u64,
    pub(crate) cluster: u64,
    pub(crate) timing: Timing,
    dial: Option<Arc<dyn Dial>>,
    metrics: OnceLock<WatchReceiverOf<Types, RaftMetrics<Types>>>,
    links: Mutex<HashMap<u64, Arc<Link>>>,
    /// When the leader was last heard.
    heard: Mutex<Option<Instant>>,
    /// Ends the node.
    fail: OnceLock<mpsc::Sender<Error>>,
}

impl Roster {
    pub(crate) fn new(me: u64, cluster: u64, timing: Timing, dial: Option<Arc<dyn Dial>>) -> Self {
        let (links, heard) = (Mutex::default(), Mutex::new(None));
        Roster { me, cluster, timing, dial, metrics: OnceLock::new(), links, heard, fail: OnceLock::new() }
    }

    /// Follows the group from here on: before it there is nobody to reach.
    pub(crate) fn follow(&self, metrics: WatchReceiverOf<Types, RaftMetrics<Types>>) {
        // Called once.
        let _ = self.metrics.set(metrics);
    }

    /// Where to tell that the node must end.
    pub(crate) fn fail_through(&self, fail: mpsc::Sender<Error>) {
        // Called once.
        let _ = self.fail.set(fail);
    }

    /// Another member says that this one is none any more.
    pub(super) fn removed(&self) {
        if let Some(fail) = self.fail.get() {
            // Whoever else ended the node was first.
            let _ = fail.try_send(Error::Removed);
        }
    }

    /// The link for short calls to a member.
    pub(crate) fn link(&self, target: u64) -> Arc<Link> {
        let mut links = self.links.lock();
        links.entry(target).or_insert_with(|| Arc::new(Link::new(target))).clone()
    }

    fn urls(&self, target: u64) -> Vec<String> {
        let Some(metrics) = self.metrics.get() else { return Vec::new() };
        let now = metrics.borrow_watched();
        now.membership_config.membership().get_node(&target).map_or_else(Vec::new, |peer| peer.peer_urls.clone())
    }

    /// Opens a stream to a member, at the first of its addresses that answers.
    pub(crate) async fn open(&self, target: u64, purpose: Purpose) -> io::Result<Frames<Box<dyn Connection>>> {
        let Some(dial) = &self.dial else {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "this member has no way to reach others"));
        };
        let hello = Hello { cluster: self.cluster, from: self.me, to: target, purpose };
        let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("no address of member {target:x} is known"));
        for url in self.urls(target) {
            let opening = async { hello::call(dial.dial(&url).await?, hello).await };
            match timeout(self.timing.connect, opening).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = io::Error::new(error.kind(), format!("{url}: {error}")),
                Err(_) => failure = io::Error::new(io::ErrorKind::TimedOut, format!("{url}: no answer in time")),
            }
        }
        Err(failure)
    }

    /// The leader has been heard just now.
    pub(crate) fn hear(&self) {
        *self.heard.lock() = Some(Instant::now());
    }

    /// Whether the leader has been heard lately.
    pub(crate) fn hears(&self) -> bool {
        self.heard.lock().is_some_and(|heard| heard.elapsed() < self.timing.lead)
    }
}
