//! A real etcd for tests to compare with: the binary that `KELSON_TEST_ETCD` names, started on a fresh directory.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Bound on etcd's start.
const START: Duration = Duration::from_secs(30);

/// A running etcd with one member. Ends, and its data with it, when dropped.
pub struct RealEtcd {
    process: Child,
    data: PathBuf,
    endpoint: String,
}

impl RealEtcd {
    /// Starts one, with further flags of etcd's; `None`, and a line that says so, where `KELSON_TEST_ETCD` is not set.
    ///
    /// # Panics
    /// Where it is set and etcd does not start: a comparison that was asked for must not pass unseen.
    pub fn start(flags: &[&str]) -> Option<Self> {
        let Some(binary) = std::env::var_os("KELSON_TEST_ETCD") else {
            eprintln!("skipped: set KELSON_TEST_ETCD to an etcd binary to compare with it");
            return None;
        };
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let data = std::env::temp_dir().join(format!("kelson-real-etcd-{}-{number}", std::process::id()));
        let [client, peer] = free_ports();
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let process = Command::new(binary)
            .args(["--name", "real", "--log-level", "error", "--data-dir"])
            .arg(&data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("real={peer}")])
            .args(flags)
            .stdout(Stdio::null())
            .spawn()
            .expect("KELSON_TEST_ETCD names a program");
        let started = Self { process, data, endpoint: client };
        started.wait();
        Some(started)
    }

    /// Where it serves clients, as a URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns when it has told its version, its cluster's and its storage's. It serves before it has: for a moment its
    /// status names the storage of an older release.
    fn wait(&self) {
        let deadline = Instant::now() + START;
        while !self.versions().is_ok_and(|told| is_settled(&told)) {
            assert!(Instant::now() < deadline, "etcd did not start within {START:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `/version` answers.
    fn versions(&self) -> std::io::Result<String> {
        let address = self.endpoint.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(START))?;
        write!(stream, "GET /version HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the process is a test's.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

/// Ports that nobody has at this moment.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a bound address").port())
}

/// Whether cluster and storage are of one version in an answer of `/version`. etcd settles on the cluster's first.
fn is_settled(answer: &str) -> bool {
    let told = |name: &str| {
        let (_, rest) = answer.split_once(&format!("\"{name}\":\""))?;
        rest.split_once('"').map(|(version, _)| version.to_owned())
    };
    told("etcdcluster").is_some_and(|cluster| Some(cluster) == told("storage"))
}

#[test]
fn a_new_etcd_has_settled_when_its_storage_is_its_clusters() {
    let told = |cluster, storage| {
        format!(
            "HTTP/1.1 200 OK\r\n\r\n{{\"etcdserver\":\"3.7.3\",\"etcdcluster\":\"{cluster}\",\"storage\":\"{storage}\"}}"
        )
    };
    assert!(is_settled(&told("3.7.0", "3.7.0")));
    assert!(!is_settled(&told("3.7.0", "3.5.0")) && !is_settled(&told("not_decided", "3.7.0")) && !is_settled(""));
}
