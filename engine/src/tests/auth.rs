//! Auth in log order: what each change leaves behind, what is refused when it is applied, what a restart finds.

use proptest::prelude::*;

use super::*;
use crate::auth::{Asker, AuthCommand, Permission, Refusal};
use crate::command::RangeRequest;

fn change(store: &mut Store, change: AuthCommand) -> Result<(), Refusal> {
    match store.try_apply(Command::Auth(change)) {
        Ok(_) => Ok(()),
        Err(Error::Auth(refusal)) => Err(refusal),
        Err(other) => panic!("{other:?}"),
    }
}

/// The same, by the system itself, which auth does not hold up.
fn manage(store: &mut Store, change: AuthCommand) -> Result<(), Refusal> {
    let command = store.engine.reader().by_system(Command::Auth(change));
    match store.try_apply(command) {
        Ok(_) => Ok(()),
        Err(Error::Auth(refusal)) => Err(refusal),
        Err(other) => panic!("{other:?}"),
    }
}

fn user(name: &str) -> AuthCommand {
    AuthCommand::UserAdd { name: name.into(), hash: bytes("hash"), no_password: false }
}

fn role(name: &str) -> AuthCommand {
    AuthCommand::RoleAdd { name: name.into() }
}

fn grant(user: &str, role: &str) -> AuthCommand {
    AuthCommand::UserGrantRole { user: user.into(), role: role.into() }
}

fn permit(role: &str, kind: i32, range: KeyRange) -> AuthCommand {
    AuthCommand::RoleGrant { role: role.into(), permission: Permission { kind, range } }
}

/// A store with auth on: root, alice (reads and writes a to c, reads d) and nobody else.
fn guarded() -> Store {
    let mut store = Store::new();
    for step in [
        user("root"),
        grant("root", "root"),
        user("alice"),
        role("some"),
        grant("alice", "some"),
        permit("some", Permission::READWRITE, span("a", "c")),
        permit("some", Permission::READ, one("d")),
        AuthCommand::Enable,
    ] {
        change(&mut store, step).unwrap();
    }
    store
}

fn revision(store: &Store) -> u64 {
    store.engine.reader().auth().revision()
}

fn known(store: &Store, name: &str) -> Asker {
    Asker::User { name: name.into(), revision: revision(store) }
}

fn ask(store: &mut Store, asker: &Asker, command: Command) -> Result<Outcome, Refusal> {
    let command = command.by(&store.engine.reader().auth(), asker);
    store.try_apply(command).map_err(|error| match error {
        Error::Auth(refusal) => refusal,
        other => panic!("{other:?}"),
    })
}

#[test]
fn without_auth_nothing_is_wrapped_or_refused() {
    let mut store = Store::new();
    let auth = store.engine.reader().auth();
    let command = Command::Put(put("k", "v"));
    let asker = Asker::User { name: "x".into(), revision: 1 };
    assert_eq!(command.clone().by(&auth, &asker), command);
    assert_eq!(store.engine.reader().by_system(command.clone()), command);
    store.apply(command);
}

#[test]
fn every_writing_command_is_checked_when_it_is_applied() {
    let mut store = guarded();
    let alice = known(&store, "alice");
    let range = |range| Op::Range(RangeRequest { ..request(range) });
    let delete = |range, prev_kv| DeleteRange { range, prev_kv };
    let denied = Err(Refusal::PermissionDenied);
    let cases: Vec<(Command, Result<(), Refusal>)> = vec![
        (Command::Put(put("b", "1")), Ok(())),
        (Command::Put(put("d", "1")), denied),
        (Command::Put(put("c", "1")), denied),
        (Command::Put(Put { prev_kv: true, ..put("b", "2") }), Ok(())),
        (Command::DeleteRange(delete(span("a", "c"), true)), Ok(())),
        (Command::DeleteRange(delete(span("a", "d"), false)), denied),
        (Command::DeleteRange(delete(all(), false)), denied),
        (Command::Txn(txn(vec![], vec![Op::Put(put("a", "1"))], vec![Op::Put(put("d", "1"))])), denied),
        (Command::Txn(txn(vec![], vec![Op::Put(put("a", "1"))], vec![range(one("d"))])), Ok(())),
        (Command::Txn(txn(vec![], vec![Op::Put(put("a", "1"))], vec![range(one("e"))])), denied),
        (
            Command::Txn(txn(
                vec![compare(one("e"), CompareResult::Equal, CompareTarget::Version(0))],
                vec![Op::Put(put("a", "1"))],
                vec![],
            )),
            denied,
        ),
        (Command::Txn(txn(vec![], vec![Op::Txn(txn(vec![], vec![], vec![Op::Put(put("z", "1"))]))], vec![])), denied),
    ];
    for (command, expected) in cases {
        assert_eq!(ask(&mut store, &alice, command.clone()).map(|_| ()), expected, "{command:?}");
    }
    assert_eq!(ask(&mut store, &Asker::Nobody, Command::Put(put("a", "1"))), Err(Refusal::UserEmpty));
    let root = known(&store, "root");
    ask(&mut store, &root, Command::Put(put("z", "1"))).unwrap();
    ask(&mut store, &Asker::System, Command::Put(put("z", "2"))).unwrap();
}

#[test]
fn a_lease_is_bound_to_all_of_its_keys() {
    let mut store = guarded();
    let (alice, root) = (known(&store, "alice"), known(&store, "root"));
    store.apply(Command::LeaseGrant { id: 7, ttl: 60 });
    ask(&mut store, &alice, Command::Put(Put { lease: 7, ..put("a", "1") })).unwrap();
    ask(&mut store, &root, Command::Put(Put { lease: 7, ..put("z", "1") })).unwrap();
    let denied = Err(Refusal::PermissionDenied);
    assert_eq!(ask(&mut store, &alice, Command::Put(Put { lease: 7, ..put("b", "1") })), denied);
    assert_eq!(ask(&mut store, &alice, Command::LeaseRevoke { id: 7 }), denied);
    assert_eq!(ask(&mut store, &Asker::Nobody, Command::LeaseRevoke { id: 7 }), Err(Refusal::UserEmpty));
    assert_eq!(store.engine.reader().lease(7).unwrap().keys, [bytes("a"), bytes("z")]);
    // A lease that has run out ends by the system's own wish.
    ask(&mut store, &Asker::System, Command::LeaseRevoke { id: 7 }).unwrap();
    assert_eq!(store.now(), "");
}

/// A write that was allowed when it was asked for, and is applied after the permission was taken away.
#[test]
fn what_was_permitted_before_a_change_is_refused_behind_it() {
    let mut store = guarded();
    let alice = known(&store, "alice");
    let reader = store.engine.reader();
    reader.auth().check_write(&alice, &one("a")).unwrap();
    let late = Command::Put(put("a", "late")).by(&reader.auth(), &alice);
    let revoked = AuthCommand::RoleRevoke { role: "some".into(), range: span("a", "c") };
    let revoked = reader.by_system(Command::Auth(revoked));
    // One entry holds both, as group commit makes it.
    store.index += 1;
    let outcomes = store.engine.apply(position(store.index), &[revoked, late], &[]).unwrap();
    assert!(outcomes[0].is_ok());
    assert_eq!(outcomes[1], Err(Error::Auth(Refusal::OldRevision)));
    assert_eq!(store.now(), "");
    // Made again, it is refused for what it is.
    let alice = known(&store, "alice");
    assert_eq!(ask(&mut store, &alice, Command::Put(put("a", "late"))), Err(Refusal::PermissionDenied));
}

#[test]
fn changes_need_root_while_auth_is_on() {
    let mut store = guarded();
    assert_eq!(change(&mut store, user("bob")), Err(Refusal::UserEmpty));
    let askers = [("alice", Refusal::PermissionDenied), ("bob", Refusal::UserNotFound), ("", Refusal::UserEmpty)];
    for (name, refusal) in askers {
        let asker = known(&store, name);
        assert_eq!(ask(&mut store, &asker, Command::Auth(user("eve"))), Err(refusal), "{name:?}");
    }
    let root = known(&store, "root");
    ask(&mut store, &root, Command::Auth(user("bob"))).unwrap();
    // Root stays root as long as auth is on.
    let refused = [
        AuthCommand::UserDelete { name: "root".into() },
        AuthCommand::RoleDelete { name: "root".into() },
        AuthCommand::UserRevokeRole { user: "root".into(), role: "root".into() },
    ];
    for step in refused {
        assert_eq!(manage(&mut store, step), Err(Refusal::InvalidManagement));
    }
}

#[test]
fn revisions_grow_with_changes_alone() {
    let mut store = Store::new();
    assert_eq!(revision(&store), 1);
    let steps = [
        (AuthCommand::Disable, Ok(1)),
        (AuthCommand::Enable, Err(Refusal::RootUserNotExist)),
        (user("root"), Ok(2)),
        (AuthCommand::Enable, Err(Refusal::RootRoleNotExist)),
        (user("root"), Err(Refusal::UserExists)),
        (user(""), Err(Refusal::UserEmpty)),
        (role(""), Err(Refusal::RoleEmpty)),
        (role("r"), Ok(3)),
        (role("r"), Err(Refusal::RoleExists)),
        (grant("root", "x"), Err(Refusal::RoleNotFound)),
        (grant("x", "r"), Err(Refusal::UserNotFound)),
        (grant("root", "root"), Ok(4)),
        (grant("root", "root"), Ok(4)),
        (AuthCommand::Enable, Ok(4)),
        (AuthCommand::Enable, Ok(4)),
        (permit("r", 0, span("b", "a")), Err(Refusal::InvalidManagement)),
        (permit("r", 0, one("")), Err(Refusal::InvalidManagement)),
        (permit("x", 0, one("a")), Err(Refusal::RoleNotFound)),
        (permit("r", 0, one("a")), Ok(5)),
        (AuthCommand::RoleRevoke { role: "r".into(), range: one("b") }, Err(Refusal::PermissionNotGranted)),
        (AuthCommand::RoleRevoke { role: "x".into(), range: one("b") }, Err(Refusal::RoleNotFound)),
        (AuthCommand::RoleRevoke { role: "r".into(), range: one("a") }, Ok(6)),
        (AuthCommand::UserRevokeRole { user: "root".into(), role: "r".into() }, Err(Refusal::RoleNotGranted)),
        (AuthCommand::UserSetPassword { name: "x".into(), hash: bytes("h") }, Err(Refusal::UserNotFound)),
        (AuthCommand::UserSetPassword { name: "root".into(), hash: bytes("h") }, Ok(7)),
        (AuthCommand::RoleDelete { name: "r".into() }, Ok(8)),
        (AuthCommand::RoleDelete { name: "r".into() }, Err(Refusal::RoleNotFound)),
        (AuthCommand::UserDelete { name: "x".into() }, Err(Refusal::UserNotFound)),
        (AuthCommand::Disable, Ok(9)),
        (AuthCommand::UserDelete { name: "root".into() }, Ok(10)),
    ];
    for (step, expected) in steps {
        let before = revision(&store);
        let outcome = manage(&mut store, step.clone()).map(|()| revision(&store));
        assert_eq!(outcome, expected, "{step:?}");
        if expected.is_err() {
            assert_eq!(revision(&store), before, "{step:?}");
        }
    }
    assert_eq!(store.engine.reader().revision(), 1, "no key was written");
}

#[test]
fn a_deleted_role_is_taken_from_its_users() {
    let mut store = guarded();
    let alice = known(&store, "alice");
    ask(&mut store, &alice, Command::Put(put("a", "1"))).unwrap();
    manage(&mut store, AuthCommand::RoleDelete { name: "some".into() }).unwrap();
    let auth = store.engine.reader().auth();
    assert!(auth.user("alice").unwrap().roles.is_empty());
    let alice = known(&store, "alice");
    assert_eq!(auth.check_read(&alice, &one("d")), Err(Refusal::PermissionDenied));
}

#[test]
fn tokens_end_with_what_they_stand_for() {
    let mut store = guarded();
    let authenticate = |store: &mut Store, name: &str, revision: u64| {
        let change = AuthCommand::Authenticate { user: name.into(), prefix: "abc".into(), revision };
        match store.try_apply(Command::Auth(change)) {
            Ok(Outcome::Auth { token: Some(token), .. }) => Ok(token.to_string()),
            other => Err(other),
        }
    };
    let at = revision(&store);
    let old = authenticate(&mut store, "alice", at - 1);
    assert_eq!(old, Err(Err(Error::Auth(Refusal::OldRevision))));
    let unknown = authenticate(&mut store, "bob", at);
    assert_eq!(unknown, Err(Err(Error::Auth(Refusal::AuthFailed))));
    let token = authenticate(&mut store, "alice", at).unwrap();
    assert_eq!(token, format!("abc.{}", store.index));
    let reader = store.engine.reader();
    assert_eq!(reader.token_user(&token, 0, 10).as_deref(), Some("alice"));
    manage(&mut store, AuthCommand::UserSetPassword { name: "alice".into(), hash: bytes("new") }).unwrap();
    assert_eq!(reader.token_user(&token, 0, 10), None, "the password has changed");
    let token = authenticate(&mut store, "alice", at + 1).unwrap();
    manage(&mut store, AuthCommand::Disable).unwrap();
    assert_eq!(reader.token_user(&token, 0, 10), None, "auth was turned off");
    let off = authenticate(&mut store, "alice", at + 2);
    assert_eq!(off, Err(Err(Error::Auth(Refusal::NotEnabled))));
}

#[test]
fn a_restart_finds_users_roles_and_revision() {
    let backend = Arc::new(MemoryBackend::new());
    let mut store = Store { engine: Engine::open(backend.clone()).unwrap(), index: 0 };
    for step in [
        user("root"),
        grant("root", "root"),
        user("alice"),
        role("gone"),
        role("some"),
        grant("alice", "some"),
        grant("alice", "gone"),
        permit("some", Permission::READ, span("a", "c")),
        permit("some", 9, one("strange")),
        AuthCommand::RoleDelete { name: "gone".into() },
        AuthCommand::UserAdd { name: "key".into(), hash: bytes("unused"), no_password: true },
        AuthCommand::Enable,
    ] {
        change(&mut store, step).unwrap();
    }
    let (auth, hash) = (store.engine.reader().auth(), store.engine.state_hash().unwrap());
    assert!(auth.user("key").unwrap().hash.is_empty());
    drop(store);
    let again = Engine::open(backend).unwrap();
    assert_eq!(*again.reader().auth(), *auth);
    assert_eq!(again.state_hash().unwrap(), hash);
    assert_ne!(hash, Store::new().engine.state_hash().unwrap());
}

#[test]
fn listeners_hear_of_every_change() {
    let mut store = Store::new();
    let bell = Arc::new(Bell::default());
    let listener = store.engine.reader().auth_listener();
    bell.with(|cx| listener.register(cx.waker()));
    store.put("k", "v");
    assert_eq!(bell.rings(), 0);
    change(&mut store, user("root")).unwrap();
    change(&mut store, user("alice")).unwrap();
    assert_eq!(bell.rings(), 2);
    change(&mut store, user("alice")).unwrap_err();
    assert_eq!(bell.rings(), 2, "nothing has changed");
    let other = Arc::new(Bell::default());
    other.with(|cx| listener.register(cx.waker()));
    change(&mut store, role("r")).unwrap();
    assert_eq!((bell.rings(), other.rings()), (2, 1));
    drop(listener);
    change(&mut store, user("bob")).unwrap();
    assert_eq!(other.rings(), 1);
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![Just("root"), Just("a"), Just("b"), Just("")].prop_map(String::from)
}

fn ranges() -> impl Strategy<Value = KeyRange> {
    let end = prop_oneof![Just(""), Just("\0"), Just("c")];
    (prop_oneof![Just("a"), Just("b"), Just("")], end).prop_map(|(start, end)| span(start, end))
}

fn changes() -> impl Strategy<Value = AuthCommand> {
    let hash = || proptest::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from);
    prop_oneof![
        Just(AuthCommand::Enable),
        Just(AuthCommand::Disable),
        (names(), names(), 0..9u64).prop_map(|(user, prefix, revision)| AuthCommand::Authenticate {
            user,
            prefix,
            revision
        }),
        (names(), hash(), any::<bool>()).prop_map(|(name, hash, no_password)| AuthCommand::UserAdd {
            name,
            hash,
            no_password
        }),
        names().prop_map(|name| AuthCommand::UserDelete { name }),
        (names(), hash()).prop_map(|(name, hash)| AuthCommand::UserSetPassword { name, hash }),
        (names(), names()).prop_map(|(user, role)| AuthCommand::UserGrantRole { user, role }),
        (names(), names()).prop_map(|(user, role)| AuthCommand::UserRevokeRole { user, role }),
        names().prop_map(|name| AuthCommand::RoleAdd { name }),
        names().prop_map(|name| AuthCommand::RoleDelete { name }),
        (names(), 0..4i32, ranges())
            .prop_map(|(role, kind, range)| AuthCommand::RoleGrant { role, permission: Permission { kind, range } }),
        (names(), ranges()).prop_map(|(role, range)| AuthCommand::RoleRevoke { role, range }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// What was stored piece by piece is what is there, whatever the changes; and each comes back from its bytes.
    #[test]
    fn stored_as_changed(changes in proptest::collection::vec(changes(), 0..40)) {
        let backend = Arc::new(MemoryBackend::new());
        let mut store = Store { engine: Engine::open(backend.clone()).unwrap(), index: 0 };
        for change in changes {
            for asker in [Asker::System, Asker::User { name: "a".into(), revision: 3 }] {
                let command = Command::Asked(Box::new(crate::auth::Asked { by: asker, command: Command::Auth(change.clone()) }));
                let mut encoded = Vec::new();
                command.encode(&mut encoded);
                let encoded = Bytes::from(encoded);
                for cut in 0..encoded.len() {
                    prop_assert!(Command::decode(&encoded.slice(..cut)).is_err());
                }
                prop_assert_eq!(Command::decode(&encoded), Ok(command));
            }
            let _ = manage(&mut store, change);
            let auth = store.engine.reader().auth();
            // What is worked out when something changes is what would be worked out from the start.
            let anew = crate::auth::Auth::from_parts(
                auth.enabled(),
                auth.revision(),
                auth.users().map(|(name, user)| (name.clone(), user.clone())),
                auth.roles().map(|(name, role)| (name.clone(), role.clone())),
            );
            prop_assert_eq!(&anew, &*auth);
        }
        let auth = store.engine.reader().auth();
        prop_assert_eq!(&*Engine::open(backend).unwrap().reader().auth(), &*auth);
    }
}
