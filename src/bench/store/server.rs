//! The processes under measurement.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use kelson_benches::{Fleet, Method, frame, source};
use kelson_wire::pb::etcdserverpb::{RangeRequest, RangeResponse, StatusRequest, StatusResponse};
use tempfile::TempDir;

use crate::process::{Usage, usage};

/// Pause between two looks at a server that starts or ends.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest wait for one answer of a server that is not under load.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest that a server may take to end.
const END: Duration = Duration::from_secs(60);
/// Space quota of both, in bytes: above what the largest workload writes.
const QUOTA: &str = "17179869184";

/// A program that serves etcd's API, or one that somebody else has started.
#[derive(Clone, Debug)]
pub struct Side {
    /// What the report calls it.
    pub name: String,
    /// As it says itself.
    pub version: String,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// A program and the words before its flags.
    Program(PathBuf, &'static [&'static str]),
    /// `http://HOST:PORT`.
    Endpoint(String),
}

impl Side {
    /// `kelson` or `etcd`, whichever the program says that it is.
    ///
    /// # Errors
    /// If it cannot be run, or is neither.
    pub fn program(path: &Path) -> Result<Side> {
        let output = Command::new(path).arg("--version").stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("running {} --version", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().next().unwrap_or_default().trim();
        let (name, words, version): (_, &[_], _) = match line.split_once(' ') {
            Some(("kelson", version)) => ("kelson", &["store"], version),
            Some(("etcd", version)) => ("etcd", &[], version.trim_start_matches("Version:").trim()),
            _ => bail!("{} is neither an etcd nor a kelson: --version says {line:?}", path.display()),
        };
        Ok(Side { name: name.into(), version: version.into(), place: Place::Program(path.into(), words) })
    }

    /// One that runs already.
    pub fn endpoint(url: &str) -> Side {
        Side { name: "endpoint".into(), version: url.into(), place: Place::Endpoint(url.into()) }
    }

    /// The same with so short a log that a member which lacks a million requests is sent a whole state, as an etcd does by
    /// itself: it keeps 5,000 requests. An entry of ours holds many, of 256 clients some fifty.
    pub fn with_short_log(&self) -> Side {
        let mut side = self.clone();
        if let Place::Program(_, words @ ["store"]) = &mut side.place {
            *words = &["store", "--snapshot-count=200"];
        }
        side
    }

    /// Whether its process is ours to start, look at and end.
    pub fn is_program(&self) -> bool {
        matches!(self.place, Place::Program(..))
    }

    /// Starts it with so many members, each on an empty directory under `folder`, and waits until they answer linearizable
    /// reads.
    ///
    /// # Errors
    /// If one ends instead, or does not answer within `limit`.
    pub fn start(&self, members: usize, folder: &Path, limit: Duration) -> Result<Server> {
        let mut server = Server { side: self.clone(), members: Vec::new(), leader: 0 };
        if let Place::Endpoint(url) = &self.place {
            server.members.push(Member { url: url.clone(), peer: String::new(), running: None });
        } else {
            for _ in 0..members {
                let [url, peer] = [free_port()?, free_port()?].map(|port| format!("http://127.0.0.1:{port}"));
                server.members.push(Member { url, peer, running: None });
            }
            for at in 0..members {
                let data = tempfile::Builder::new().prefix("kelson-bench-").tempdir_in(folder);
                let data = data.with_context(|| format!("a directory in {}; see --dir", folder.display()))?;
                server.spawn(at, data)?;
            }
        }
        server.wait(limit)?;
        Ok(server)
    }
}

/// A port of the loopback that nobody listens on now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A running server of one member or several. Killed, and its data removed, when dropped.
pub struct Server {
    side: Side,
    members: Vec<Member>,
    /// Place of the member that leads.
    leader: usize,
}

struct Member {
    url: String,
    peer: String,
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// Ended in order, and not started again yet.
    ended: bool,
    /// Removed with this; taken out where the next process goes on with it.
    data: Option<TempDir>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless something went wrong before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Where clients go: to the member that leads, which is the fastest for either side.
    pub fn url(&self) -> &str {
        &self.members[self.leader].url
    }

    /// CPU, memory and disk so far of all members together; `None` for an endpoint.
    ///
    /// # Errors
    /// If one has ended.
    pub fn usage(&self) -> Result<Option<Usage>> {
        let running = self.members.iter().filter_map(|member| member.running.as_ref());
        let running = running.filter(|running| !running.ended);
        let usages: Vec<Usage> = running.map(|running| usage(running.child.id())).collect::<Result<_>>()?;
        Ok(usages.into_iter().reduce(|one, other| Usage {
            cpu_seconds: one.cpu_seconds + other.cpu_seconds,
            rss_bytes: one.rss_bytes + other.rss_bytes,
            written_bytes: one.written_bytes + other.written_bytes,
        }))
    }

    /// Whole states that the leader has sent to other members, by its metrics; `None` where it does not tell.
    pub fn states_sent(&self) -> Option<f64> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let page = runtime.block_on(async {
            let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
            let answer = client.get(format!("{}/metrics", self.url()).parse().ok()?).await.ok()?;
            Some(answer.into_body().collect().await.ok()?.to_bytes())
        })?;
        let page = String::from_utf8_lossy(&page);
        let counts = page.lines().filter(|line| line.starts_with("etcd_network_snapshot_send_success{"));
        Some(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    fn spawn(&mut self, at: usize, data: TempDir) -> Result<()> {
        let Place::Program(program, words) = &self.side.place else { bail!("an endpoint is not ours to start") };
        let Member { url, peer, .. } = &self.members[at];
        let mut command = Command::new(program);
        command.args(*words).args(["--log-level", "error", "--quota-backend-bytes", QUOTA]);
        command.arg("--name").arg(name(at)).arg("--data-dir").arg(data.path().join("data"));
        command.args(["--listen-client-urls", url, "--advertise-client-urls", url]);
        command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
        let all = self.members.iter().enumerate().map(|(at, member)| format!("{}={}", name(at), member.peer));
        command.arg("--initial-cluster").arg(all.collect::<Vec<_>>().join(","));
        // What it would read from the environment is not in the comparison.
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(variable);
        }
        let log = std::fs::File::create(data.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        self.members[at].running = Some(Running { child, ended: false, data: Some(data) });
        Ok(())
    }

    /// Starts it again on the data that it has, after [`Server::end`], and waits until it answers a linearizable read.
    ///
    /// # Errors
    /// If it ends instead, or does not answer within `limit`.
    pub fn start_again(&mut self, limit: Duration) -> Result<()> {
        for at in 0..self.members.len() {
            let data = self.members[at].running.take().and_then(|mut running| running.data.take());
            self.spawn(at, data.context("an endpoint is not ours to start")?)?;
        }
        self.wait(limit)
    }

    /// Waits until every member answers a linearizable read, and finds out who leads.
    fn wait(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        for at in 0..self.members.len() {
            let (_, leads) = self.wait_for(at, end)?;
            self.leader = if leads { at } else { self.leader };
        }
        Ok(())
    }

    /// Waits until a member answers a linearizable read; returns the revision that it reads, and whether it leads.
    fn wait_for(&mut self, at: usize, end: Instant) -> Result<(i64, bool)> {
        loop {
            let asked = Fleet::connect(&self.members[at].url, 1, 1, ANSWER)
                .and_then(|fleet| Ok((revision(&fleet)?, leads(&fleet)?)));
            let error = match asked {
                Ok(answer) => return Ok(answer),
                Err(error @ kelson_benches::Error::Url(_)) => return Err(error).context("--endpoint"),
                Err(error) => error,
            };
            self.check("instead of serving")?;
            if Instant::now() >= end {
                bail!("{} does not serve in time (see --deadline): {error}", self.side.name);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends a member that does not lead; returns its place.
    ///
    /// # Errors
    /// As [`Server::end`].
    pub fn end_follower(&mut self) -> Result<usize> {
        let at = (0..self.members.len()).find(|at| *at != self.leader).context("there is no other member")?;
        self.check("under load")?;
        let Self { side, members, .. } = self;
        let running = members[at].running.as_mut().context("an endpoint is not ours to end")?;
        running.ask_to_end()?;
        running.wait_for_end(side, Instant::now() + END)?;
        Ok(at)
    }

    /// Starts an ended member again, and returns how long it took until it read what had been written before.
    ///
    /// # Errors
    /// If it ends instead, or does not read that within `limit`.
    pub fn start_follower(&mut self, at: usize, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        let (written, _) = self.wait_for(self.leader, began + limit)?;
        let data = self.members[at].running.take().and_then(|mut running| running.data.take());
        self.spawn(at, data.context("an endpoint is not ours to start")?)?;
        while self.wait_for(at, began + limit)?.0 < written {
            std::thread::sleep(PAUSE);
        }
        Ok(began.elapsed())
    }

    /// Fails where a member has ended.
    fn check(&mut self, what: &str) -> Result<()> {
        let running = self.members.iter_mut().filter_map(|member| member.running.as_mut());
        for running in running.filter(|running| !running.ended) {
            if let Some(status) = running.child.try_wait()? {
                bail!("{} ended with {status} {what}: {}", self.side.name, running.last_words());
            }
        }
        Ok(())
    }

    /// Ends it as its operator would; its data stays until it is dropped.
    ///
    /// # Errors
    /// If it does not end, or had ended by itself.
    pub fn end(&mut self) -> Result<()> {
        self.check("under load")?;
        for running in self.members.iter().filter_map(|member| member.running.as_ref()) {
            running.ask_to_end()?;
        }
        let limit = Instant::now() + END;
        let Self { side, members, .. } = self;
        for running in members.iter_mut().filter_map(|member| member.running.as_mut()) {
            running.wait_for_end(side, limit)?;
        }
        Ok(())
    }
}

impl Running {
    fn ask_to_end(&self) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: kill(2) has no memory effects, and the child has not been waited for, so the id is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        Ok(())
    }

    fn wait_for_end(&mut self, side: &Side, limit: Instant) -> Result<()> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() >= limit {
                bail!("{} does not end {} s after SIGTERM", side.name, END.as_secs());
            }
            std::thread::sleep(PAUSE);
        };
        if !status.success() && status.signal() != Some(libc::SIGTERM) {
            bail!("{} ended with {status}: {}", side.name, self.last_words());
        }
        self.ended = true;
        Ok(())
    }

    /// The last line that it logged.
    fn last_words(&self) -> String {
        let data = self.data.as_ref();
        let log = data.and_then(|data| std::fs::read(data.path().join("log")).ok()).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().last().unwrap_or("it said nothing").to_owned()
    }
}

fn name(at: usize) -> String {
    format!("bench{at}")
}

/// Whether the member that is asked leads.
fn leads(fleet: &Fleet) -> Result<bool, kelson_benches::Error> {
    let answer: StatusResponse = source::decode(fleet.call(Method::Status, frame(&StatusRequest {}), ANSWER)?)?;
    Ok(answer.header.is_some_and(|header| header.member_id == answer.leader))
}

/// The store's revision, by a linearizable read.
///
/// # Errors
/// If it is not answered.
pub fn revision(fleet: &Fleet) -> Result<i64, kelson_benches::Error> {
    let request = RangeRequest { key: Bytes::from_static(b"\0"), count_only: true, ..RangeRequest::default() };
    let answer: RangeResponse = source::decode(fleet.call(Method::Range, frame(&request), ANSWER)?)?;
    answer
        .header
        .map(|header| header.revision)
        .ok_or_else(|| kelson_benches::Error::Answer("a range was answered without a header".into()))
}
