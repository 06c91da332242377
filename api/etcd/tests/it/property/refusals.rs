//! What is refused by looking at a request alone, in etcd's order, and the refusals' texts.

use std::collections::BTreeSet;

use bytes::Bytes;
use kelson_wire::pb::etcdserverpb::request_op::Request;
use kelson_wire::pb::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use tonic::Status;

/// The refusals that stories meet.
pub mod of {
    use tonic::{Code, Status};

    pub fn invalid(text: &str) -> Status {
        Status::invalid_argument(format!("etcdserver: {text}"))
    }

    pub fn key_not_found() -> Status {
        invalid("key not found")
    }

    pub fn lease_not_found() -> Status {
        Status::new(Code::NotFound, "etcdserver: requested lease not found")
    }

    pub fn lease_exists() -> Status {
        Status::new(Code::FailedPrecondition, "etcdserver: lease already exists")
    }

    pub fn ttl_too_large() -> Status {
        Status::new(Code::OutOfRange, "etcdserver: too large lease TTL")
    }

    pub fn compacted() -> Status {
        Status::new(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
    }

    pub fn future() -> Status {
        Status::new(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision")
    }
}

pub fn key(key: &Bytes) -> Result<(), Status> {
    if key.is_empty() { Err(of::invalid("key is not provided")) } else { Ok(()) }
}

pub fn range(request: &RangeRequest) -> Result<(), Status> {
    key(&request.key)?;
    let known = (0..3).contains(&request.sort_order) && (0..5).contains(&request.sort_target);
    if known { Ok(()) } else { Err(of::invalid("invalid sort option")) }
}

pub fn stream(request: &RangeRequest) -> Result<(), Status> {
    range(request)?;
    let by_key = request.sort_target == 0 && request.sort_order < 2;
    if !by_key && request.sort_order != 0 {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if bounds != [0; 4] {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}

pub fn put(request: &PutRequest) -> Result<(), Status> {
    key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(of::invalid("value is provided"));
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(of::invalid("lease is provided"));
    }
    Ok(())
}

pub fn txn(request: &TxnRequest) -> Result<(), Status> {
    each(request)?;
    written(&request.success)?;
    written(&request.failure)?;
    Ok(())
}

fn each(request: &TxnRequest) -> Result<(), Status> {
    for compare in &request.compare {
        key(&compare.key)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        match op.request.as_ref().expect("stories have no empty operations here") {
            Request::RequestRange(request) => range(request)?,
            Request::RequestPut(request) => put(request)?,
            Request::RequestDeleteRange(request) => key(&request.key)?,
            Request::RequestTxn(nested) => each(nested)?,
        }
    }
    Ok(())
}

/// Keys that are put, and ranges that are deleted.
type Written = (BTreeSet<Bytes>, Vec<DeleteRangeRequest>);

/// No key is written twice by what can run together; two deletions may meet.
fn written(ops: &[RequestOp]) -> Result<Written, Status> {
    let (mut puts, mut deletes) = (BTreeSet::new(), Vec::new());
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            deletes.push(delete.clone());
        }
    }
    // Of nested transactions, only what they put is held against what came before, deletions of this list included.
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let (success, failure) = (written(&nested.success)?, written(&nested.failure)?);
        if success.0.iter().chain(&failure.0).any(|key| puts.contains(key) || deleted(&deletes, key)) {
            return Err(of::invalid("duplicate key given in txn request"));
        }
        puts.extend(success.0.into_iter().chain(failure.0));
        deletes.extend(success.1.into_iter().chain(failure.1));
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else { continue };
        if deleted(&deletes, &put.key) || !puts.insert(put.key.clone()) {
            return Err(of::invalid("duplicate key given in txn request"));
        }
    }
    Ok((puts, deletes))
}

/// An end of one zero byte is no range to this check.
fn deleted(deletes: &[DeleteRangeRequest], key: &Bytes) -> bool {
    deletes.iter().any(|delete| match &delete.range_end[..] {
        [] => delete.key == *key,
        end => delete.key <= *key && &key[..] < end,
    })
}
