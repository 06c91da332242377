//! A node's lease: when it is renewed, and with what.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use kelson_wire::kube::timestamp;
use serde::Serialize;

use crate::Millis;
use crate::config::Timings;

/// How long a lease is good for, in seconds: four renewals.
const DURATION_SECONDS: u32 = 40;

/// A node's lease.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lease {
    /// Version of the last write; empty: not known.
    pub version: Arc<str>,
    /// It is known not to exist.
    pub absent: bool,
    pub queued: bool,
    pub in_flight: bool,
    pub attempts: u8,
}

/// The next renewal after `now` of the node with this number: each node has its own beat of the interval, so that
/// renewals are spread evenly over time and those of one beat share a commit.
pub(crate) fn next_renewal(index: u32, now: Millis, timings: &Timings) -> Millis {
    let beats = (timings.lease / timings.beat).max(1);
    // Multiplying by an odd number far from any power of two scatters neighbours over the beats, evenly.
    let offset = (u64::from(index) * 61 % beats) * timings.beat;
    let interval = beats * timings.beat;
    let turn = (now.saturating_sub(offset) / interval + 1) * interval + offset;
    // The first renewal follows the creation closely: skip it.
    if turn < now + interval / 4 { turn + interval } else { turn }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeaseObject<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: LeaseMeta<'a>,
    spec: LeaseSpec<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LeaseMeta<'a> {
    name: &'a str,
    namespace: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    resource_version: &'a str,
    owner_references: [LeaseOwner<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LeaseOwner<'a> {
    api_version: &'static str,
    kind: &'static str,
    name: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LeaseSpec<'a> {
    holder_identity: &'a str,
    lease_duration_seconds: u32,
    renew_time: String,
}

/// Namespace of the leases.
pub(crate) const NAMESPACE: &str = "kube-node-lease";

impl<'a> LeaseObject<'a> {
    /// The lease of a node as it is written at `now`; `version` is empty for a new one.
    pub fn new(node: &'a str, uid: &'a str, version: &'a str, now: Millis) -> LeaseObject<'a> {
        LeaseObject {
            api_version: "coordination.k8s.io/v1",
            kind: "Lease",
            metadata: LeaseMeta {
                name: node,
                namespace: NAMESPACE,
                resource_version: version,
                owner_references: [LeaseOwner { api_version: "v1", kind: "Node", name: node, uid }],
            },
            spec: LeaseSpec {
                holder_identity: node,
                lease_duration_seconds: DURATION_SECONDS,
                renew_time: timestamp::format_micro(UNIX_EPOCH + Duration::from_millis(now)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_are_spread_evenly_and_ten_seconds_apart() {
        let timings = Timings::default();
        let start = 1_700_000_000_123;
        let mut per_beat = std::collections::BTreeMap::new();
        for index in 0..5_000 {
            let first = next_renewal(index, start, &timings);
            assert!(first >= start + 2_500 && first <= start + 12_500);
            assert_eq!(next_renewal(index, first, &timings), first + 10_000);
            *per_beat.entry(first % 10_000).or_insert(0) += 1;
        }
        assert_eq!(per_beat.len(), 100);
        assert!(per_beat.values().all(|count| *count == 50));
    }
}
