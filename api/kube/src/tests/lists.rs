use super::*;

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_string()).collect()
}

async fn fill(cluster: &Cluster, count: usize) {
    for number in 0..count {
        let mut object = config_map(&format!("m{number}"));
        object["metadata"]["labels"] = json!({"odd": (number % 2 == 1).to_string()});
        cluster.post(MAPS, object).await.ok();
    }
}

#[tokio::test]
async fn a_list_sees_every_acknowledged_write() {
    let cluster = Cluster::new().await;
    for number in 0..50 {
        cluster.post(MAPS, config_map(&format!("m{number:02}"))).await.ok();
        let list = cluster.get(MAPS).await.ok();
        assert_eq!(names(&list).len(), number + 1);
    }
    let list = cluster.get("/api/v1/configmaps").await.ok();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert_eq!(names(&list).len(), 50);
    assert!(list["metadata"]["resourceVersion"].as_str().unwrap().parse::<i64>().unwrap() > 50);
}

#[tokio::test]
async fn pages_show_one_revision() {
    let cluster = Cluster::new().await;
    fill(&cluster, 7).await;
    let first = cluster.get(&format!("{MAPS}?limit=3")).await.ok();
    assert_eq!(names(&first), ["m0", "m1", "m2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = cluster.get(&format!("{MAPS}?limit=3&continue={token}")).await.ok();
    assert_eq!(names(&second), ["m3", "m4", "m5"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    // What changes in between is not seen by a list that has begun.
    cluster.delete(&format!("{MAPS}/m4"), json!({})).await.ok();
    cluster.post(MAPS, config_map("m9")).await.ok();
    let again = cluster.get(&format!("{MAPS}?limit=3&continue={token}")).await.ok();
    assert_eq!(names(&again), ["m3", "m4", "m5"]);
    let token = again["metadata"]["continue"].as_str().unwrap();
    let last = cluster.get(&format!("{MAPS}?limit=3&continue={token}")).await.ok();
    assert_eq!(names(&last), ["m6"]);
    assert!(last["metadata"].get("continue").is_none() && last["metadata"].get("remainingItemCount").is_none());
    let all = format!("/api/v1/configmaps?limit=2&continue={}", first["metadata"]["continue"].as_str().unwrap());
    assert_eq!(names(&cluster.get(&all).await.ok()), Vec::<String>::new());
}

#[tokio::test]
async fn a_compacted_page_offers_the_rest_inconsistently() {
    let cluster = Cluster::new().await;
    fill(&cluster, 4).await;
    let first = cluster.get(&format!("{MAPS}?limit=2")).await.ok();
    cluster.delete(&format!("{MAPS}/m3"), json!({})).await.ok();
    // Once the cache knows of the deletion, the first page's state is to be had from the store alone.
    cluster.get(MAPS).await.ok();
    cluster.store.compact(cluster.store.revision()).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let gone = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((gone.code.as_u16(), &gone.body["reason"]), (410, &json!("Expired")));
    assert!(gone.body["message"].as_str().unwrap().starts_with("The provided continue parameter is too old"));
    let token = gone.body["metadata"]["continue"].as_str().unwrap();
    let rest = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&rest), ["m2"]);
    let old = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = cluster.get(&format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact")).await;
    assert_eq!(exact.code, 410);
}

#[tokio::test]
async fn resource_versions_choose_the_state() {
    let cluster = Cluster::new().await;
    fill(&cluster, 2).await;
    let old = cluster.get(MAPS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    cluster.post(MAPS, config_map("n")).await.ok();
    let exact = cluster.get(&format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact")).await.ok();
    assert_eq!(names(&exact), ["m0", "m1"]);
    let newer = cluster.get(&format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=NotOlderThan")).await.ok();
    assert!(newer["metadata"]["resourceVersion"].as_str().unwrap().parse::<i64>().unwrap() >= old.parse().unwrap());
    assert!(names(&cluster.get(&format!("{MAPS}?resourceVersion=0")).await.ok()).len() >= 2);
    assert_eq!(cluster.get(&format!("{MAPS}?continue=x")).await.code, 400);
    assert_eq!(cluster.get(&format!("{MAPS}?limit=x")).await.code, 400);
}

#[tokio::test]
async fn a_version_from_the_future_is_refused() {
    let cluster = Cluster::new().await;
    let reply = cluster.get(&format!("{MAPS}?resourceVersion=999999")).await;
    assert_eq!(reply.code, 504);
    assert_eq!(reply.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn selectors_narrow_lists_and_their_pages() {
    let cluster = Cluster::new().await;
    fill(&cluster, 6).await;
    assert_eq!(names(&cluster.get(&format!("{MAPS}?labelSelector=odd%3Dtrue")).await.ok()), ["m1", "m3", "m5"]);
    assert_eq!(names(&cluster.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm2")).await.ok()), ["m2"]);
    let first = cluster.get(&format!("{MAPS}?labelSelector=odd%3Dtrue&limit=2")).await.ok();
    assert_eq!(names(&first), ["m1", "m3"]);
    assert!(first["metadata"].get("remainingItemCount").is_none());
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = cluster.get(&format!("{MAPS}?labelSelector=odd%3Dtrue&limit=2&continue={token}")).await.ok();
    assert_eq!(names(&rest), ["m5"]);
    assert_eq!(cluster.get(&format!("{MAPS}?labelSelector=a%20b")).await.code, 400);
    assert_eq!(cluster.get(&format!("{MAPS}?fieldSelector=spec.x%3D1")).await.code, 400);
}

#[tokio::test]
async fn lists_come_as_metadata_tables_and_yaml() {
    let cluster = Cluster::new().await;
    fill(&cluster, 2).await;
    let metadata = cluster.get_as(MAPS, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").await.ok();
    assert_eq!(metadata["kind"], "PartialObjectMetadataList");
    assert_eq!(metadata["items"][1]["metadata"]["name"], "m1");
    assert!(metadata["items"][1].get("data").is_none());
    let table = cluster.get_as(MAPS, "application/json;as=Table;g=meta.k8s.io;v=v1").await.ok();
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["rows"][0]["cells"][0], "m0");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    let one = cluster.get_as(&format!("{MAPS}/m0"), "application/json;as=Table;g=meta.k8s.io;v=v1beta1").await.ok();
    assert_eq!((&one["rows"].as_array().unwrap().len(), &one["apiVersion"]), (&1, &json!("meta.k8s.io/v1beta1")));
    let yaml = cluster.get_as(&format!("{MAPS}/m0"), "application/yaml").await;
    assert!(yaml.text.starts_with(b"apiVersion: v1\n"));
    assert_eq!(cluster.get_as(MAPS, "application/vnd.kubernetes.protobuf").await.code, 406);
}

#[tokio::test]
async fn a_long_list_arrives_whole() {
    let cluster = Cluster::new().await;
    for number in 0..40 {
        let mut object = config_map(&format!("m{number:02}"));
        object["data"]["a"] = json!("x".repeat(20_000));
        cluster.post(MAPS, object).await.ok();
    }
    assert_eq!(names(&cluster.get(MAPS).await.ok()).len(), 40);
}
