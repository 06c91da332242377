//! A network in one process, whose ways can be cut one by one, and the members on it.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
    time::Duration,
};

use kelson_engine::MemoryBackend;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::Notify,
};

use super::{TestDisk, config, eventually};
use crate::{Config, Dial, Dialing, Error, Member, Node, peer::MemoryStaging, start::Parts};

#[derive(Default)]
pub(super) struct Net {
    nodes: Mutex<HashMap<u64, Node>>,
    /// Ways, as from and to, that carry nothing at present.
    cut: Mutex<HashSet<(u64, u64)>>,
    healed: Notify,
}

/// One member's way into the network.
struct Socket {
    net: Arc<Net>,
    from: u64,
}

pub(super) fn url(id: u64) -> String {
    format!("http://member{id}:2380")
}

impl Net {
    /// Cuts all ways to and from a member.
    pub(super) fn isolate(&self, id: u64, among: &[u64]) {
        let ways = among.iter().filter(|other| **other != id).flat_map(|other| [(id, *other), (*other, id)]);
        self.cut.lock().extend(ways);
    }

    pub(super) fn heal(&self) {
        self.cut.lock().clear();
        self.healed.notify_waiters();
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.lock().contains(&(from, to))
    }

    async fn pass(&self, from: u64, to: u64) {
        loop {
            let healed = self.healed.notified();
            if !self.is_cut(from, to) {
                return;
            }
            healed.await;
        }
    }

    async fn carry(&self, from: u64, to: u64, mut out: ReadHalf<DuplexStream>, mut into: WriteHalf<DuplexStream>) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = out.read(&mut buffer).await {
            self.pass(from, to).await;
            if into.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
        // An end is carried as well.
        self.pass(from, to).await;
        let _ = into.shutdown().await;
    }

    async fn connect(self: Arc<Self>, from: u64, url: &str) -> io::Result<Box<dyn crate::Connection>> {
        let to = url.trim_start_matches("http://member").trim_end_matches(":2380").parse::<u64>();
        let to = to.map_err(|_| io::ErrorKind::InvalidInput)?;
        // What is cut is silent.
        self.pass(from, to).await;
        self.pass(to, from).await;
        let node = self.nodes.lock().get(&to).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, near_end) = tokio::io::duplex(64 << 10);
        let (far_end, far) = tokio::io::duplex(64 << 10);
        let (near_out, near_in) = tokio::io::split(near_end);
        let (far_out, far_in) = tokio::io::split(far_end);
        let (there, back) = (self.clone(), self);
        tokio::spawn(async move { there.carry(from, to, near_out, far_in).await });
        tokio::spawn(async move { back.carry(to, from, far_out, near_in).await });
        node.accept(Box::new(far));
        Ok(Box::new(near))
    }
}

impl Dial for Socket {
    fn dial<'a>(&'a self, url: &'a str) -> Dialing<'a> {
        Box::pin(self.net.clone().connect(self.from, url))
    }
}

/// What a member leaves behind when it stops.
#[derive(Default)]
pub(super) struct Medium {
    pub(super) disk: Arc<TestDisk>,
    pub(super) backend: Mutex<Option<Arc<dyn kelson_engine::Backend>>>,
    staging: Arc<MemoryStaging>,
}

/// A cluster on a network of its own.
pub(super) struct Cluster {
    pub(super) net: Arc<Net>,
    media: HashMap<u64, Arc<Medium>>,
    pub(super) change: fn(Config) -> Config,
    founders: Vec<u64>,
}

impl Cluster {
    pub(super) async fn found(ids: &[u64], change: fn(Config) -> Config) -> Cluster {
        let mut cluster = Cluster { net: Arc::default(), media: HashMap::new(), change, founders: ids.to_vec() };
        for id in ids {
            cluster.start(*id).await.unwrap();
        }
        cluster
    }

    fn config(&self, id: u64) -> Config {
        let founder =
            |id: &u64| Member { id: *id, name: format!("member{id}"), peer_urls: vec![url(*id)], ..Member::default() };
        let is_founder = self.founders.contains(&id);
        (self.change)(Config {
            node_id: id,
            cluster_id: 77,
            name: format!("member{id}"),
            peer_urls: vec![url(id)],
            client_urls: vec![format!("http://member{id}:2379")],
            founders: if is_founder { self.founders.iter().map(founder).collect() } else { Vec::new() },
            joins: !is_founder,
            heartbeat: Duration::from_millis(20),
            election: Duration::from_millis(300),
            dial: Some(Arc::new(Socket { net: self.net.clone(), from: id })),
            ..config()
        })
    }

    /// Starts a member, for the first time or on what it has.
    pub(super) async fn start(&mut self, id: u64) -> Result<Node, Error> {
        let config = self.config(id);
        self.start_with(id, config).await
    }

    pub(super) async fn start_with(&mut self, id: u64, config: Config) -> Result<Node, Error> {
        let medium = self.media.entry(id).or_default().clone();
        let received = medium.staging.kept.lock().take();
        let backend = {
            let mut backend = medium.backend.lock();
            let taken = received.clone().or_else(|| backend.clone());
            backend.insert(taken.unwrap_or_else(|| Arc::new(MemoryBackend::with_crashes()))).clone()
        };
        let mut parts = Parts::of(medium.disk.clone(), backend);
        parts.staging = medium.staging.clone();
        parts.received = received.is_some();
        let node = Node::open_parts(config, parts).await?;
        self.net.nodes.lock().insert(id, node.clone());
        Ok(node)
    }

    pub(super) fn base(&self, id: u64) -> Config {
        self.config(id)
    }

    pub(super) fn backend(&self, id: u64) -> Arc<dyn kelson_engine::Backend> {
        self.media[&id].backend.lock().clone().expect("a member that was started")
    }

    pub(super) fn node(&self, id: u64) -> Node {
        self.net.nodes.lock().get(&id).cloned().expect("a running member")
    }

    /// Stops a member in order.
    pub(super) async fn stop(&self, id: u64) -> Result<(), Error> {
        let node = self.net.nodes.lock().remove(&id).expect("a running member");
        node.shutdown().await
    }

    /// Waits until some of these members leads and all of them know it; returns it.
    pub(super) async fn leader(&self, among: &[u64]) -> u64 {
        let mut found = 0;
        eventually("a leader", || {
            let told: Vec<u64> = among.iter().map(|id| self.node(*id).status().leader).collect();
            found = told[0];
            found != 0 && among.contains(&found) && told.iter().all(|leader| *leader == found)
        })
        .await;
        found
    }

    pub(super) async fn end(self) {
        let nodes: Vec<Node> = self.net.nodes.lock().drain().map(|(_, node)| node).collect();
        for node in &nodes {
            // Some have stopped for a reason that the test knows.
            let _ = node.shutdown().await;
        }
    }
}
