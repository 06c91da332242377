//! What Kubernetes does: updates that are guarded by the revision of what they replace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use kelson_wire::pb::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse, compare, request_op, response_op,
};

use crate::connection::Method;
use crate::data::{key, stamped};
use crate::drive::{Call, Source};
use crate::error::Error;
use crate::frame::{Keep, frame};
use crate::source::decode;

/// Guarded puts to keys that belong to this client alone, with a get where the guard fails, as kube-apiserver sends them.
pub struct Guarded {
    folder: &'static str,
    length: usize,
    /// Number of the first key.
    first: u64,
    /// Modification revision of each key; 0 while it does not exist.
    revisions: Vec<i64>,
    at: usize,
    /// Guards that held, of all clients.
    written: Arc<AtomicU64>,
}

impl Guarded {
    /// Client `client` with `keys` keys (at least one) of its own, values of `length` bytes; counts in `written` what
    /// was written.
    pub fn new(folder: &'static str, client: u64, keys: usize, length: usize, written: Arc<AtomicU64>) -> Guarded {
        let keys = keys.max(1);
        Guarded { folder, length, first: client * keys as u64, revisions: vec![0; keys], at: 0, written }
    }
}

impl Source for Guarded {
    fn next(&mut self, number: u64, due: Instant) -> Call {
        self.at = (self.at + 1) % self.revisions.len();
        let key = key(self.folder, self.first + self.at as u64);
        let guard = Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(compare::TargetUnion::ModRevision(self.revisions[self.at])),
            ..Compare::default()
        };
        let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let put = PutRequest { key, value: stamped(number, self.length, due), ..PutRequest::default() };
        let request = TxnRequest {
            compare: vec![guard],
            success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(request_op::Request::RequestRange(get)) }],
        };
        Call { method: Method::Txn, framed: frame(&request), keep: Keep::Whole }
    }

    fn answered(&mut self, message: Bytes) -> Result<(), Error> {
        let answer: TxnResponse = decode(message)?;
        let revision = answer.header.map_or(0, |header| header.revision);
        if answer.succeeded {
            self.written.fetch_add(1, Ordering::Relaxed);
            self.revisions[self.at] = revision;
            return Ok(());
        }
        let found = answer.responses.into_iter().next().and_then(|operation| operation.response);
        let Some(response_op::Response::ResponseRange(range)) = found else {
            return Err(Error::Answer("a guard failed and the answer has no get".into()));
        };
        // Nobody else writes these keys; they may be there from before.
        self.revisions[self.at] = range.kvs.first().map_or(0, |found| found.mod_revision);
        Ok(())
    }
}
