//! What every implementation of [`Store`] must do, as one test suite: the model, the local and the remote store pass it,
//! and so does the remote one on a real etcd.
//!
//! The suite needs prefixes `/suite/` that nobody else writes to, and compacts the store. Failures are panics.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;

use crate::store::{Change, Changes, ListOptions, Store, StoreError, Written};

/// Bound on everything that is waited for; a store that is fine is far below.
const DEADLINE: Duration = Duration::from_secs(20);

/// Keys of the large list: several pages of a remote store.
const MANY: usize = 1300;

/// Runs the whole suite.
pub async fn run(store: &dyn Store) {
    guarded_writes(store).await;
    bad_requests(store).await;
    lists(store).await;
    large_list(store).await;
    watch_from_now(store).await;
    watch_history(store).await;
    watch_prefixes(store).await;
    watch_all(store).await;
    progress(store).await;
    leases(store).await;
    compaction(store).await;
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what} did not happen within {DEADLINE:?}"),
    }
}

fn key(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

async fn write(store: &dyn Store, name: &str, value: &str, expected: i64) -> i64 {
    match store.put(key(name), key(value), expected, 0).await {
        Ok(Written::Done { revision }) => revision,
        other => panic!("put of {name} at {expected}: {other:?}"),
    }
}

async fn erase(store: &dyn Store, name: &str, expected: i64) -> i64 {
    match store.delete(key(name), expected).await {
        Ok(Written::Done { revision }) => revision,
        other => panic!("delete of {name} at {expected}: {other:?}"),
    }
}

async fn next(changes: &mut Changes) -> Vec<Change> {
    match within("a change", changes.next()).await {
        Some(Ok(batch)) => {
            assert!(!batch.is_empty(), "an empty batch");
            batch
        }
        other => panic!("the watch ended: {other:?}"),
    }
}

/// The next `count` changes, leaving out progress.
async fn take(changes: &mut Changes, count: usize) -> Vec<Change> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend(next(changes).await.into_iter().filter(|change| !matches!(change, Change::Progress { .. })));
    }
    assert_eq!(taken.len(), count, "more changes than were made: {taken:?}");
    taken
}

/// A change in short: `+key=value@revision` or `-key@revision`, then what was there before in brackets.
fn brief(change: &Change) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let before = |previous: &Option<crate::store::Object>| {
        previous.as_ref().map_or(String::new(), |object| format!(" ({}@{})", text(&object.value), object.mod_revision))
    };
    match change {
        Change::Put { object, previous } => {
            format!("+{}={}@{}{}", text(&object.key), text(&object.value), object.mod_revision, before(previous))
        }
        Change::Delete { key, revision, previous } => format!("-{}@{}{}", text(key), revision, before(previous)),
        Change::Progress { revision } => format!("progress@{revision}"),
    }
}

fn briefs(changes: &[Change]) -> Vec<String> {
    changes.iter().map(brief).collect()
}

async fn guarded_writes(store: &dyn Store) {
    let name = "/suite/guard/a";
    let before = store.get(key(name)).await.unwrap();
    assert_eq!(before.object, None);

    let created = write(store, name, "1", 0).await;
    assert!(created > before.revision, "revisions grow");
    match store.put(key(name), key("other"), 0, 0).await.unwrap() {
        Written::Conflict { revision, current: Some(current) } => {
            assert!(revision >= created);
            assert_eq!((current.value, current.mod_revision), (key("1"), created));
        }
        other => panic!("creating what exists: {other:?}"),
    }

    let updated = write(store, name, "2", created).await;
    assert_eq!(updated, created + 1, "one revision for each write");
    let got = store.get(key(name)).await.unwrap();
    assert_eq!(got.revision, updated);
    let object = got.object.unwrap();
    assert_eq!((object.key, object.value, object.lease), (key(name), key("2"), 0));
    assert_eq!((object.create_revision, object.mod_revision), (created, updated));

    match store.delete(key(name), created).await.unwrap() {
        Written::Conflict { current: Some(current), .. } => assert_eq!(current.mod_revision, updated),
        other => panic!("deleting at an old revision: {other:?}"),
    }
    let deleted = erase(store, name, updated).await;
    assert_eq!(deleted, updated + 1);
    let got = store.get(key(name)).await.unwrap();
    assert_eq!((got.object, got.revision), (None, deleted));

    for result in [store.delete(key(name), updated).await, store.put(key(name), key("3"), updated, 0).await] {
        match result.unwrap() {
            Written::Conflict { current: None, revision } => assert_eq!(revision, deleted),
            other => panic!("writing what is gone: {other:?}"),
        }
    }
    // Deleting nothing is no write.
    assert_eq!(erase(store, name, 0).await, deleted);

    let again = write(store, name, "4", 0).await;
    let object = store.get(key(name)).await.unwrap().object.unwrap();
    assert_eq!(object.create_revision, again, "a new life");
    erase(store, name, again).await;
}

async fn bad_requests(store: &dyn Store) {
    let empty = "etcdserver: key is not provided";
    match store.get(Bytes::new()).await {
        Err(StoreError::Rejected(text)) => assert_eq!(text, empty),
        other => panic!("get without a key: {other:?}"),
    }
    match store.put(Bytes::new(), key("x"), 0, 0).await {
        Err(StoreError::Rejected(text)) => assert_eq!(text, empty),
        other => panic!("put without a key: {other:?}"),
    }
    match store.delete(Bytes::new(), 0).await {
        Err(StoreError::Rejected(text)) => assert_eq!(text, empty),
        other => panic!("delete without a key: {other:?}"),
    }
    match store.put(key("/suite/bad"), key("x"), 0, 0x7e1d).await {
        Err(StoreError::Rejected(text)) => assert_eq!(text, "etcdserver: requested lease not found"),
        other => panic!("put under a lease that does not exist: {other:?}"),
    }
    match store.grant_lease(9_000_000_001).await {
        Err(StoreError::Rejected(text)) => assert_eq!(text, "etcdserver: too large lease TTL"),
        other => panic!("a lease for longer than etcd grants: {other:?}"),
    }
}

async fn lists(store: &dyn Store) {
    let prefix = key("/suite/list/");
    let mut revisions = Vec::new();
    for name in ["c", "a", "e", "b", "d"] {
        revisions.push(write(store, &format!("/suite/list/{name}"), name, 0).await);
    }
    // Neighbours on both sides that the prefix must not take in.
    let low = write(store, "/suite/list", "low", 0).await;
    let high = write(store, "/suite/list0", "high", 0).await;

    let names = |objects: &[crate::store::Object]| -> String {
        objects.iter().map(|object| String::from_utf8_lossy(&object.value).into_owned()).collect()
    };
    let all = store.list(prefix.clone(), ListOptions::default()).await.unwrap();
    assert_eq!((names(&all.objects).as_str(), all.more, all.count, all.revision), ("abcde", false, 5, high));
    assert_eq!(all.objects[0].mod_revision, revisions[1]);
    assert_eq!(store.count(prefix.clone()).await.unwrap(), (5, high));

    // Pages, at the revision of the first one, while the newest state moves on.
    let page = |limit, start: Option<&str>| ListOptions { limit, revision: all.revision, start_key: start.map(key) };
    let gone = erase(store, "/suite/list/d", revisions[4]).await;
    let first = store.list(prefix.clone(), page(2, None)).await.unwrap();
    assert_eq!((names(&first.objects).as_str(), first.more, first.count), ("ab", true, 5));
    assert_eq!(first.revision, gone, "the revision told is the current one");
    let second = store.list(prefix.clone(), page(2, Some("/suite/list/b\0"))).await.unwrap();
    assert_eq!((names(&second.objects).as_str(), second.more, second.count), ("cd", true, 3));
    let third = store.list(prefix.clone(), page(2, Some("/suite/list/d\0"))).await.unwrap();
    assert_eq!((names(&third.objects).as_str(), third.more, third.count), ("e", false, 1));
    let exact = store.list(prefix.clone(), page(5, None)).await.unwrap();
    assert_eq!((exact.objects.len(), exact.more), (5, false));

    // As it was in between.
    let then = ListOptions { revision: revisions[2], ..ListOptions::default() };
    assert_eq!(names(&store.list(prefix.clone(), then).await.unwrap().objects), "ace");
    let never = ListOptions { revision: gone + 1000, ..ListOptions::default() };
    assert!(matches!(store.list(prefix.clone(), never).await, Err(StoreError::Future)));

    let none = store.list(key("/suite/list/nothing"), ListOptions::default()).await.unwrap();
    assert_eq!((none.objects.len(), none.more, none.count, none.revision), (0, false, 0, gone));
    erase(store, "/suite/list", low).await;
    erase(store, "/suite/list0", high).await;
}

async fn large_list(store: &dyn Store) {
    let prefix = key("/suite/large/");
    let name = |i: usize| format!("/suite/large/{i:05}");
    let writes = (0..MANY).map(|i| store.put(key(name(i)), key(format!("{i}")), 0, 0));
    for written in join_all(writes).await {
        assert!(matches!(written.unwrap(), Written::Done { .. }));
    }
    let all = store.list(prefix.clone(), ListOptions::default()).await.unwrap();
    assert_eq!((all.objects.len(), all.more, all.count), (MANY, false, MANY as i64));
    assert!(all.objects.iter().enumerate().all(|(i, object)| object.key == name(i) && object.value == i.to_string()));
    let cut = store.list(prefix, ListOptions { limit: MANY - 1, ..Default::default() }).await.unwrap();
    assert_eq!((cut.objects.len(), cut.more, cut.count), (MANY - 1, true, MANY as i64));
}

async fn watch_from_now(store: &dyn Store) {
    let name = "/suite/now/a";
    write(store, "/suite/now/before", "x", 0).await;
    let mut changes = store.watch(key("/suite/now/"), 0).await.unwrap();
    let one = write(store, name, "1", 0).await;
    let two = write(store, name, "2", one).await;
    let three = erase(store, name, two).await;
    let four = write(store, name, "4", 0).await;
    assert_eq!(
        briefs(&take(&mut changes, 4).await),
        [
            format!("+{name}=1@{one}"),
            format!("+{name}=2@{two} (1@{one})"),
            format!("-{name}@{three} (2@{two})"),
            format!("+{name}=4@{four}"),
        ]
    );
}

async fn watch_history(store: &dyn Store) {
    let prefix = key("/suite/past/");
    let mut expected = Vec::new();
    let mut first = 0;
    let mut last = 0;
    for i in 0..200 {
        let name = format!("/suite/past/{}", i % 7);
        let before = store.get(key(&*name)).await.unwrap().object.map_or(0, |object| object.mod_revision);
        last = if before != 0 && i % 5 == 0 {
            erase(store, &name, before).await
        } else {
            write(store, &name, &i.to_string(), before).await
        };
        if first == 0 {
            first = last;
        }
        expected.push((last, name));
    }
    for from in [first, first + 50, last] {
        let expected: Vec<_> = expected.iter().filter(|(revision, _)| *revision >= from).cloned().collect();
        let mut changes = store.watch(prefix.clone(), from).await.unwrap();
        let seen: Vec<_> = take(&mut changes, expected.len())
            .await
            .into_iter()
            .map(|change| match change {
                Change::Put { object, .. } => (object.mod_revision, object.key),
                Change::Delete { key, revision, .. } => (revision, key),
                Change::Progress { revision } => (revision, Bytes::new()),
            })
            .collect();
        assert!(
            seen.iter().eq(expected
                .iter()
                .map(|(revision, name)| (*revision, key(&**name)))
                .collect::<Vec<_>>()
                .iter())
        );
    }
    // A watch that begins in the future waits for it.
    let mut later = store.watch(prefix, last + 2).await.unwrap();
    let hidden = write(store, "/suite/past/hidden", "x", 0).await;
    assert_eq!(hidden, last + 1);
    let shown = write(store, "/suite/past/shown", "y", 0).await;
    assert_eq!(briefs(&take(&mut later, 1).await), [format!("+/suite/past/shown=y@{shown}")]);
}

async fn watch_prefixes(store: &dyn Store) {
    let mut a = store.watch(key("/suite/two/a"), 0).await.unwrap();
    let mut b = store.watch(key("/suite/two/b"), 0).await.unwrap();
    let mut both = store.watch(key("/suite/two/"), 0).await.unwrap();
    let (mut of_a, mut of_b, mut of_both) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..10 {
        for (side, list) in [("a", &mut of_a), ("b", &mut of_b)] {
            let name = format!("/suite/two/{side}{i}");
            let revision = write(store, &name, "v", 0).await;
            list.push(format!("+{name}=v@{revision}"));
            of_both.push(format!("+{name}=v@{revision}"));
        }
    }
    assert_eq!(briefs(&take(&mut a, 10).await), of_a);
    assert_eq!(briefs(&take(&mut b, 10).await), of_b);
    assert_eq!(briefs(&take(&mut both, 20).await), of_both);
}

/// The empty prefix is every key.
async fn watch_all(store: &dyn Store) {
    let mut changes = store.watch(Bytes::new(), 0).await.unwrap();
    let revision = write(store, "/suite/all", "v", 0).await;
    assert_eq!(briefs(&take(&mut changes, 1).await), [format!("+/suite/all=v@{revision}")]);
    let (count, _) = store.count(Bytes::new()).await.unwrap();
    let all = store.list(Bytes::new(), ListOptions::default()).await.unwrap();
    assert!(count > MANY as i64 && all.objects.len() as i64 == count);
}

async fn progress(store: &dyn Store) {
    let mut changes = store.watch(key("/suite/progress/"), 0).await.unwrap();
    let seen = write(store, "/suite/progress/a", "v", 0).await;
    let unseen = write(store, "/suite/elsewhere", "v", 0).await;
    let mut told = Vec::new();
    within("progress", async {
        loop {
            store.request_progress().await.unwrap();
            // A store may skip a request while the watch catches up: ask again then.
            while let Ok(batch) = tokio::time::timeout(Duration::from_millis(200), changes.next()).await {
                told.extend(batch.unwrap().unwrap());
                if let Some(Change::Progress { revision }) = told.last()
                    && *revision >= unseen
                {
                    return;
                }
            }
        }
    })
    .await;
    let events: Vec<_> = told.iter().filter(|change| !matches!(change, Change::Progress { .. })).collect();
    assert_eq!(events.len(), 1, "{told:?}");
    // Never says that it has told what it has not.
    let at = told.iter().position(|change| matches!(change, Change::Put { .. })).unwrap();
    for early in &told[..at] {
        assert!(matches!(early, Change::Progress { revision } if *revision < seen), "{told:?}");
    }
}

async fn leases(store: &dyn Store) {
    let mut changes = store.watch(key("/suite/lease/"), 0).await.unwrap();
    let lease = store.grant_lease(1).await.unwrap();
    let long = store.grant_lease(3600).await.unwrap();
    assert!(lease != 0 && long != 0 && lease != long);
    for (name, lease) in [("a", lease), ("b", lease), ("kept", long)] {
        let written = store.put(key(format!("/suite/lease/{name}")), key("v"), 0, lease).await.unwrap();
        assert!(matches!(written, Written::Done { .. }));
    }
    let object = store.get(key("/suite/lease/kept")).await.unwrap().object.unwrap();
    assert_eq!(object.lease, long);
    take(&mut changes, 3).await;

    // All keys of a lease vanish at one revision, hence in one batch.
    let batch = loop {
        let batch = next(&mut changes).await;
        if !matches!(batch[..], [Change::Progress { .. }]) {
            break batch;
        }
    };
    let mut gone: Vec<_> = batch
        .iter()
        .map(|change| match change {
            Change::Delete { key, revision, previous: Some(_) } => (key.clone(), *revision),
            other => panic!("not the deletion of a lease's key: {other:?}"),
        })
        .collect();
    gone.sort();
    assert_eq!(
        gone.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(),
        [key("/suite/lease/a"), key("/suite/lease/b")]
    );
    assert_eq!(gone[0].1, gone[1].1);
    let left = store.list(key("/suite/lease/"), ListOptions::default()).await.unwrap();
    assert_eq!(left.objects.len(), 1);
}

async fn compaction(store: &dyn Store) {
    let name = "/suite/compact/a";
    let one = write(store, name, "1", 0).await;
    let two = write(store, name, "2", one).await;
    let three = write(store, name, "3", two).await;
    assert!(matches!(store.compact(three + 1000).await, Err(StoreError::Future)));
    store.compact(two).await.unwrap();
    assert!(matches!(store.compact(two).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.compact(one).await, Err(StoreError::Compacted { .. })));

    let at = |revision| ListOptions { revision, ..ListOptions::default() };
    let prefix = key("/suite/compact/");
    assert!(matches!(store.list(prefix.clone(), at(one)).await, Err(StoreError::Compacted { .. })));
    // The compacted revision itself can still be read, and what is newer too.
    assert_eq!(store.list(prefix.clone(), at(two)).await.unwrap().objects[0].value, "2");
    assert_eq!(store.list(prefix.clone(), at(three)).await.unwrap().objects[0].value, "3");

    // A watch from before: an error that names the revision, and the end, whether at once or as the first thing told.
    match store.watch(prefix.clone(), one).await {
        Err(StoreError::Compacted { compacted }) => assert_eq!(compacted, two),
        Err(other) => panic!("watch of a compacted revision: {other:?}"),
        Ok(mut changes) => {
            match within("the end of the watch", changes.next()).await {
                Some(Err(StoreError::Compacted { compacted })) => assert_eq!(compacted, two),
                other => panic!("watch of a compacted revision: {other:?}"),
            }
            assert!(within("the end of the stream", changes.next()).await.is_none());
        }
    }
    let mut changes = store.watch(prefix, three).await.unwrap();
    assert_eq!(briefs(&take(&mut changes, 1).await), [format!("+{name}=3@{three} (2@{two})")]);
}
