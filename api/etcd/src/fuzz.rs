//! What the fuzz targets of this crate check, as functions of any bytes. Each panics where something is wrong.
//!
//! `fuzz/` runs them under libFuzzer; the tests here run them on the seed corpus and on random bytes.

use std::fmt::Debug;

use bytes::Bytes;
use kelson_engine::Command;
use kelson_wire::pb::etcdserverpb as pb;
use prost::Message;

use crate::{convert, validate};

/// Bounds of the requests that are checked: the server's own defaults.
const MAX_OPS: usize = 128;
const MAX_BYTES: usize = 3 << 19;

/// The first byte chooses a request of the API and the rest is its message: it decodes or is an error; what decodes is
/// encoded and decoded to the same again; what passes the checks becomes a command that survives the log's encoding.
pub fn request(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let data = Bytes::copy_from_slice(rest);
    macro_rules! only {
        ($($message:ident),* $(,)?) => {
            &[$(|data| _ = again::<pb::$message>(data)),*]
        };
    }
    let plain: &[fn(&Bytes)] = only![
        CompactionRequest,
        HashRequest,
        HashKvRequest,
        SnapshotRequest,
        WatchRequest,
        LeaseGrantRequest,
        LeaseRevokeRequest,
        LeaseKeepAliveRequest,
        LeaseTimeToLiveRequest,
        LeaseLeasesRequest,
        MemberAddRequest,
        MemberRemoveRequest,
        MemberUpdateRequest,
        MemberListRequest,
        MemberPromoteRequest,
        DefragmentRequest,
        MoveLeaderRequest,
        AlarmRequest,
        DowngradeRequest,
        StatusRequest,
        AuthEnableRequest,
        AuthDisableRequest,
        AuthStatusRequest,
        AuthenticateRequest,
        AuthUserAddRequest,
        AuthUserGetRequest,
        AuthUserDeleteRequest,
        AuthUserChangePasswordRequest,
        AuthUserGrantRoleRequest,
        AuthUserRevokeRoleRequest,
        AuthRoleAddRequest,
        AuthRoleGetRequest,
        AuthUserListRequest,
        AuthRoleListRequest,
        AuthRoleDeleteRequest,
        AuthRoleGrantPermissionRequest,
        AuthRoleRevokePermissionRequest,
    ];
    match kind {
        // Half of all inputs go to what has most to check.
        128.. => txn(&data),
        64.. => range(&data),
        56.. => put(&data),
        48.. => delete(&data),
        kind => plain[usize::from(kind) % plain.len()](&data),
    }
}

/// The body of a call and the pieces in which it comes: see the wire's own words.
pub fn call(data: &[u8]) {
    crate::wire::check(data);
}

/// A path of the JSON gateway and its body: see the gateway's own words.
pub fn json(data: &[u8]) {
    crate::gateway::check(data);
}

fn again<T: Message + Default + PartialEq + Debug>(data: &Bytes) -> Option<T> {
    let message = T::decode(data.clone()).ok()?;
    let encoded = Bytes::from(message.encode_to_vec());
    assert_eq!(encoded.len(), message.encoded_len());
    assert_eq!(T::decode(encoded).as_ref(), Ok(&message));
    Some(message)
}

fn logged(command: Command) {
    let mut encoded = Vec::new();
    command.encode(&mut encoded);
    assert_eq!(Command::decode(&encoded.into()), Ok(command));
}

fn txn(data: &Bytes) {
    let Some(request) = again::<pb::TxnRequest>(data) else { return };
    if validate::txn(&request, MAX_OPS).is_ok()
        && validate::size(&request, MAX_BYTES).is_ok()
        && let Ok(txn) = convert::txn(request)
    {
        logged(Command::Txn(txn));
    }
}

fn range(data: &Bytes) {
    let Some(request) = again::<pb::RangeRequest>(data) else { return };
    let _ = validate::range_stream(&request);
    if validate::range(&request).is_ok() {
        assert!(convert::range(request).is_ok(), "what is valid can be asked");
    }
}

fn put(data: &Bytes) {
    let Some(request) = again::<pb::PutRequest>(data) else { return };
    if validate::put(&request).is_ok() {
        logged(Command::Put(convert::put(request)));
    }
}

fn delete(data: &Bytes) {
    let Some(request) = again::<pb::DeleteRangeRequest>(data) else { return };
    if validate::delete(&request).is_ok() {
        logged(Command::DeleteRange(convert::delete(request)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRng, TestRunner};

    /// The committed seeds, then random bytes, always the same ones.
    fn replay(target: &str, check: fn(&[u8])) {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let seeds: Vec<_> = std::fs::read_dir(&corpus).unwrap().map(|seed| seed.unwrap().path()).collect();
        assert!(!seeds.is_empty(), "{} is empty", corpus.display());
        seeds.iter().for_each(|seed| check(&std::fs::read(seed).unwrap()));
        let config = Config { cases: 10_000, failure_persistence: None, ..Config::default() };
        let bytes = prop::collection::vec(any::<u8>(), 0..200);
        let same = |bytes: Vec<u8>| {
            check(&bytes);
            Ok(())
        };
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(Default::default())).run(&bytes, same).unwrap();
    }

    #[test]
    fn requests() {
        replay("request", super::request);
    }

    #[test]
    fn calls() {
        replay("call", super::call);
    }

    #[test]
    fn bodies() {
        replay("json", super::json);
    }
}
