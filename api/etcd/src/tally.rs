//! Counts what transactions consist of.

use std::sync::atomic::Ordering::Relaxed;

use kelson_engine::command::OpResponse;
use kelson_wire::pb::etcdserverpb::RequestOp;
use kelson_wire::pb::etcdserverpb::request_op::Request;

use crate::metrics::Counters;

/// Bytes of the keys and values that a list of operations puts; of a nested transaction its larger branch's.
pub(crate) fn put_bytes(ops: &[RequestOp]) -> usize {
    let bytes = |op: &RequestOp| match &op.request {
        Some(Request::RequestPut(put)) => put.key.len() + put.value.len(),
        Some(Request::RequestTxn(txn)) => put_bytes(&txn.success).max(put_bytes(&txn.failure)),
        _ => 0,
    };
    ops.iter().map(bytes).sum()
}

/// Counts the operations that a transaction has run. As in etcd, it counts as one from its second operation on.
pub(crate) fn operations(responses: &[OpResponse], counters: &Counters) {
    let [ranges, puts, deletes] = kinds(responses);
    counters.ranges.fetch_add(ranges, Relaxed);
    counters.puts.fetch_add(puts, Relaxed);
    counters.deletes.fetch_add(deletes, Relaxed);
    counters.txns.fetch_add((ranges + puts + deletes > 1).into(), Relaxed);
}

/// Ranges, puts and deletions.
fn kinds(responses: &[OpResponse]) -> [u64; 3] {
    let mut kinds = [0; 3];
    for response in responses {
        match response {
            OpResponse::Range(_) => kinds[0] += 1,
            OpResponse::Put { .. } => kinds[1] += 1,
            OpResponse::DeleteRange { .. } => kinds[2] += 1,
            OpResponse::Txn(nested) => {
                for (all, more) in kinds.iter_mut().zip(self::kinds(&nested.responses)) {
                    *all += more;
                }
            }
        }
    }
    kinds
}
