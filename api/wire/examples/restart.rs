//! Kelson and etcd side by side: memory with many keys, and how soon they serve after a restart.
//!
//! `cargo run --release -p kelson-wire --example restart -- target/release/kelson /path/to/etcd [keys [bytes]]`
//!
//! Each is started on an empty directory, filled through gRPC with the same keys (1,000,000 of 256 bytes unless told
//! otherwise), ended with SIGTERM, started again and asked for keys until it answers. The last line has the ratios.

use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::{PutRequest, RangeRequest};
use tonic::transport::Channel;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CONNECTIONS: usize = 4;
const CONCURRENT: usize = 512;
/// Longest that a start or an end may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pause between two questions to a server that starts.
const PAUSE: Duration = Duration::from_millis(5);

struct Figures {
    filled_mib: f64,
    served: Duration,
    restarted_mib: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(kelson), Some(etcd)) = (args.next(), args.next()) else {
        return Err("usage: restart <kelson> <etcd> [keys [bytes]]".into());
    };
    let keys: usize = args.next().map_or(Ok(1_000_000), |arg| arg.parse())?;
    let bytes: usize = args.next().map_or(Ok(256), |arg| arg.parse())?;
    println!("{keys} keys, values of {bytes} bytes");
    println!("          fill s   RSS MiB   restart: first read s   RSS MiB");
    let theirs = measure("etcd", Path::new(&etcd), &[], keys, bytes).await?;
    let ours = measure("kelson", Path::new(&kelson), &["store"], keys, bytes).await?;
    println!(
        "kelson / etcd: RSS filled {:.2}, RSS restarted {:.2}, first read {:.2}",
        ours.filled_mib / theirs.filled_mib,
        ours.restarted_mib / theirs.restarted_mib,
        ours.served.as_secs_f64() / theirs.served.as_secs_f64(),
    );
    Ok(())
}

async fn measure(name: &'static str, binary: &Path, first: &[&str], keys: usize, bytes: usize) -> Result<Figures> {
    let dir = tempfile::tempdir()?;
    let [client, peer] = [free_port()?, free_port()?].map(|port| format!("http://127.0.0.1:{port}"));
    let start = || -> Result<Server> {
        let mut command = Command::new(binary);
        command.args(first).args(["--name", "bench", "--quota-backend-bytes", "8589934592", "--log-level", "error"]);
        command.arg("--data-dir").arg(dir.path());
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.arg("--initial-cluster").arg(format!("bench={peer}"));
        Ok(Server(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    };
    let mut server = start()?;
    served(&mut server, &client, None).await?;
    let begin = Instant::now();
    fill(&client, keys, bytes).await?;
    let fill = begin.elapsed().as_secs_f64();
    let filled_mib = server.rss_mib()?;
    server.end()?;

    let begin = Instant::now();
    let mut server = start()?;
    served(&mut server, &client, Some(key(keys - 1))).await?;
    let served = begin.elapsed();
    let restarted_mib = server.rss_mib()?;
    server.end()?;
    println!("{name:<8} {fill:>7.1} {filled_mib:>9.0} {:>23.2} {restarted_mib:>9.0}", served.as_secs_f64());
    Ok(Figures { filled_mib, served, restarted_mib })
}

fn key(number: usize) -> String {
    format!("/registry/things/default/thing-{number:08}")
}

async fn fill(url: &str, keys: usize, bytes: usize) -> Result<()> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(KvClient::new(Channel::from_shared(url.to_owned())?.connect().await?));
    }
    let puts = stream::iter(0..keys).map(|number| {
        let mut client = connections[number % CONNECTIONS].clone();
        // Values that do not compress, as encrypted secrets would not, and that differ from each other.
        let value: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|at| scatter((number * 4096 + at) as u64)).collect();
        let request = PutRequest { key: key(number).into(), value: value.into(), ..PutRequest::default() };
        async move { client.put(request).await }
    });
    puts.buffer_unordered(CONCURRENT).try_for_each(|_| std::future::ready(Ok(()))).await?;
    Ok(())
}

/// The finaliser of SplitMix64.
fn scatter(number: u64) -> [u8; 8] {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31).to_le_bytes()
}

/// Returns when a linearizable read is answered; a wanted key must be there.
async fn served(server: &mut Server, url: &str, wanted: Option<String>) -> Result<()> {
    let begin = Instant::now();
    let request = RangeRequest { key: wanted.clone().unwrap_or("x".into()).into(), ..RangeRequest::default() };
    while begin.elapsed() < PATIENCE {
        if let Ok(channel) = Channel::from_shared(url.to_owned())?.connect().await
            && let Ok(answer) = KvClient::new(channel).range(request.clone()).await
        {
            return match wanted.is_some() && answer.into_inner().count != 1 {
                true => Err("a key is gone after the restart".into()),
                false => Ok(()),
            };
        }
        if let Some(status) = server.0.try_wait()? {
            return Err(format!("it ended with {status} instead of serving").into());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err("it does not serve".into())
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Killed where an error leaves it behind.
struct Server(Child);

impl Server {
    fn rss_mib(&self) -> Result<f64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.0.id()))?;
        let pages: f64 = statm.split_whitespace().nth(1).ok_or("no RSS")?.parse()?;
        Ok(pages * 4.0 / 1024.0)
    }

    fn end(mut self) -> Result<()> {
        Command::new("kill").arg(self.0.id().to_string()).status()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already unless something went wrong before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
