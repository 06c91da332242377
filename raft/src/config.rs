//! What a node needs to know before it starts; every bound of this crate has its name here.

use std::{
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use crate::{
    Error, Member,
    clock::{Clock, MonotonicClock},
    peer::Dial,
};

/// Where a node keeps its log and its state.
#[derive(Clone, Debug)]
pub enum Data {
    /// In `log/` and `state/` of this directory, which is created when missing. Needs the feature `rocksdb`.
    Dir(PathBuf),
    /// In memory: nothing outlives the process.
    Memory,
}

/// Settings of a node. Start from [`Config::new`] and change what differs.
#[derive(Clone)]
pub struct Config {
    /// This member's id, never 0. A data directory belongs to one member for ever.
    pub node_id: u64,
    /// The cluster's id, never 0.
    pub cluster_id: u64,
    /// A name for people.
    pub name: String,
    /// Where other members would reach this one.
    pub peer_urls: Vec<String>,
    /// Where clients reach this member.
    pub client_urls: Vec<String>,
    /// The members of a new cluster, this one among them: each is opened with the same ones. Empty for a cluster of this
    /// member alone. Of no meaning where there is data already.
    pub founders: Vec<Member>,
    /// Whether this member has been added to a cluster that exists, and waits to hear from it. Of no meaning where there
    /// is data already.
    pub joins: bool,
    /// Whether the data that is there becomes that of a cluster whose only member is this one, whoever were members
    /// before. What the others have and this one has not is lost.
    pub force_new_cluster: bool,
    /// Whether changes of members that would put the quorum at risk are refused.
    pub strict_reconfig: bool,
    /// Reaches other members; `None` where there are none.
    pub dial: Option<Arc<dyn Dial>>,
    /// Distinguishes this start of the member from all others.
    pub life: u64,
    /// Most bytes a second that are sent to a member that is far behind, be it of the log or of a state.
    pub state_rate: u64,
    /// Flushes of the state whose log is kept in a cluster of several, so that a member that was away for a while gets
    /// what it lacks from the log: see `snapshot_entries` and `snapshot_bytes`.
    pub kept_flushes: usize,
    /// While a member is sent a whole state the log behind that is kept for it as well, unless the log takes more than this
    /// many bytes: beyond that the member may need another state when it has this one.
    pub kept_bytes: u64,
    pub data: Data,
    /// A directory for the log of [`Data::Dir`], in place of `log/` in the data directory.
    pub log_dir: Option<PathBuf>,
    /// Whether data that is there already keeps the ids that it was founded with, whatever is said here. Else other ids
    /// are refused.
    pub keep_ids: bool,
    /// Whether a write waits for the disk. Without it a power cut loses acknowledged writes, a killed process none.
    pub fsync: bool,
    /// Commands that may wait for a place in a batch; one more is refused with [`Error::TooManyRequests`].
    pub max_inflight: usize,
    /// The same bound in bytes of keys and values. A single command larger than it is let in when nothing else waits.
    pub max_inflight_bytes: usize,
    /// Most bytes that one log entry holds, unless a single command is larger.
    pub max_batch_bytes: usize,
    /// Most commands that one log entry holds.
    pub max_batch_commands: usize,
    /// The state is flushed and the log in front of it dropped after this many entries ...
    pub snapshot_entries: u64,
    /// ... or this many bytes of log, whichever comes first. Also bounds what a restart replays. About what the
    /// state holds in memory before it writes it out by itself.
    pub snapshot_bytes: u64,
    /// Bytes of recent log kept in memory, so that applying and replicating need not read the disk. What is not yet
    /// on disk is kept whatever this says.
    pub log_tail_bytes: usize,
    /// How long [`Node::propose`](crate::Node::propose) and a read barrier wait for their answer.
    pub request_timeout: Duration,
    /// Pause between a leader's heartbeats; no meaning while there is one member.
    pub heartbeat: Duration,
    /// A follower stands for election after one to two times this without a heartbeat.
    pub election: Duration,
    /// Pause between two looks at the leases that have run out.
    pub lease_check: Duration,
    /// Most leases revoked at once. Where more have run out the next follow soon, but client requests have the log to
    /// themselves for three times as long as one such batch takes: a mass expiry cannot push them aside.
    pub lease_revokes: usize,
    /// How much too long a restart or a change of leader may make a lease live. What leases longer than this have left
    /// is noted in the log this often.
    pub lease_checkpoint: Duration,
    /// Most leases noted at one look; the others follow at the next.
    pub lease_checkpoints: usize,
    /// Lease deadlines are counted with this clock.
    pub clock: Arc<dyn Clock>,
}

impl Config {
    /// A single member called `name` with the usual bounds and ids derived from the name.
    pub fn new(name: impl Into<String>, data: Data) -> Self {
        let name = name.into();
        Config {
            node_id: stable_id(&[b"member", name.as_bytes()]),
            cluster_id: stable_id(&[b"cluster", b"kelson"]),
            name,
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            founders: Vec::new(),
            joins: false,
            force_new_cluster: false,
            strict_reconfig: true,
            dial: None,
            life: random(),
            state_rate: 16 << 20,
            kept_flushes: 16,
            kept_bytes: 4 << 30,
            data,
            log_dir: None,
            keep_ids: false,
            fsync: true,
            max_inflight: 16 * 1024,
            max_inflight_bytes: 256 << 20,
            max_batch_bytes: 1 << 20,
            max_batch_commands: 1024,
            snapshot_entries: 50_000,
            snapshot_bytes: 16 << 20,
            log_tail_bytes: 8 << 20,
            request_timeout: Duration::from_secs(7),
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(1000),
            lease_check: Duration::from_millis(200),
            lease_revokes: 128,
            lease_checkpoint: Duration::from_secs(300),
            lease_checkpoints: 1000,
            clock: Arc::new(MonotonicClock::default()),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let wrong = |text: &str| Err(Error::Config(text.to_owned()));
        if self.node_id == 0 || self.cluster_id == 0 {
            return wrong("node and cluster ids must not be 0");
        }
        if self.max_inflight == 0 || self.max_batch_commands == 0 {
            return wrong("max_inflight and max_batch_commands must not be 0");
        }
        if self.lease_revokes == 0 || self.lease_checkpoints == 0 || self.lease_checkpoint.is_zero() {
            return wrong("lease_revokes, lease_checkpoints and lease_checkpoint must not be 0");
        }
        if self.snapshot_entries == 0 || self.snapshot_bytes == 0 {
            return wrong("snapshot_entries and snapshot_bytes must not be 0");
        }
        if !self.founders.is_empty() && !self.founders.iter().any(|member| member.id == self.node_id) {
            return wrong("this member is not among the founders");
        }
        if self.heartbeat.as_millis() == 0 || self.election <= self.heartbeat {
            return wrong("the election timeout must be longer than the heartbeat, and that at least 1 ms");
        }
        if self.lease_check.is_zero() || self.request_timeout.is_zero() {
            return wrong("lease_check and request_timeout must not be 0");
        }
        Ok(())
    }
}

/// Different at every call: the standard library seeds its hashers so.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// 64-bit FNV-1a of the parts, never 0: ids need to be stable and distinct, not secret.
fn stable_id(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.iter().copied().chain([0xff])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_ids_follow_the_name() {
        let a = Config::new("a", Data::Memory);
        assert_eq!(a.validate(), Ok(()));
        assert_eq!(a.node_id, Config::new("a", Data::Memory).node_id);
        assert_ne!(a.node_id, Config::new("b", Data::Memory).node_id);
        assert_eq!(a.cluster_id, Config::new("b", Data::Memory).cluster_id);
    }

    #[test]
    fn nonsense_is_refused() {
        let spoil: [fn(&mut Config); 6] = [
            |c| c.node_id = 0,
            |c| c.max_inflight = 0,
            |c| c.max_batch_commands = 0,
            |c| c.snapshot_bytes = 0,
            |c| c.election = c.heartbeat,
            |c| c.lease_check = Duration::ZERO,
        ];
        for spoil in spoil {
            let mut config = Config::new("a", Data::Memory);
            spoil(&mut config);
            assert!(matches!(config.validate(), Err(Error::Config(_))));
        }
    }
}
