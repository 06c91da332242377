use super::*;

fn version(list: &Value) -> String {
    list["metadata"]["resourceVersion"].as_str().unwrap().to_string()
}

#[tokio::test]
async fn a_watch_follows_a_list() {
    let cluster = Cluster::new().await;
    cluster.post(MAPS, config_map("a")).await.ok();
    let from = version(&cluster.get(MAPS).await.ok());
    let mut events = cluster.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    cluster.post(MAPS, config_map("b")).await.ok();
    let changed = cluster.merge(&format!("{MAPS}/a"), json!({"data": {"a": "2"}})).await.ok();
    cluster.delete(&format!("{MAPS}/b"), json!({})).await.ok();
    assert_eq!(events.brief().await, ("ADDED".into(), "b".into()));
    let modified = events.next().await.unwrap();
    assert_eq!((&modified["type"], &modified["object"]), (&json!("MODIFIED"), &changed));
    let deleted = events.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    let revision: i64 = deleted["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert_eq!(revision, cluster.store.revision());
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there() {
    let cluster = Cluster::new().await;
    cluster.post(MAPS, config_map("a")).await.ok();
    let mut events = cluster.watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!(events.brief().await, ("ADDED".into(), "a".into()));
    let mut one = cluster.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Db&resourceVersion=0")).await;
    cluster.post(MAPS, config_map("c")).await.ok();
    cluster.post(MAPS, config_map("b")).await.ok();
    assert_eq!(one.brief().await, ("ADDED".into(), "b".into()));
}

#[tokio::test]
async fn a_streamed_list_ends_with_its_bookmark() {
    let cluster = Cluster::new().await;
    for name in ["a", "b"] {
        cluster.post(MAPS, config_map(name)).await.ok();
    }
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = cluster.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(events.brief().await, ("ADDED".into(), "a".into()));
    assert_eq!(events.brief().await, ("ADDED".into(), "b".into()));
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    cluster.post(MAPS, config_map("c")).await.ok();
    assert_eq!(events.brief().await, ("ADDED".into(), "c".into()));
    let refused = cluster.get(&format!("{MAPS}?watch=true&sendInitialEvents=true")).await;
    assert_eq!(refused.code, 422);
    let refused = cluster.get(&format!("{MAPS}?watch=true&resourceVersionMatch=NotOlderThan&resourceVersion=1")).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn objects_enter_and_leave_a_selector() {
    let cluster = Cluster::new().await;
    let from = version(&cluster.get(PODS).await.ok());
    let labels = format!("{PODS}?watch=true&labelSelector=app%3Dweb&resourceVersion={from}");
    let mut by_label = cluster.watch(&labels).await;
    let mut by_node = cluster
        .watch(&format!("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn1&resourceVersion={from}"))
        .await;
    let mut unbound =
        cluster.watch(&format!("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3D&resourceVersion={from}")).await;
    cluster.post(PODS, pod("p")).await.ok();
    let binding = json!({"metadata": {"name": "p"}, "target": {"name": "n1"}});
    cluster.post(&format!("{PODS}/p/binding"), binding).await.ok();
    cluster.merge(&format!("{PODS}/p"), json!({"metadata": {"labels": {"app": "db"}}})).await.ok();
    assert_eq!(by_label.brief().await, ("ADDED".into(), "p".into()));
    assert_eq!(by_label.brief().await, ("MODIFIED".into(), "p".into()));
    let left = by_label.next().await.unwrap();
    assert_eq!(left["type"], "DELETED");
    // The last state inside the selector, at the revision at which it left.
    assert_eq!(left["object"]["metadata"]["labels"]["app"], "web");
    assert_eq!(left["object"]["metadata"]["resourceVersion"], cluster.store.revision().to_string());
    assert_eq!(by_node.brief().await, ("ADDED".into(), "p".into()));
    assert_eq!(by_node.brief().await, ("MODIFIED".into(), "p".into()));
    assert_eq!(unbound.brief().await, ("ADDED".into(), "p".into()));
    let bound = unbound.next().await.unwrap();
    assert_eq!(bound["type"], "DELETED");
    assert!(bound["object"]["spec"].get("nodeName").is_none());
    // Whoever comes later with the same version sees the same.
    let mut later = cluster
        .watch(&format!("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn1&resourceVersion={from}"))
        .await;
    assert_eq!(later.brief().await, ("ADDED".into(), "p".into()));
    assert_eq!(later.brief().await, ("MODIFIED".into(), "p".into()));
}

#[tokio::test]
async fn every_event_comes_once_and_in_order() {
    const WRITERS: usize = 8;
    const WRITES: usize = 40;
    let cluster = Arc::new(Cluster::new().await);
    let from = version(&cluster.get(MAPS).await.ok());
    let mut early = cluster.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    let mut everywhere = cluster.watch(&format!("/api/v1/configmaps?watch=true&resourceVersion={from}")).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let cluster = cluster.clone();
            tokio::spawn(async move {
                let mut written = Vec::new();
                for number in 0..WRITES {
                    let name = format!("w{writer}-{}", number % 3);
                    let path = format!("{MAPS}/{name}");
                    let body = json!({"metadata": {"name": name}, "data": {"n": number.to_string()}});
                    let reply = match number % 3 {
                        _ if number < 3 => cluster.post(MAPS, body).await.ok(),
                        0 => cluster.merge(&path, json!({"data": {"n": number.to_string()}})).await.ok(),
                        _ => cluster.put(&path, body).await.ok(),
                    };
                    written.push(version(&reply).parse::<i64>().unwrap());
                }
                written
            })
        })
        .collect();
    let mut written = Vec::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    written.sort_unstable();
    written.dedup();
    let mut late = cluster.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    // The end is written once the late watch is open, so that each of them has something to go on to.
    assert_eq!(late.brief().await.0, "ADDED");
    written.push(version(&cluster.post(MAPS, config_map("end")).await.ok()).parse().unwrap());
    for (events, already) in [(&mut early, 0), (&mut everywhere, 0), (&mut late, 1)] {
        let mut seen = Vec::new();
        loop {
            let event = events.next().await.unwrap();
            seen.push(version(&event["object"]).parse::<i64>().unwrap());
            if event["object"]["metadata"]["name"] == "end" {
                break;
            }
        }
        assert_eq!(seen, written[already..]);
    }
}

#[tokio::test]
async fn too_old_a_version_is_expired() {
    let cluster = Cluster::new().await;
    cluster.post(MAPS, config_map("a")).await.ok();
    let second = Gateway::start(Arc::new(cluster.store.clone()), Config::default()).await.unwrap();
    let cluster = Cluster { store: cluster.store.clone(), gateway: second };
    let mut events = cluster.watch(&format!("{MAPS}?watch=true&resourceVersion=1")).await;
    let gone = events.next().await.unwrap();
    assert_eq!(
        (&gone["type"], &gone["object"]["reason"], &gone["object"]["code"]),
        (&json!("ERROR"), &json!("Expired"), &json!(410))
    );
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout_and_bookmarks_on_its_way() {
    let config = Config { bookmark_interval: Duration::from_millis(20), ..Config::default() };
    let cluster = Cluster::with(config).await;
    let from = version(&cluster.get(MAPS).await.ok());
    let mut events = cluster
        .watch(&format!("{MAPS}?watch=true&resourceVersion={from}&timeoutSeconds=1&allowWatchBookmarks=true"))
        .await;
    let bookmark = events.next().await.unwrap();
    assert_eq!((&bookmark["type"], version(&bookmark["object"])), (&json!("BOOKMARK"), from));
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn watches_come_as_tables_too() {
    let cluster = Cluster::new().await;
    let request =
        Request::get(format!("{MAPS}?watch=true")).header("accept", "application/json;as=Table;g=meta.k8s.io;v=v1");
    let response = cluster.gateway.handle(&User::new("admin", &[]), request.body(Bytes::new()).unwrap()).await;
    let mut events = Events { body: response.into_body(), buffer: BytesMut::new() };
    cluster.post(MAPS, config_map("a")).await.ok();
    cluster.post(MAPS, config_map("b")).await.ok();
    let first = events.next().await.unwrap();
    assert_eq!((&first["object"]["kind"], &first["object"]["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    let second = events.next().await.unwrap();
    assert_eq!(
        (&second["object"]["columnDefinitions"], &second["object"]["rows"][0]["cells"][0]),
        (&json!([]), &json!("b"))
    );
}
