use kelson_wire::model::ModelStore;
use kelson_wire::store::Object;

use super::*;
use crate::registry::core;

fn put(name: &str, namespace: &str, node: &str, revision: i64, created: i64) -> Change {
    let value = format!(r#"{{"kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"nodeName":"{node}"}}}}"#);
    Change::Put {
        object: Object {
            key: format!("/registry/pods/{namespace}/{name}").into(),
            value: value.into(),
            mod_revision: revision,
            create_revision: created,
            lease: 0,
        },
        previous: None,
    }
}

fn cache() -> Arc<Cache> {
    let cache = Arc::new(Cache::new(core("pods").1));
    cache.reset(1, Vec::new());
    cache
}

fn revisions(watcher: &mut Watcher) -> Vec<i64> {
    match watcher.pull(usize::MAX) {
        Pulled::Events(events) => events.iter().map(|event| event.revision).collect(),
        Pulled::Idle(_) => Vec::new(),
        Pulled::Lost => vec![-1],
    }
}

#[test]
fn a_scope_gets_its_own_events_alone() {
    let cache = cache();
    let open = |scope| cache.open(scope, Start::After(1), b"/registry/pods/").unwrap().0;
    let mut all = open(Scope::All);
    let mut namespace = open(Scope::Namespace("a".into()));
    let mut object = open(Scope::Object("/registry/pods/b/y".into()));
    let mut node = open(Scope::Field("n1".into()));
    cache.apply(vec![
        put("x", "a", "", 2, 2),
        put("y", "b", "n1", 3, 3),
        put("x", "a", "n1", 4, 2),
        put("y", "b", "n2", 5, 3),
    ]);
    assert_eq!(revisions(&mut all), [2, 3, 4, 5]);
    assert_eq!(revisions(&mut namespace), [2, 4]);
    assert_eq!(revisions(&mut object), [3, 5]);
    // Revision 5 is news for the node that the pod has left.
    assert_eq!(revisions(&mut node), [3, 4, 5]);
    assert_eq!(cache.watchers(), 4);
    drop((all, namespace, object, node));
    assert_eq!(cache.watchers(), 0);
}

#[test]
fn a_slow_watcher_is_lost_and_a_quiet_one_is_not() {
    let cache = cache();
    let mut slow = cache.open(Scope::All, Start::After(1), b"").unwrap().0;
    let mut busy = cache.open(Scope::Namespace("busy".into()), Start::After(1), b"").unwrap().0;
    let mut quiet = cache.open(Scope::Namespace("quiet".into()), Start::After(1), b"").unwrap().0;
    cache.apply(vec![put("first", "quiet", "", 2, 2)]);
    let last = 2 + ring::MAX_EVENTS as i64 + 1;
    for revision in 3..=last {
        cache.apply(vec![put("x", "busy", "", revision, 3)]);
    }
    assert_eq!(revisions(&mut slow), [-1]);
    assert_eq!(revisions(&mut busy), [-1]);
    assert_eq!(revisions(&mut quiet), [2]);
    // What is kept can still be asked for; what is not is refused.
    assert!(cache.open(Scope::All, Start::After(3), b"").is_ok());
    assert_eq!(cache.open(Scope::All, Start::After(1), b"").err().map(|failure| failure.code().as_u16()), Some(410));
}

#[test]
fn a_new_life_cuts_every_watcher() {
    let cache = cache();
    let mut all = cache.open(Scope::All, Start::After(1), b"").unwrap().0;
    let mut namespace = cache.open(Scope::Namespace("a".into()), Start::After(1), b"").unwrap().0;
    cache.reset(10, Vec::new());
    assert_eq!(revisions(&mut all), [-1]);
    assert_eq!(revisions(&mut namespace), [-1]);
    assert_eq!(cache.open(Scope::All, Start::After(9), b"").err().map(|failure| failure.code().as_u16()), Some(410));
}

#[test]
fn a_repeated_change_is_no_event() {
    let cache = cache();
    let mut all = cache.open(Scope::All, Start::After(1), b"").unwrap().0;
    cache.apply(vec![put("x", "a", "", 2, 2)]);
    cache.apply(vec![
        put("x", "a", "", 2, 2),
        Change::Delete { key: "/registry/pods/a/z".into(), revision: 3, previous: None },
    ]);
    assert_eq!(revisions(&mut all), [2]);
    assert_eq!(cache.revision(), 3);
}

#[test]
fn a_snapshot_of_the_past_is_given_only_while_it_is_the_present() {
    let cache = cache();
    cache.apply(vec![put("x", "a", "", 2, 2), Change::Progress { revision: 7 }]);
    assert!(cache.snapshot_at(1, b"/registry/pods/", b"", 0).is_none());
    let snapshot = cache.snapshot_at(4, b"/registry/pods/", b"", 0).unwrap();
    assert_eq!((snapshot.revision, snapshot.entries.len()), (4, 1));
    assert!(cache.snapshot_at(8, b"/registry/pods/", b"", 0).is_none());
}

#[tokio::test]
async fn a_feed_lists_and_then_follows() {
    let store = ModelStore::new();
    let key = |name: &str| Bytes::from(format!("/registry/pods/a/{name}"));
    let value = |name: &str| Bytes::from(format!(r#"{{"metadata":{{"name":"{name}"}}}}"#));
    store.put(key("x"), value("x"), 0, 0).await.unwrap();
    store.put(key("bad"), "no JSON".into(), 0, 0).await.unwrap();
    let cache = Arc::new(Cache::new(core("pods").1));
    let feed = tokio::spawn(run(cache.clone(), Arc::new(store.clone())));
    cache.wait_ready().await;
    assert_eq!(cache.len(), 1);
    store.put(key("y"), value("y"), 0, 0).await.unwrap();
    cache.wait_current(&store).await.unwrap();
    assert_eq!(cache.len(), 2);
    feed.abort();
}
