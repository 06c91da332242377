//! EndpointSlices and Endpoints.

use super::*;

fn service() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    }})
}

fn addresses(endpoints: &Value, field: &str) -> usize {
    let subsets = endpoints["subsets"].as_array().into_iter().flatten();
    subsets.filter_map(|subset| subset[field].as_array()).map(Vec::len).sum()
}

fn of_web(slices: &[Value]) -> Vec<Value> {
    slices.iter().filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web").cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_leads_to_its_ready_pods() {
    let cluster = Cluster::start(2).await;
    let made = cluster.create(&Gvr::SERVICES, service()).await;
    cluster.create(&Gvr::DEPLOYMENTS, deployment(130)).await;
    let full = |slices: &[Value]| {
        let web = of_web(slices);
        let all: Vec<_> =
            web.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default()).collect();
        all.len() == 130 && all.iter().all(|each| each["conditions"]["ready"] == true)
    };
    let slices = of_web(&cluster.until_list(&Gvr::ENDPOINT_SLICES, full).await);
    assert!(slices.iter().all(|slice| slice["endpoints"].as_array().unwrap().len() <= 100));
    assert_eq!(slices[0]["ports"], json!([{"name": "http", "protocol": "TCP", "port": 8080}]));
    assert_eq!(slices[0]["metadata"]["ownerReferences"][0]["uid"], made["metadata"]["uid"]);
    assert_eq!(slices[0]["endpoints"][0]["zone"], "z1");
    assert_eq!(slices[0]["endpoints"][0]["targetRef"]["kind"], "Pod");
    cluster.until(&Gvr::ENDPOINTS, "web", |found| addresses(found, "addresses") == 130).await;
    cluster.patch(&Gvr::DEPLOYMENTS, "web", json!({"spec": {"replicas": 2}})).await;
    cluster.until(&Gvr::ENDPOINTS, "web", |found| addresses(found, "addresses") == 2).await;
    cluster
        .until_list(&Gvr::ENDPOINT_SLICES, |slices| {
            of_web(slices).iter().map(|slice| slice["endpoints"].as_array().map_or(0, Vec::len)).sum::<usize>() == 2
        })
        .await;
    cluster.delete(&Gvr::SERVICES, "web", json!({})).await;
    cluster.until(&Gvr::ENDPOINTS, "web", Value::is_null).await;
    cluster.until_list(&Gvr::ENDPOINT_SLICES, |slices| of_web(slices).is_empty()).await;
}
