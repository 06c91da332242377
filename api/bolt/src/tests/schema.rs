use proptest::prelude::*;

use super::opened;
use crate::schema::{self, Alarm, At, KeyValue, Lease, Parts, Permission, Role, Saver, User, bucket};
use crate::{Error, Writer};

fn parts() -> Parts {
    let permission = Permission { kind: 2, key: b"/a".to_vec(), range_end: b"/b".to_vec() };
    Parts {
        alarms: vec![Alarm { member: 7, kind: 1 }],
        auth_enabled: true,
        auth_revision: 5,
        users: vec![
            User { name: "ann".into(), password: b"$2a$10$x".to_vec(), roles: vec!["r".into()], no_password: false },
            User {
                name: "root".into(),
                password: Vec::new(),
                roles: vec!["r".into(), "root".into()],
                no_password: true,
            },
        ],
        roles: vec![
            Role { name: "r".into(), permissions: vec![permission] },
            Role { name: "root".into(), ..Role::default() },
        ],
        cluster_version: "3.7.0".into(),
        members: vec![(0xabc, "{\"id\":2748}".into()), (2, "{\"id\":2}".into())],
        consistent_index: 9,
        term: 2,
        conf_state: "{\"voters\":[2748]}".into(),
        scheduled_compact: 4,
        finished_compact: 3,
        storage_version: "3.7.0".into(),
    }
}

#[test]
fn everything_comes_back() {
    let writer = Writer::new(tempfile::tempfile().unwrap(), "test.db").unwrap();
    let mut saver = Saver::new(writer, parts()).unwrap();
    let kv = KeyValue { key: b"a", create_revision: 2, mod_revision: 2, version: 1, value: b"x", lease: -3 };
    let gone = KeyValue { key: b"a", ..KeyValue::default() };
    let writes = [
        (At { main: 2, ..At::default() }, kv),
        (At { main: 3, sub: 0, tombstone: true }, gone),
        (
            At { main: 3, sub: 1, tombstone: false },
            KeyValue { key: b"b", mod_revision: 3, create_revision: 3, version: 1, ..kv },
        ),
    ];
    writes.iter().for_each(|(at, kv)| saver.write(*at, kv).unwrap());
    let leases = [Lease { id: 5, ttl: 60, remaining: 0 }, Lease { id: -3, ttl: 9, remaining: 4 }];
    leases.iter().for_each(|lease| saver.lease(lease).unwrap());
    let (file, size) = saver.finish().unwrap();

    let db = opened(&file);
    db.check().unwrap();
    let expected = Parts { members: vec![(2, "{\"id\":2}".into()), (0xabc, "{\"id\":2748}".into())], ..parts() };
    assert_eq!(schema::parts(&db).unwrap(), expected);
    let mut found = Vec::new();
    schema::writes::<Error>(&db, |at, kv| {
        found.push((at, kv.key.to_vec(), kv.value.to_vec(), kv.lease));
        Ok(())
    })
    .unwrap();
    let wanted: Vec<_> = writes.iter().map(|(at, kv)| (*at, kv.key.to_vec(), kv.value.to_vec(), kv.lease)).collect();
    assert_eq!(found, wanted);
    let mut found = Vec::new();
    schema::leases::<Error>(&db, |lease| {
        found.push(lease);
        Ok(())
    })
    .unwrap();
    assert_eq!(found, leases);
    let status = db.status(|_| ()).unwrap();
    assert_eq!((status.revision, status.total_keys, status.total_size), (3, 1, size));
    assert_eq!(status.version, "3.7.0");
}

#[test]
fn a_record_that_is_not_etcds_is_named() {
    let mut writer = Writer::new(tempfile::tempfile().unwrap(), "test.db").unwrap();
    writer.begin_bucket(bucket::KEY.as_bytes()).unwrap();
    let (key, length) = At { main: 12, sub: 3, tombstone: false }.encode();
    writer.put(&key[..length], &[0xff]).unwrap();
    writer.end_bucket().unwrap();
    let (file, _) = writer.finish().unwrap();
    let error = schema::writes::<Error>(&opened(&file), |_, _| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "test.db is damaged: bucket key, record 12_3: it is cut short");
}

#[test]
fn a_write_is_encoded_as_go_encodes_it() {
    let kv = KeyValue { key: b"k", create_revision: 2, mod_revision: 300, version: 1, value: b"v", lease: 0 };
    let mut out = Vec::new();
    kv.encode(&mut out);
    assert_eq!(out, b"\x0a\x01k\x10\x02\x18\xac\x02\x20\x01\x2a\x01v");
}

proptest! {
    #[test]
    fn any_bytes_decode_or_say_why(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(at) = At::decode(&bytes) {
            let (again, length) = at.encode();
            prop_assert_eq!(&again[..length], &bytes[..]);
        }
        if let Ok(kv) = KeyValue::decode(&bytes) {
            let mut out = Vec::new();
            kv.encode(&mut out);
            prop_assert_eq!(KeyValue::decode(&out), Ok(kv));
        }
        if let Ok(user) = User::decode(&bytes) {
            prop_assert_eq!(User::decode(&user.encode()), Ok(user));
        }
        if let Ok(role) = Role::decode(&bytes) {
            prop_assert_eq!(Role::decode(&role.encode()), Ok(role));
        }
        let _ = (Lease::decode(&bytes), Alarm::decode(&bytes));
    }
}
