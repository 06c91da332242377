//! Between etcd's messages and the engine's commands. Keys and values are handed over, never copied.

use kelson_engine::command::{
    self, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, KeyValue, Op, OpResponse, Put, SortOrder,
    SortTarget, Txn,
};
use kelson_wire::pb::etcdserverpb as pb;
use kelson_wire::pb::etcdserverpb::compare::TargetUnion;
use kelson_wire::pb::etcdserverpb::request_op::Request;
use kelson_wire::pb::etcdserverpb::response_op::Response;
use kelson_wire::pb::mvccpb;
use tonic::Status;

use crate::refusal::{self, invalid};

/// A header of a part of a transaction's answer: only the revision is told there.
fn part_header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

pub(crate) fn range(request: pb::RangeRequest) -> Result<command::RangeRequest, Status> {
    use pb::range_request::{SortOrder as Order, SortTarget as Target};
    let sort_order = match Order::try_from(request.sort_order) {
        Ok(Order::None) => SortOrder::None,
        Ok(Order::Ascend) => SortOrder::Ascend,
        Ok(Order::Descend) => SortOrder::Descend,
        Err(_) => return Err(invalid(refusal::INVALID_SORT)),
    };
    let sort_target = match Target::try_from(request.sort_target) {
        Ok(Target::Key) => SortTarget::Key,
        Ok(Target::Version) => SortTarget::Version,
        Ok(Target::Create) => SortTarget::CreateRevision,
        Ok(Target::Mod) => SortTarget::ModRevision,
        Ok(Target::Value) => SortTarget::Value,
        Err(_) => return Err(invalid(refusal::INVALID_SORT)),
    };
    Ok(command::RangeRequest {
        range: KeyRange { start: request.key, end: request.range_end },
        limit: request.limit,
        revision: request.revision,
        sort_order,
        sort_target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

pub(crate) fn put(request: pb::PutRequest) -> Put {
    Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

pub(crate) fn delete(request: pb::DeleteRangeRequest) -> DeleteRange {
    DeleteRange { range: KeyRange { start: request.key, end: request.range_end }, prev_kv: request.prev_kv }
}

pub(crate) fn txn(request: pb::TxnRequest) -> Result<Txn, Status> {
    Ok(Txn {
        compares: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: request.success.into_iter().map(op).collect::<Result<_, _>>()?,
        failure: request.failure.into_iter().map(op).collect::<Result<_, _>>()?,
    })
}

fn op(op: pb::RequestOp) -> Result<Op, Status> {
    Ok(match op.request {
        Some(Request::RequestRange(request)) => Op::Range(range(request)?),
        Some(Request::RequestPut(request)) => Op::Put(put(request)),
        Some(Request::RequestDeleteRange(request)) => Op::DeleteRange(delete(request)),
        Some(Request::RequestTxn(request)) => Op::Txn(txn(request)?),
        None => return Err(invalid(refusal::KEY_NOT_FOUND)),
    })
}

/// As in etcd, a target without its value compares with nothing: 0, or no bytes.
fn compare(compare: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult as Is, CompareTarget as Of};
    let unknown = |_| invalid("etcdserver: invalid comparison");
    let result = match Is::try_from(compare.result).map_err(unknown)? {
        Is::Equal => CompareResult::Equal,
        Is::Greater => CompareResult::Greater,
        Is::Less => CompareResult::Less,
        Is::NotEqual => CompareResult::NotEqual,
    };
    let given = compare.target_union;
    let target = match (Of::try_from(compare.target).map_err(unknown)?, given) {
        (Of::Version, Some(TargetUnion::Version(version))) => CompareTarget::Version(version),
        (Of::Version, _) => CompareTarget::Version(0),
        (Of::Create, Some(TargetUnion::CreateRevision(revision))) => CompareTarget::CreateRevision(revision),
        (Of::Create, _) => CompareTarget::CreateRevision(0),
        (Of::Mod, Some(TargetUnion::ModRevision(revision))) => CompareTarget::ModRevision(revision),
        (Of::Mod, _) => CompareTarget::ModRevision(0),
        (Of::Value, Some(TargetUnion::Value(value))) => CompareTarget::Value(value),
        (Of::Value, _) => CompareTarget::Value(Default::default()),
        (Of::Lease, Some(TargetUnion::Lease(lease))) => CompareTarget::Lease(lease),
        (Of::Lease, _) => CompareTarget::Lease(0),
    };
    Ok(Compare { range: KeyRange { start: compare.key, end: compare.range_end }, result, target })
}

pub(crate) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

pub(crate) fn key_values(kvs: Vec<KeyValue>) -> Vec<mvccpb::KeyValue> {
    kvs.into_iter().map(key_value).collect()
}

pub(crate) fn range_response(header: Option<pb::ResponseHeader>, answer: command::RangeResponse) -> pb::RangeResponse {
    pb::RangeResponse { header, kvs: key_values(answer.kvs), more: answer.more, count: answer.count }
}

/// The answers to a transaction's operations, where the transaction left the store at `revision`.
///
/// Each part tells the revision that it saw: before the transaction's first write that is the one before.
pub(crate) fn op_responses(responses: Vec<OpResponse>, revision: i64) -> Vec<pb::ResponseOp> {
    let before = if responses.iter().any(wrote) { revision - 1 } else { revision };
    let mut parts = Parts { seen: before, revision };
    parts.convert(responses)
}

/// Whether an operation changed anything.
fn wrote(response: &OpResponse) -> bool {
    match response {
        OpResponse::Range(_) => false,
        OpResponse::Put { .. } => true,
        OpResponse::DeleteRange { deleted, .. } => *deleted > 0,
        OpResponse::Txn(nested) => nested.responses.iter().any(wrote),
    }
}

struct Parts {
    /// The revision at this point of the transaction.
    seen: i64,
    revision: i64,
}

impl Parts {
    fn convert(&mut self, responses: Vec<OpResponse>) -> Vec<pb::ResponseOp> {
        responses.into_iter().map(|response| pb::ResponseOp { response: Some(self.one(response)) }).collect()
    }

    fn one(&mut self, response: OpResponse) -> Response {
        if !matches!(response, OpResponse::Txn(_)) && wrote(&response) {
            self.seen = self.revision;
        }
        let header = part_header(self.seen);
        match response {
            OpResponse::Range(answer) => Response::ResponseRange(range_response(header, answer)),
            OpResponse::Put { prev_kv } => {
                Response::ResponsePut(pb::PutResponse { header, prev_kv: prev_kv.map(key_value) })
            }
            OpResponse::DeleteRange { deleted, prev_kvs } => Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                header,
                deleted,
                prev_kvs: key_values(prev_kvs),
            }),
            OpResponse::Txn(nested) => Response::ResponseTxn(pb::TxnResponse {
                // Only the outermost transaction tells its revision.
                header: part_header(0),
                succeeded: nested.succeeded,
                responses: self.convert(nested.responses),
            }),
        }
    }
}
