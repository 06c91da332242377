//! The bound on the store's size, looked after before a command is proposed.

use kelson_engine::command::Command;
use kelson_engine::{AlarmAction, AlarmKind};
use kelson_raft::Node;
use kelson_wire::pb::etcdserverpb::request_op::Request;
use kelson_wire::pb::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use tonic::Status;

use crate::refusal;

/// etcd's default, in bytes.
const DEFAULT: i64 = 2 << 30;
/// What a key costs beside itself and its value, in bytes, as etcd estimates it.
const KEY: usize = 256;
/// What a lease costs, in bytes.
pub(crate) const LEASE: usize = 64;

/// How many bytes the state may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quota {
    bytes: Option<u64>,
    told: i64,
}

impl Quota {
    /// 0 for etcd's default, negative for no bound.
    pub(crate) fn new(bytes: i64) -> Self {
        let told = if bytes == 0 { DEFAULT } else { bytes };
        Self { bytes: u64::try_from(told).ok(), told }
    }

    /// The bound in bytes as clients are told it; negative for none.
    pub(crate) fn told(self) -> i64 {
        self.told
    }

    /// Whether a request that costs so many bytes has room. What costs nothing has even when the store is full.
    pub(crate) fn admits(self, node: &Node, cost: usize) -> bool {
        self.bytes.is_none_or(|most| cost == 0 || node.reader().size_bytes().saturating_add(cost as u64) < most)
    }

    /// Refuses a request that costs so many bytes when there is no room for it, after having raised the alarm.
    pub(crate) async fn check(self, node: &Node, cost: usize) -> Result<(), Status> {
        if self.admits(node, cost) {
            return Ok(());
        }
        let member = node.status().member_id;
        let alarm = kelson_engine::Alarm { kind: AlarmKind::NoSpace, member };
        if !node.reader().alarms().contains(&alarm) {
            let raise = Command::Alarm { action: AlarmAction::Activate, member, alarm: AlarmKind::NoSpace };
            match node.propose(node.reader().by_system(raise)).await {
                Ok(_) => tracing::warn!(quota = self.told, "the store has reached its quota; the alarm NOSPACE stands"),
                // The request is refused all the same, and the next one raises it.
                Err(error) => tracing::warn!("the alarm NOSPACE could not be raised: {error}"),
            }
        }
        Err(Status::resource_exhausted(refusal::NO_SPACE))
    }
}

/// What a put costs, in bytes.
pub(crate) fn put(request: &PutRequest) -> usize {
    KEY + request.key.len() + request.value.len()
}

/// What the dearer branch of a transaction costs, in bytes; nothing without puts.
pub(crate) fn txn(request: &TxnRequest) -> usize {
    let list = |ops: &[RequestOp]| {
        let cost = |op: &RequestOp| match &op.request {
            Some(Request::RequestPut(request)) => put(request),
            Some(Request::RequestTxn(request)) => txn(request),
            _ => 0,
        };
        ops.iter().map(cost).sum::<usize>()
    };
    list(&request.success).max(list(&request.failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dearer_branch_counts() {
        let put = |size: usize| RequestOp {
            request: Some(Request::RequestPut(PutRequest { value: vec![0; size].into(), ..Default::default() })),
        };
        let nested = TxnRequest { failure: vec![put(1), put(2)], ..Default::default() };
        let request = TxnRequest {
            success: vec![put(10)],
            failure: vec![RequestOp { request: Some(Request::RequestTxn(nested)) }, put(3)],
            ..Default::default()
        };
        assert_eq!(txn(&request), 3 * KEY + 6);
        assert_eq!(txn(&TxnRequest::default()), 0);
    }

    #[test]
    fn the_default_is_etcds() {
        assert_eq!((Quota::new(0).told(), Quota::new(7).told(), Quota::new(-1).bytes), (2_147_483_648, 7, None));
    }
}
