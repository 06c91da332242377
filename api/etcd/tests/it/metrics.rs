//! The names, kinds and labels of etcd's metrics, as a real etcd has them: all of them are here, but for those on a list
//! with reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kelson_etcd::ServerOptions;
use kelson_wire::real_etcd::RealEtcd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Server, within};
use crate::poll;

/// Names that etcd has and we do not, by their beginnings, each with the reason.
const ABSENT: &str = include_str!("../metrics/absent.txt");

async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: etcd\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = Vec::new();
    within("a page", stream.read_to_end(&mut page)).await.unwrap();
    String::from_utf8_lossy(&page).into_owned()
}

/// Each family as `name kind {labels} bounds`: what a dashboard relies on.
fn families(page: &str) -> BTreeMap<String, String> {
    let mut kinds = BTreeMap::new();
    let (mut labels, mut bounds) = (BTreeMap::<String, BTreeSet<String>>::new(), BTreeMap::<String, usize>::new());
    let mut family = String::new();
    for line in page.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap();
            family = name.to_owned();
            kinds.insert(family.clone(), kind.to_owned());
        } else if let Some((_, rest)) =
            line.split_once('{').filter(|_| line.starts_with(&family) && !line.starts_with('#'))
        {
            for (name, _) in rest.split('}').next().unwrap().split(',').filter_map(|label| label.split_once('=')) {
                if name == "le" {
                    *bounds.entry(family.clone()).or_default() += 1;
                } else {
                    labels.entry(family.clone()).or_default().insert(name.to_owned());
                }
            }
        }
    }
    let whole = |(name, kind): (String, String)| {
        let labels: Vec<_> = labels.remove(&name).unwrap_or_default().into_iter().collect();
        let bounds = bounds.get(&name).map_or(String::new(), |bounds| format!(" {bounds} bounds"));
        (name, format!("{kind} {{{}}}{bounds}", labels.join(",")))
    };
    let mut whole = whole;
    kinds.into_iter().filter(|(name, _)| !name.starts_with("go_")).map(&mut whole).collect()
}

/// Asks for what makes the page complete.
async fn scraped(address: &str) -> BTreeMap<String, String> {
    poll::until("health", async || get(address, "/readyz").await.contains("200 OK").then_some(())).await;
    get(address, "/livez").await;
    let page = get(address, "/metrics").await;
    families(&page)
}

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metrics/etcd.txt")
}

fn written(families: &BTreeMap<String, String>) -> String {
    families.iter().map(|(name, what)| format!("{name} {what}\n")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real() {
    let Some(etcd) = RealEtcd::start(&[]) else { return };
    let real = written(&scraped(etcd.endpoint().trim_start_matches("http://")).await);
    if std::env::var_os("KELSON_UPDATE_SCENARIOS").is_some() {
        std::fs::write(golden(), real).unwrap();
    } else {
        assert_eq!(std::fs::read_to_string(golden()).unwrap(), real, "the list is not a real etcd's");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours() {
    let server = Server::start(ServerOptions::default()).await;
    let ours = scraped(&server.address).await;
    server.stop().await;
    let absent: Vec<&str> =
        ABSENT.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(' ').next()).collect();
    let etcds = std::fs::read_to_string(golden()).unwrap();
    let mut wrong = Vec::new();
    for line in etcds.lines() {
        let (name, what) = line.split_once(' ').unwrap();
        let is_absent = absent.contains(&name);
        match ours.get(name) {
            None if is_absent => {}
            None => wrong.push(format!("{name} is missing")),
            Some(_) if is_absent => wrong.push(format!("{name} is there: it is not absent")),
            Some(ours) if ours != what => wrong.push(format!("{name} is {ours}, etcd's is {what}")),
            Some(_) => {}
        }
    }
    for name in &absent {
        if !etcds.lines().any(|line| line.split(' ').next() == Some(name)) {
            wrong.push(format!("{name} is not etcd's"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
