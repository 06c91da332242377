//! What can be refused by looking at a request alone. Rules and their order are etcd's.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use kelson_wire::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use kelson_wire::pb::etcdserverpb::request_op::Request;
use kelson_wire::pb::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use prost::Message;
use tonic::Status;

use crate::refusal::{self, invalid};

pub(crate) fn range(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(invalid(refusal::EMPTY_KEY));
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(invalid(refusal::INVALID_SORT));
    }
    Ok(())
}

/// A stream of chunks can only be in key order, and its chunks are cut by key alone.
pub(crate) fn range_stream(request: &RangeRequest) -> Result<(), Status> {
    range(request)?;
    let by_key = request.sort_target == SortTarget::Key as i32;
    if !by_key || request.sort_order == SortOrder::Descend as i32 {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if bounds.iter().any(|bound| *bound != 0) {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}

pub(crate) fn put(request: &PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(invalid(refusal::EMPTY_KEY));
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(invalid(refusal::VALUE_PROVIDED));
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(invalid(refusal::LEASE_PROVIDED));
    }
    Ok(())
}

pub(crate) fn delete(request: &DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() { Err(invalid(refusal::EMPTY_KEY)) } else { Ok(()) }
}

pub(crate) fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Status> {
    operations(request, max_ops)?;
    // Only now, when the number of operations is known to be bounded.
    written(&request.success)?;
    written(&request.failure)?;
    Ok(())
}

/// The most that [`size`] adds to a request.
pub(crate) const ENVELOPE: usize = 20;

/// Bounds the size of what would go into the log: as in etcd, with the envelope that it has there.
pub(crate) fn size(request: &impl Message, max_bytes: usize) -> Result<(), Status> {
    let length = request.encoded_len();
    // A request's number (a header with a ten byte varint, behind a tag of two), then its own tag and length.
    let envelope = 2 + 1 + 1 + 10 + 1 + prost::length_delimiter_len(length);
    if length + envelope > max_bytes { Err(invalid(refusal::TOO_LARGE)) } else { Ok(()) }
}

/// A nested transaction has what its parent's longest list leaves of the bound.
fn operations(request: &TxnRequest, max_ops: usize) -> Result<(), Status> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = max_ops.checked_sub(longest) else {
        return Err(invalid(refusal::TOO_MANY_OPS));
    };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(invalid(refusal::EMPTY_KEY));
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete(request)?,
            Some(Request::RequestTxn(request)) => operations(request, left)?,
            None => return Err(invalid(refusal::KEY_NOT_FOUND)),
        }
    }
    Ok(())
}

/// Keys that a list of operations may write.
#[derive(Default)]
struct Written {
    puts: HashSet<Bytes>,
    deletes: Ranges,
}

/// No key may be written twice in one run, be it by two puts or by a put and a deletion. The branches of a nested
/// transaction exclude each other, so both may write the same key.
fn written(ops: &[RequestOp]) -> Result<Written, Status> {
    let duplicate = || invalid(refusal::DUPLICATE_KEY);
    let mut all = Written::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.insert_request(delete);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let success = written(&nested.success)?;
        let failure = written(&nested.failure)?;
        for key in success.puts.iter().chain(&failure.puts) {
            if all.puts.contains(key) || all.deletes.contains(key) {
                return Err(duplicate());
            }
        }
        all.puts.extend(success.puts);
        all.puts.extend(failure.puts);
        all.deletes.append(success.deletes);
        all.deletes.append(failure.deletes);
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else { continue };
        if all.deletes.contains(&put.key) || !all.puts.insert(put.key.clone()) {
            return Err(duplicate());
        }
    }
    Ok(all)
}

/// A set of keys as disjoint ranges: start to exclusive end.
#[derive(Default)]
struct Ranges(BTreeMap<Bytes, Bytes>);

impl Ranges {
    fn insert_request(&mut self, delete: &DeleteRangeRequest) {
        let end = if delete.range_end.is_empty() {
            [&delete.key[..], &[0]].concat().into()
        } else {
            // Taken as it stands: like etcd, an end of one zero byte is no range here, and no conflict is seen.
            delete.range_end.clone()
        };
        self.insert(delete.key.clone(), end);
    }

    fn insert(&mut self, mut start: Bytes, mut end: Bytes) {
        if end <= start {
            return;
        }
        // Those that touch it melt into it. They begin before its end; being disjoint, the last of them end last.
        while let Some((other, until)) = self.0.range(..=end.clone()).next_back().filter(|(_, until)| **until >= start)
        {
            let other = other.clone();
            end = end.max(until.clone());
            self.0.remove(&other);
            start = start.min(other);
        }
        self.0.insert(start, end);
    }

    fn append(&mut self, other: Ranges) {
        for (start, end) in other.0 {
            self.insert(start, end);
        }
    }

    fn contains(&self, key: &Bytes) -> bool {
        self.0.range(..=key.clone()).next_back().is_some_and(|(_, end)| key < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn put_of(key: &str) -> RequestOp {
        op(Request::RequestPut(PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }))
    }

    fn delete_of(key: &str, end: &str) -> RequestOp {
        let (key, range_end) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(end.as_bytes()));
        op(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false }))
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Request::RequestTxn(TxnRequest { compare: vec![], success, failure }))
    }

    fn refused(success: Vec<RequestOp>) -> Option<String> {
        txn(&TxnRequest { success, ..Default::default() }, 128).err().map(|status| status.message().to_owned())
    }

    #[test]
    fn a_key_is_written_once() {
        let duplicate = Some(refusal::DUPLICATE_KEY.to_owned());
        assert_eq!(refused(vec![put_of("a"), put_of("b")]), None);
        assert_eq!(refused(vec![put_of("a"), put_of("a")]), duplicate);
        assert_eq!(refused(vec![put_of("a"), delete_of("a", "")]), duplicate);
        assert_eq!(refused(vec![put_of("b"), delete_of("a", "b")]), None);
        assert_eq!(refused(vec![put_of("b"), delete_of("a", "b\0")]), duplicate);
        assert_eq!(refused(vec![delete_of("a", "c"), delete_of("b", "d")]), None);
        assert_eq!(refused(vec![delete_of("a", "c"), delete_of("c", "e"), put_of("d")]), duplicate);
    }

    #[test]
    fn branches_of_a_nested_transaction_exclude_each_other() {
        let duplicate = Some(refusal::DUPLICATE_KEY.to_owned());
        assert_eq!(refused(vec![nested(vec![put_of("a")], vec![put_of("a")])]), None);
        assert_eq!(refused(vec![nested(vec![put_of("a")], vec![put_of("a")]), put_of("a")]), duplicate);
        assert_eq!(refused(vec![nested(vec![put_of("a")], vec![]), nested(vec![], vec![put_of("a")])]), duplicate);
        assert_eq!(refused(vec![nested(vec![], vec![delete_of("a", "")]), put_of("a")]), duplicate);
        assert_eq!(refused(vec![nested(vec![put_of("a")], vec![]), delete_of("a", "")]), duplicate);
    }

    #[test]
    fn nested_transactions_share_the_bound() {
        let puts = |n: usize| (0..n).map(|i| put_of(&format!("k{i}"))).collect::<Vec<_>>();
        assert_eq!(refused(puts(128)), None);
        assert_eq!(refused(puts(129)), Some(refusal::TOO_MANY_OPS.to_owned()));
        assert_eq!(refused(vec![nested(puts(127), vec![])]), None);
        assert_eq!(refused(vec![nested(puts(128), vec![])]), Some(refusal::TOO_MANY_OPS.to_owned()));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

        /// The merged ranges hold what the single ones hold.
        #[test]
        fn ranges_merge(ranges in proptest::collection::vec((0u8..30, 0u8..30), 0..12)) {
            let mut merged = Ranges::default();
            for (start, end) in &ranges {
                merged.insert(Bytes::copy_from_slice(&[*start]), Bytes::copy_from_slice(&[*end]));
            }
            for key in 0..30 {
                let expected = ranges.iter().any(|(start, end)| (*start..*end).contains(&key));
                proptest::prop_assert_eq!(merged.contains(&Bytes::copy_from_slice(&[key])), expected);
            }
            let ends: Vec<_> = merged.0.iter().collect();
            proptest::prop_assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0), "disjoint");
        }
    }
}
