//! Transactions that only read: they need no place in the log.

use kelson_engine::Error as EngineError;
use kelson_engine::command::{
    Compare, CompareResult, CompareTarget, KeyRange, KeyValue, Op, OpResponse, RangeRequest, Txn, TxnResponse,
};
use kelson_raft::{Error, Node};
use kelson_wire::pb::etcdserverpb::TxnRequest;
use kelson_wire::pb::etcdserverpb::request_op::Request;

use crate::reads::Reads;

/// How often one is run anew because a compaction overtook it.
const ATTEMPTS: usize = 4;

/// Whether both lists hold reads alone. One that nests others goes through the log, as in etcd.
pub(crate) fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether every read is content with this member's own state.
pub(crate) fn is_serializable(request: &TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

/// Runs a read-only transaction: all of it sees one revision. To be called behind the read barrier, unless its reads do
/// without one.
pub(crate) async fn run(node: &Node, reads: &Reads, txn: Txn) -> Result<(i64, TxnResponse), Error> {
    let mut attempt = 1;
    loop {
        let revision = node.reader().revision();
        match at(reads, &txn, revision).await {
            // Only our own choice of a revision can be made anew.
            Err(Error::Engine(EngineError::Compacted))
                if attempt < ATTEMPTS && node.reader().compacted_revision() > revision =>
            {
                attempt += 1;
            }
            done => return done.map(|answer| (revision, answer)),
        }
    }
}

async fn at(reads: &Reads, txn: &Txn, revision: i64) -> Result<TxnResponse, Error> {
    let mut succeeded = true;
    for compare in &txn.compares {
        if !holds(reads, compare, revision).await? {
            succeeded = false;
            break;
        }
    }
    let mut responses = Vec::new();
    for op in if succeeded { &txn.success } else { &txn.failure } {
        // There is nothing but reads, which was asked before.
        let Op::Range(range) = op else { continue };
        let mut range = range.clone();
        // Unlike in a read by itself, below zero is no name for the present: it lies below what was compacted, which
        // is -1 before the first compaction.
        if range.revision < -1 || (range.revision == -1 && reads.compacted_revision() > 0) {
            return Err(Error::Engine(EngineError::Compacted));
        }
        if range.revision <= 0 {
            range.revision = revision;
        }
        responses.push(OpResponse::Range(reads.local(range).await?.1));
    }
    Ok(TxnResponse { succeeded, responses })
}

async fn holds(reads: &Reads, compare: &Compare, revision: i64) -> Result<bool, Error> {
    let (_, answer) = reads.local(whole(compare.range.clone(), revision)).await?;
    if answer.kvs.is_empty() {
        // A key that does not exist has no value to compare, and zeroes for all the rest.
        return Ok(match &compare.target {
            CompareTarget::Value(_) => false,
            _ => relates(&KeyValue::default(), compare),
        });
    }
    Ok(answer.kvs.iter().all(|kv| relates(kv, compare)))
}

fn relates(kv: &KeyValue, compare: &Compare) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::CreateRevision(revision) => kv.create_revision.cmp(revision),
        CompareTarget::ModRevision(revision) => kv.mod_revision.cmp(revision),
        CompareTarget::Value(value) => kv.value.cmp(value),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    }
}

fn whole(range: KeyRange, revision: i64) -> RangeRequest {
    RangeRequest::whole(range, revision)
}
