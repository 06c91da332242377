//! Power cuts in the middle of a rollout: nothing acknowledged is lost, nothing happens twice, and it finishes.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kelson_wire::kube::{Client, Gvr, Https, Kubeconfig, ObjectMeta};
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::audit;
use crate::cluster::{START, address_of, start_dev};
use crate::poll;

/// Times that the power is cut.
const CUTS: usize = 20;
const NODES: u32 = 200;
const REPLICAS: i64 = 5_000;
/// The cut comes at most this long after the Deployment was acknowledged.
const LATEST_CUT: Duration = Duration::from_millis(1_000);
/// Longest rollout on a busy machine, in seconds.
const ROLLOUT: u64 = 180;

fn client(kubeconfig: &Path) -> Client {
    let config = Kubeconfig::load(kubeconfig).expect("a kubeconfig");
    Client::new(std::sync::Arc::new(Https::new(&config).expect("a transport")), "crash-test")
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "wave"}, "spec": {
        "replicas": REPLICAS,
        "selector": {"matchLabels": {"app": "wave"}},
        "template": {"metadata": {"labels": {"app": "wave"}}, "spec": {"containers": [{
            "name": "web", "image": "nginx:1.27",
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        }]}},
    }})
}

#[test]
fn a_rollout_survives_power_cuts() {
    let seed = std::env::var("KELSON_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("KELSON_TEST_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    for cut in 0..CUTS {
        let moment = Duration::from_millis(random.random_range(50..LATEST_CUT.as_millis() as u64));
        survive(&runtime, cut, moment);
    }
}

fn survive(runtime: &tokio::runtime::Runtime, cut: usize, moment: Duration) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kubeconfig = folder.path().join("data/kubeconfig");
    let mut first = start_dev(folder.path(), NODES, &[]);
    first.wait_until_ready(START);

    // Acknowledged writes, right up to the cut.
    let api = client(&kubeconfig);
    runtime.block_on(api.create::<Value>(&Gvr::DEPLOYMENTS, "default", &deployment())).expect("created");
    let acknowledged = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                let name = format!("note-{number}");
                let note = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
                let created = runtime.block_on(async {
                    let call = api.create::<Value>(&Gvr::CONFIG_MAPS, "default", &note);
                    tokio::time::timeout(Duration::from_secs(5), call).await
                });
                match created {
                    Ok(Ok(_)) => acknowledged.lock().expect("names").push(name),
                    _ if stop.load(Ordering::Relaxed) => return,
                    other => panic!("a write failed before the cut: {other:?}"),
                }
            }
        });
        poll::strike_after(moment);
        stop.store(true, Ordering::Relaxed);
        first.kill();
    });

    let began = Instant::now();
    let mut second = start_dev(folder.path(), NODES, &[]);
    second.wait_until_ready(START);
    let api = client(&kubeconfig);
    let acknowledged = acknowledged.into_inner().expect("names");
    runtime.block_on(async {
        let listed = api.list::<Meta>(&Gvr::CONFIG_MAPS, "default", &Default::default()).await.expect("a list");
        let names: std::collections::HashSet<_> =
            listed.items.iter().map(|map| map.metadata.name.to_string()).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|name| !names.contains(*name)).collect();
        assert!(lost.is_empty(), "cut {cut} after {moment:?}: acknowledged and lost: {lost:?}");
    });
    poll::until(&format!("cut {cut} after {moment:?}: the rollout finishes"), ROLLOUT, || {
        let status =
            runtime.block_on(api.get::<Value>(&Gvr::DEPLOYMENTS, "default", "wave")).map_err(|e| e.to_string())?;
        let ready = status["status"]["readyReplicas"].as_i64().unwrap_or(0);
        if ready == REPLICAS { Ok(()) } else { Err(format!("{ready} ready")) }
    });
    let etcd = address_of(&second.output(), "http://");
    let told =
        runtime.block_on(audit::replay(&etcd)).unwrap_or_else(|broken| panic!("cut {cut} after {moment:?}: {broken}"));
    eprintln!(
        "cut {cut} after {moment:?}: {} acknowledged, {} pods, finished {:.1} s after the restart",
        acknowledged.len(),
        told.pods,
        began.elapsed().as_secs_f64()
    );
}

#[derive(Deserialize)]
struct Meta {
    metadata: ObjectMeta,
}
