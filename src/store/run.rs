//! From settings to a running member, and back down in order.

use std::sync::Arc;
use std::time::Duration;

use kelson_etcd::{Listener, PeerDial, ServerOptions, Serves, TokenKind};
use kelson_raft::{Data, Dial, Node};
use serde_json::Value as Json;

use super::cluster;
use super::directory::{self, Found};
use super::log;
use super::settings::Settings;
use super::signals::{Asked, Signals};
use super::tls::{self, Side};
use super::url::Url;
use super::{notify, sockets, validate};
use crate::tasks::Tasks;

/// File descriptors that are not for clients.
const RESERVED_FILES: usize = 150;
/// How often idle watches hear where they are, where nothing is said.
const PROGRESS: Duration = Duration::from_secs(600);

/// Runs a member until a signal asks for its end, which is returned when everything is closed.
///
/// # Errors
/// The text of what could not be started, or failed later.
pub async fn run(mut settings: Settings) -> Result<Asked, String> {
    loop {
        // Whoever was too far behind has another member's state now, and starts from that as after any restart.
        if let Some(asked) = once(&mut settings).await? {
            return Ok(asked);
        }
        log::info("restarting from the state that another member has sent", &[]);
    }
}

/// How a member's run ended.
enum End {
    Asked(Asked),
    /// Another member's state has come, to start from.
    Replaced,
    Failed(String),
}

/// One run; `None` when it has to begin again.
async fn once(settings: &mut Settings) -> Result<Option<Asked>, String> {
    let found = directory::prepare(settings)?;
    tell_directory(settings, found);
    let doors = doors(settings)?;
    let options = options(settings)?;
    let config = config(settings, found).await?;
    // What it does is done once.
    settings.force_new_cluster = false;
    tell_start(settings, found);
    let node = Node::open(config).await.map_err(|error| error.to_string())?;
    let mut signals = Signals::listen().map_err(|error| error.to_string())?;
    let addresses: Vec<_> = doors.iter().map(Door::address).collect();
    let mut tasks = Tasks::default();
    let listeners = doors.into_iter().map(|door| door.listener).collect();
    tasks.start("server", kelson_etcd::serve_all(node.clone(), listeners, options, tasks.token()));
    let (joining, stopped) = (node.clone(), node.clone());
    let failed = |error: kelson_raft::Error| match error {
        kelson_raft::Error::Replaced => End::Replaced,
        error => End::Failed(error.to_string()),
    };
    let running = async {
        // Others are served from the first moment; a cluster of several needs most of them before it is ready.
        if let Err(error) = joining.joined().await {
            return failed(error);
        }
        tell_serving(settings, &joining, &addresses);
        tell_ready();
        stopped.stopped().await.map_or_else(failed, |()| End::Failed("the node has stopped".into()))
    };
    let ended = tokio::select! {
        ended = running => ended,
        asked = signals.next() => End::Asked(asked),
        failure = tasks.failed() => End::Failed(format!("{failure:#}")),
    };
    if let End::Asked(asked) = &ended {
        log::info("received signal; shutting down", &[("signal", asked.name().into())]);
    }
    let closing = close(settings, &node, tasks);
    let closed = tokio::select! {
        closed = closing => closed,
        // A second signal does not wait for anything.
        asked = signals.next() => super::signals::end(asked),
    };
    match ended {
        End::Asked(asked) => closed.map(|()| Some(asked)),
        End::Replaced => Ok(None),
        End::Failed(why) => Err(why),
    }
}

async fn close(settings: &Settings, node: &Node, tasks: Tasks) -> Result<(), String> {
    let fields = [
        ("name", Json::from(settings.name.as_str())),
        ("data-dir", settings.data_dir.as_str().into()),
        ("advertise-peer-urls", texts(&settings.advertise_peer_urls)),
        ("advertise-client-urls", texts(settings.advertise_client_urls.as_deref().unwrap_or_default())),
    ];
    log::info("closing etcd server", &fields);
    let served = tasks.stop().await.map_err(|error| format!("{error:#}"));
    let closed = node.shutdown().await.map_err(|error| error.to_string());
    log::info("closed etcd server", &fields);
    served.and(closed)
}

/// A listener and what to say of it.
struct Door {
    listener: Listener,
    address: String,
}

/// What is told of a listener when it serves.
struct Address {
    serves: Serves,
    is_secure: bool,
    address: String,
}

impl Door {
    fn address(&self) -> Address {
        let Listener { serves, tls, .. } = &self.listener;
        Address { serves: *serves, is_secure: tls.is_some(), address: self.address.clone() }
    }
}

/// Binds every URL. Peers come first, as in etcd, so that what is reported of several mistakes is the same.
fn doors(settings: &mut Settings) -> Result<Vec<Door>, String> {
    tls::generate(settings, Side::Peer)?;
    tls::generate(settings, Side::Client)?;
    let settings = &*settings;
    let options = sockets::Options { reuse_port: settings.reuse_port };
    let split = !settings.listen_client_http_urls.is_empty();
    let clients = if split { Serves::Grpc } else { Serves::Everything };
    let taken = settings.listen_client_urls.iter().map(Url::address).collect::<Vec<_>>();
    if let Some(url) = settings.listen_client_http_urls.iter().find(|url| taken.contains(&url.address())) {
        return Err(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
        ));
    }
    let mut doors = Vec::new();
    for (urls, side, serves) in [
        (&settings.listen_peer_urls, Side::Peer, Serves::Peers),
        (&settings.listen_client_urls, Side::Client, clients),
        (&settings.listen_client_http_urls, Side::Client, Serves::Http),
        (&settings.listen_metrics_urls, Side::Client, Serves::Metrics),
    ] {
        check_tls(settings, urls, side, serves)?;
        tell_urls(urls, serves);
        let tls = if urls.iter().any(Url::is_secure) { tls::source(settings, side)? } else { None };
        for url in urls {
            let (socket, address) = sockets::listen(url, options)?;
            let tls = tls.clone().filter(|_| url.is_secure());
            doors.push(Door { listener: Listener { socket, serves, tls }, address });
        }
    }
    Ok(doors)
}

/// A URL with TLS needs a certificate; a certificate without such a URL is worth a word.
fn check_tls(settings: &Settings, urls: &[Url], side: Side, serves: Serves) -> Result<(), String> {
    let (tls, name, flag) = match side {
        Side::Client => (&settings.client_tls, "client-url", "--client-cert-auth"),
        Side::Peer => (&settings.peer_tls, "peer-url", "--peer-client-cert-auth"),
    };
    for url in urls {
        if url.is_secure() && tls.is_empty() {
            return Err(match (serves, side) {
                (Serves::Metrics, _) => {
                    "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url".into()
                }
                (_, Side::Client) => format!(
                    "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
                ),
                (_, Side::Peer) => {
                    format!("cannot listen on TLS for {}: KeyFile and CertFile are not presented", url.address())
                }
            });
        }
        if !url.is_secure() && serves != Serves::Metrics {
            let what = if side == Side::Peer { "HTTP" } else { "http or unix" };
            let fields = [(name, Json::from(url.to_string()))];
            if !tls.is_empty() {
                let end = "while key and cert files are present; ignoring key and cert files";
                log::warn(&format!("scheme is {what} {end}"), &fields);
            }
            if tls.client_cert_auth {
                let end = format!("while {flag} is enabled; ignoring client cert auth for this URL");
                log::warn(&format!("scheme is {what} {end}"), &fields);
            }
        }
    }
    Ok(())
}

async fn config(settings: &Settings, found: Found) -> Result<kelson_raft::Config, String> {
    let data = Data::Dir(settings.data_path());
    let mut config = kelson_raft::Config::new(&settings.name, data);
    let dial = PeerDial::new(tls::dialing(settings)).map_err(|error| error.to_string())?;
    let dial: Arc<dyn Dial> = Arc::new(dial);
    // A member that is there already has its ids and peer URLs, and what is said of the cluster is not looked at.
    if found == Found::Empty {
        let founded = match settings.initial_cluster_state.as_str() {
            "new" => cluster::found(settings)?,
            _ => cluster::join(settings, &*dial).await?,
        };
        config.joins = founded.members.is_empty();
        config.founders = founded.members;
        (config.node_id, config.cluster_id) = (founded.member_id, founded.cluster_id);
        config.peer_urls = founded.peer_urls.iter().map(ToString::to_string).collect();
        let fields = [
            ("local-member-id", Json::from(format!("{:x}", founded.member_id))),
            ("cluster-id", format!("{:x}", founded.cluster_id).into()),
        ];
        log::info("starting local member", &fields);
    } else {
        config.peer_urls = settings.advertise_peer_urls.iter().map(ToString::to_string).collect();
    }
    config.dial = Some(dial);
    config.force_new_cluster = settings.force_new_cluster;
    config.strict_reconfig = settings.strict_reconfig;
    if settings.force_new_cluster && found == Found::Member {
        log::warn("discarding the other members: this one is its whole cluster from here on", &[]);
    }
    let advertised = settings.advertise_client_urls.iter().flatten();
    config.client_urls = advertised.map(ToString::to_string).collect();
    config.keep_ids = true;
    config.fsync = !settings.unsafe_no_fsync;
    config.log_dir =
        Some(settings.wal_dir.clone().into()).filter(|path: &std::path::PathBuf| !path.as_os_str().is_empty());
    if settings.is_set("snapshot-count") {
        // As in etcd, 0 is the default.
        config.snapshot_entries = if settings.snapshot_count == 0 { 10_000 } else { settings.snapshot_count };
    }
    config.heartbeat = Duration::from_millis(settings.heartbeat_ms);
    config.election = Duration::from_millis(settings.election_ms);
    config.request_timeout = Duration::from_secs(5) + 2 * config.election;
    Ok(config)
}

fn options(settings: &Settings) -> Result<ServerOptions, String> {
    let most = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let mut options = ServerOptions {
        max_request_bytes: most(settings.max_request_bytes),
        max_txn_ops: most(settings.max_txn_ops),
        progress_notify_interval: Some(settings.progress_notify.std())
            .filter(|every| !every.is_zero())
            .unwrap_or(PROGRESS),
        quota_bytes: settings.quota_backend_bytes,
        auto_compaction: validate::retention(&settings.compaction_mode, &settings.compaction_retention)?,
        min_lease_ttl: min_lease_ttl(settings),
        slow_request: settings.slow_request.std(),
        gateway: settings.gateway,
        pprof: settings.enable_pprof,
        shutdown_grace: Duration::from_secs(5),
        ..ServerOptions::default()
    };
    if settings.is_set("max-concurrent-streams") {
        options.max_streams_per_connection = settings.max_concurrent_streams;
    }
    options.auth.token = TokenKind::parse(&settings.auth_token).map_err(|error| error.to_string())?;
    options.auth.token_ttl = Duration::from_secs(settings.auth_token_ttl);
    options.auth.bcrypt_cost = u32::try_from(settings.bcrypt_cost).unwrap_or(u32::MAX);
    options.auth.client_cert_auth = settings.client_tls.client_cert_auth;
    let (every, timeout) = (settings.keepalive_interval.std(), settings.keepalive_timeout.std());
    options.keep_alive = Some(every).filter(|every| !every.is_zero() && !timeout.is_zero());
    options.keep_alive_timeout = timeout;
    if let Some(files) = file_limit() {
        options.max_connections = files.saturating_sub(RESERVED_FILES).clamp(1, 1 << 20);
    }
    Ok(options)
}

/// Shortest time of a lease in seconds: one and a half election timeouts, rounded up.
fn min_lease_ttl(settings: &Settings) -> i64 {
    let heartbeat = settings.heartbeat_ms.max(1);
    let ticks = settings.election_ms / heartbeat;
    let millis = (3 * ticks / 2).saturating_mul(heartbeat);
    i64::try_from(millis.div_ceil(1_000)).unwrap_or(i64::MAX)
}

/// How many files this process may have open; `None` where there is no bound or it cannot be read.
fn file_limit() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn texts(urls: &[Url]) -> Json {
    urls.iter().map(ToString::to_string).collect::<Vec<_>>().into()
}

fn tell_directory(settings: &Settings, found: Found) {
    let (message, kind) = match found {
        Found::Empty => ("Initialize and start etcd server", "empty"),
        Found::Member => ("server has already been initialized", "member"),
    };
    log::info(message, &[("data-dir", settings.data_dir.as_str().into()), ("dir-type", kind.into())]);
}

fn tell_urls(urls: &[Url], serves: Serves) {
    match serves {
        Serves::Peers => log::info("configuring peer listeners", &[("listen-peer-urls", texts(urls))]),
        Serves::Everything | Serves::Grpc => {
            log::info("configuring client listeners", &[("listen-client-urls", texts(urls))]);
        }
        Serves::Http | Serves::Metrics => {}
    }
}

fn tell_start(settings: &Settings, found: Found) {
    let text = |text: &str| Json::from(text);
    let retention = &settings.compaction_retention;
    let quota = if settings.quota_backend_bytes == 0 { 2 << 30 } else { settings.quota_backend_bytes };
    log::info(
        "starting an etcd server",
        &[
            ("etcd-version", text(kelson_etcd::ETCD_VERSION)),
            ("kelson-version", text(env!("CARGO_PKG_VERSION"))),
            ("member-initialized", (found == Found::Member).into()),
            ("name", text(&settings.name)),
            ("data-dir", text(&settings.data_dir)),
            ("wal-dir", text(&settings.wal_dir)),
            ("force-new-cluster", settings.force_new_cluster.into()),
            (
                "heartbeat-interval",
                super::duration::Nanos::millis(settings.heartbeat_ms.cast_signed()).to_string().into(),
            ),
            ("election-timeout", super::duration::Nanos::millis(settings.election_ms.cast_signed()).to_string().into()),
            ("snapshot-count", settings.snapshot_count.into()),
            ("initial-advertise-peer-urls", texts(&settings.advertise_peer_urls)),
            ("listen-peer-urls", texts(&settings.listen_peer_urls)),
            ("advertise-client-urls", texts(settings.advertise_client_urls.as_deref().unwrap_or_default())),
            ("listen-client-urls", texts(&settings.listen_client_urls)),
            ("listen-metrics-urls", texts(&settings.listen_metrics_urls)),
            ("initial-cluster", text(&settings.initial_cluster)),
            ("initial-cluster-state", text(&settings.initial_cluster_state)),
            ("initial-cluster-token", text(&settings.initial_cluster_token)),
            ("quota-backend-bytes", quota.into()),
            ("max-request-bytes", settings.max_request_bytes.into()),
            ("max-concurrent-streams", settings.max_concurrent_streams.into()),
            ("feature-gates", settings.features.to_string().into()),
            ("auto-compaction-mode", text(&settings.compaction_mode)),
            ("auto-compaction-retention", text(retention)),
        ],
    );
}

fn tell_serving(settings: &Settings, node: &Node, doors: &[Address]) {
    let status = node.status();
    for (side, tls) in [("peer", &settings.peer_tls), ("client", &settings.client_tls)] {
        if !tls.is_empty() {
            let fields =
                [("tls-info", Json::from(tls.summary())), ("cipher-suites", settings.cipher_suites.clone().into())];
            log::info(&format!("starting with {side} TLS"), &fields);
        }
    }
    log::info(
        "now serving peer/client/metrics",
        &[
            ("local-member-id", format!("{:x}", status.member_id).into()),
            ("initial-advertise-peer-urls", texts(&settings.advertise_peer_urls)),
            ("listen-peer-urls", texts(&settings.listen_peer_urls)),
            ("advertise-client-urls", texts(settings.advertise_client_urls.as_deref().unwrap_or_default())),
            ("listen-client-urls", texts(&settings.listen_client_urls)),
            ("listen-metrics-urls", texts(&settings.listen_metrics_urls)),
        ],
    );
    log::info("ready to serve client requests", &[]);
    for door in doors {
        let address = ("address", Json::from(door.address.as_str()));
        let traffic = match door.serves {
            Serves::Peers => {
                log::info("serving peer traffic", &[address]);
                continue;
            }
            Serves::Metrics => {
                log::info("serving metrics", &[address]);
                continue;
            }
            Serves::Everything => "grpc+http",
            Serves::Grpc => "grpc",
            Serves::Http => "http",
        };
        let traffic = ("traffic", Json::from(traffic));
        if door.is_secure {
            log::info("serving client traffic securely", &[traffic, address]);
        } else {
            log::info("serving client traffic insecurely; this is strongly discouraged!", &[traffic, address]);
        }
    }
}

/// Tells the service manager.
fn tell_ready() {
    log::info("notifying init daemon", &[]);
    match notify::ready() {
        Ok(_) => log::info("successfully notified init daemon", &[]),
        Err(error) => {
            let fields = [("error", Json::from(sockets::plain(&error)))];
            log::log(log::Level::Error, "failed to notify systemd for readiness", &fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::duration::Nanos;

    #[tokio::test]
    async fn settings_reach_the_server_and_the_node() {
        let mut settings = Settings::default();
        let defaults = options(&settings).unwrap();
        assert_eq!((defaults.min_lease_ttl, defaults.progress_notify_interval), (2, PROGRESS));
        assert_eq!(defaults.keep_alive, Some(Duration::from_secs(7_200)));
        settings.keepalive_timeout = Nanos(0);
        settings.election_ms = 10_000;
        settings.progress_notify = Nanos(5_000_000_000);
        settings.compaction_retention = "1h".into();
        let changed = options(&settings).unwrap();
        assert_eq!((changed.min_lease_ttl, changed.keep_alive), (15, None));
        assert_eq!(changed.progress_notify_interval, Duration::from_secs(5));
        assert_eq!(changed.auto_compaction, kelson_etcd::AutoCompaction::Periodic(Duration::from_secs(3_600)));
        settings.unsafe_no_fsync = true;
        settings.wal_dir = "/wal".into();
        let config = config(&settings, Found::Empty).await.unwrap();
        assert!(!config.fsync && config.keep_ids);
        assert_eq!(config.log_dir.as_deref(), Some(std::path::Path::new("/wal")));
        assert_eq!((config.node_id, config.request_timeout), (0x8e9e_05c5_2164_694d, Duration::from_secs(25)));
        assert_eq!(config.peer_urls, ["http://localhost:2380"]);
    }

    #[test]
    fn the_number_of_files_is_read() {
        assert!(file_limit().is_none_or(|files| files > 0));
    }
}
