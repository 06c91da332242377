//! Random sequences of commands, compactions, crashes and reopenings, compared with the model after every step.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::request;
use crate::command::*;
use crate::steps::{Step, relies_on_itself, run};
use crate::{AlarmAction, AlarmKind, Command, EngineOptions};

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof!["[a-f]", "[a-c][a-c]", Just("abcdefgh/long".to_string())].prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => key().prop_map(|start| KeyRange { start, end: Bytes::new() }),
        3 => (key(), key()).prop_map(|(start, end)| KeyRange { start, end }),
        1 => key().prop_map(|start| KeyRange { start, end: Bytes::from_static(b"\0") }),
    ]
}

fn a_put() -> impl Strategy<Value = Put> {
    let lease = prop_oneof![4 => Just(0i64), 2 => 1..4i64];
    let flag = || prop::bool::weighted(0.15);
    (key(), "[x-z]{0,3}", lease, any::<bool>(), flag(), flag()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| {
            let (value, lease) =
                (if ignore_value { Bytes::new() } else { value.into() }, if ignore_lease { 0 } else { lease });
            Put { key, value, lease, prev_kv, ignore_value, ignore_lease }
        },
    )
}

fn a_delete() -> impl Strategy<Value = DeleteRange> {
    (range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRange { range, prev_kv })
}

fn a_range() -> impl Strategy<Value = RangeRequest> {
    let order = prop_oneof![3 => Just(SortOrder::None), 1 => Just(SortOrder::Ascend), 1 => Just(SortOrder::Descend)];
    let target = prop_oneof![
        3 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::CreateRevision),
        1 => Just(SortTarget::ModRevision),
        1 => Just(SortTarget::Value)
    ];
    let bound = || prop_oneof![5 => Just(0i64), 1 => 1..25i64];
    let revision = prop_oneof![6 => Just(0i64), 6 => 1..30i64, 1 => -3..0i64];
    (range(), 0..4i64, revision, order, target, any::<[bool; 2]>(), [bound(), bound(), bound(), bound()]).prop_map(
        |(range, limit, revision, sort_order, sort_target, [keys_only, count_only], bounds)| RangeRequest {
            limit,
            revision,
            sort_order,
            sort_target,
            keys_only,
            count_only: keys_only && count_only,
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
            ..request(range)
        },
    )
}

fn a_compare() -> impl Strategy<Value = Compare> {
    let result = prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::Greater),
        Just(CompareResult::Less),
        Just(CompareResult::NotEqual)
    ];
    let target = prop_oneof![
        (0..4i64).prop_map(CompareTarget::Version),
        (0..20i64).prop_map(CompareTarget::CreateRevision),
        (0..20i64).prop_map(CompareTarget::ModRevision),
        (0..4i64).prop_map(CompareTarget::Lease),
        "[x-z]{0,2}".prop_map(|value| CompareTarget::Value(value.into())),
    ];
    (range(), result, target).prop_map(|(range, result, target)| Compare { range, result, target })
}

fn a_txn() -> impl Strategy<Value = Txn> {
    let leaf = prop_oneof![
        3 => a_put().prop_map(Op::Put),
        1 => a_delete().prop_map(Op::DeleteRange),
        2 => a_range().prop_map(Op::Range),
    ];
    let op = leaf.prop_recursive(2, 12, 3, |op| {
        (vec(a_compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3))
            .prop_map(|(compares, success, failure)| Op::Txn(Txn { compares, success, failure }))
    });
    (vec(a_compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4))
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
        .prop_filter("a put that relies on a key which the same transaction changes", |txn| !relies_on_itself(txn))
}

fn an_alarm() -> impl Strategy<Value = Command> {
    let action = prop_oneof![2 => Just(AlarmAction::Activate), 3 => Just(AlarmAction::Deactivate)];
    let alarm = prop_oneof![Just(AlarmKind::NoSpace), Just(AlarmKind::Corrupt)];
    (action, 1..3u64, alarm).prop_map(|(action, member, alarm)| Command::Alarm { action, member, alarm })
}

pub(super) fn a_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => a_put().prop_map(Command::Put),
        3 => a_delete().prop_map(Command::DeleteRange),
        4 => a_txn().prop_map(Command::Txn),
        1 => (0..40i64).prop_map(|revision| Command::Compact { revision }),
        2 => (1..4i64, 1..100i64).prop_map(|(id, ttl)| Command::LeaseGrant { id, ttl }),
        1 => (1..4i64).prop_map(|id| Command::LeaseRevoke { id }),
        1 => vec((1..4i64, 0..50i64), 0..3).prop_map(|leases| Command::LeaseCheckpoint { leases }),
        1 => an_alarm(),
    ]
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => vec(a_command(), 0..4).prop_map(Step::Apply),
        2 => Just(Step::Reclaim),
        1 => Just(Step::Flush),
        1 => any::<u8>().prop_map(Step::Crash),
        2 => (range(), 0..12i64, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(range, back, no_put, no_delete)| Step::Watch { range, back, no_put, no_delete }),
        6 => (any::<usize>(), 1..5usize).prop_map(|(watcher, max_events)| Step::Poll { watcher, max_events }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn like_the_model(steps in vec(a_step(), 1..40), requests in vec(a_range(), 1..12)) {
        run(steps, requests, EngineOptions { cache_bytes: 1 << 20, ..EngineOptions::default() });
    }

    #[test]
    fn like_the_model_with_nothing_cached(steps in vec(a_step(), 1..40), requests in vec(a_range(), 1..12)) {
        run(steps, requests, EngineOptions { cache_bytes: 0, ring_events: 0, ring_bytes: 1, shelf_bytes: 0 });
    }

    #[test]
    fn commands_survive_the_codec(command in a_command()) {
        let mut encoded = vec![];
        command.encode(&mut encoded);
        prop_assert!(command.encoded_hint() <= encoded.len());
        let encoded = Bytes::from(encoded);
        prop_assert_eq!(Command::decode(&encoded), Ok(command));
        for length in 0..encoded.len() {
            prop_assert!(Command::decode(&encoded.slice(..length)).is_err(), "cut to {length}");
        }
        prop_assert!(Command::decode(&[&encoded[..], &[0]].concat().into()).is_err());
    }

    #[test]
    fn decoding_survives_damage(command in a_command(), at in any::<usize>(), with in any::<u8>()) {
        let mut encoded = vec![];
        command.encode(&mut encoded);
        let at = at % encoded.len();
        encoded[at] = with;
        if let Ok(decoded) = Command::decode(&encoded.into()) {
            let mut again = vec![];
            decoded.encode(&mut again);
            prop_assert_eq!(Command::decode(&again.into()), Ok(decoded));
        }
    }

    #[test]
    fn decoding_survives_anything(mut bytes in vec(any::<u8>(), 0..200)) {
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        if let Some(tag) = bytes.get_mut(1) {
            *tag %= 10;
        }
        let _ = Command::decode(&bytes.into());
    }
}
