//! `kelson snapshot` and `kelson migrate`: a store's whole content into a file, out of one, and from one store to another.

mod file;
mod migrate;
mod restore;
mod save;
mod spool;
mod status;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use kelson_wire::pb::etcdserverpb::StatusResponse;
use kelson_wire::remote::{ClientTls, RemoteOptions, Transfer};

use crate::cli::Output;

pub use migrate::run as migrate;

/// `kelson snapshot`.
#[derive(Subcommand)]
pub enum Snapshot {
    /// Fetch a snapshot from any etcd v3 endpoint into a file.
    Save(Save),
    /// What a snapshot holds: hash, revision, keys, size, version.
    Status(Status),
    /// Make a data directory from a snapshot, of this store or of an etcd.
    Restore(Restore),
}

/// How to reach a store, and as whom.
#[derive(Args)]
pub struct Door {
    /// CA of the endpoint's certificates.
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Client certificate.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Key of that certificate.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// User, as NAME or NAME:PASSWORD.
    #[arg(long, value_name = "NAME[:PASSWORD]")]
    pub user: Option<String>,
    /// The user's password, where --user does not hold it.
    #[arg(long, env = "ETCDCTL_PASSWORD", hide_env_values = true, requires = "user")]
    pub password: Option<String>,
}

#[derive(Args)]
pub struct Save {
    /// Where to write the snapshot.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The endpoint to ask: a snapshot is one member's.
    #[arg(long, default_value = "http://127.0.0.1:2379", value_name = "URL")]
    pub endpoints: String,
    #[command(flatten)]
    pub door: Door,
}

#[derive(Args)]
pub struct Status {
    /// A snapshot, or an etcd's backend file (`member/snap/db`) that nobody is using.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// The member that a data directory is made for.
#[derive(Args)]
pub struct Target {
    /// Where to make the data directory; must be missing or empty [default: NAME.etcd].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Name of the member.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// The cluster's members, as NAME=URL,NAME=URL: each makes its data directory from the same snapshot
    /// [default: NAME=the peer URLs].
    #[arg(long, value_name = "NAME=URL,...")]
    pub initial_cluster: Option<String>,
    /// The cluster's token: with another one the same URLs make another cluster.
    #[arg(long, default_value = "etcd-cluster", value_name = "TOKEN")]
    pub initial_cluster_token: String,
    /// The member's peer URLs.
    #[arg(long, default_value = "http://localhost:2380", value_name = "URL", value_delimiter = ',')]
    pub initial_advertise_peer_urls: Vec<String>,
}

#[derive(Args)]
pub struct Restore {
    /// The snapshot.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub target: Target,
    /// Take the file without a checksum, as a copy of an etcd's `member/snap/db` has none.
    #[arg(long)]
    pub skip_hash_check: bool,
    /// Begin so many revisions later than the snapshot: no client that has seen newer ones meets them again.
    #[arg(long, default_value_t = 0, value_name = "N", requires = "mark_compacted")]
    pub bump_revision: u64,
    /// Make all history before the revision after the bump unreadable, so that watches notice.
    #[arg(long, requires = "bump_revision")]
    pub mark_compacted: bool,
}

#[derive(Args)]
pub struct Migrate {
    /// The etcd to move from: one or more endpoints, of which the first that answers is asked.
    #[arg(long, required = true, value_name = "URL", value_delimiter = ',')]
    pub from: Vec<String>,
    #[command(flatten)]
    pub door: Door,
    #[command(flatten)]
    pub target: Target,
}

/// Runs one subcommand of `kelson snapshot`.
pub async fn run(command: Snapshot) -> Result<()> {
    match command {
        Snapshot::Save(options) => save::run(options).await,
        Snapshot::Status(options) => blocking(move || status::run(&options)).await,
        Snapshot::Restore(options) => blocking(move || restore::run(&options)).await,
    }
}

/// Runs what reads and writes files for long on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Connects to the first endpoint that answers; `flag` is named where none does.
async fn connect(endpoints: &[String], door: &Door, flag: &str) -> Result<(Transfer, StatusResponse)> {
    let read = |file: &Path, flag: &str| {
        std::fs::read(file).with_context(|| format!("cannot read {} (change it with {flag})", file.display()))
    };
    let mut options = RemoteOptions::new(endpoints.iter().map(|url| match url.contains("://") {
        true => url.clone(),
        // As etcdctl takes them.
        false => format!("http://{url}"),
    }));
    if let Some(ca) = &door.cacert {
        let identity = match (&door.cert, &door.key) {
            (Some(certificate), Some(key)) => Some((read(certificate, "--cert")?, read(key, "--key")?)),
            _ => None,
        };
        options.tls = Some(ClientTls { ca: read(ca, "--cacert")?, identity, server_name: None });
    } else if options.endpoints.iter().any(|url| url.starts_with("https://")) {
        anyhow::bail!("{flag} has https:// URLs: name the authority of their certificates with --cacert");
    }
    let (name, password) = match (door.user.as_deref(), door.password.as_deref()) {
        (Some(user), None) => match user.split_once(':') {
            Some((name, password)) => (name, password),
            None => anyhow::bail!("--user {user}: the password is missing; add it behind a colon, or with --password"),
        },
        (user, password) => (user.unwrap_or_default(), password.unwrap_or_default()),
    };
    let credentials = (!name.is_empty()).then_some((name, password));
    Transfer::connect(&options, credentials).await.with_context(|| format!("cannot use the store at {flag}"))
}
