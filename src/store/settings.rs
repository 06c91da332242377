//! All settings of a member, from wherever they came, with etcd's defaults.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::duration::Nanos;
use super::features::Features;
use super::flags::{FLAGS, Flag, Meaning};
use super::url::Url;
use super::value::Value;

/// One side's TLS: the clients', or the other members'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub cert_file: String,
    pub key_file: String,
    pub client_cert_auth: bool,
    pub trusted_ca_file: String,
    pub crl_file: String,
    pub auto: bool,
    pub allowed_cn: Vec<String>,
    pub allowed_hostname: Vec<String>,
}

impl Tls {
    /// Whether there is no certificate.
    pub fn is_empty(&self) -> bool {
        self.cert_file.is_empty() && self.key_file.is_empty()
    }

    /// Without secrets, as the log shows it.
    pub fn summary(&self) -> String {
        format!(
            "cert = {}, key = {}, trusted-ca = {}, client-cert-auth = {}, crl-file = {}",
            self.cert_file, self.key_file, self.trusted_ca_file, self.client_cert_auth, self.crl_file
        )
    }
}

/// What a member is told. The names are those of the flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub name: String,
    pub data_dir: String,
    pub wal_dir: String,
    pub snapshot_count: u64,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub listen_peer_urls: Vec<Url>,
    pub listen_client_urls: Vec<Url>,
    pub listen_client_http_urls: Vec<Url>,
    pub listen_metrics_urls: Vec<Url>,
    pub quota_backend_bytes: i64,
    pub max_txn_ops: u64,
    pub max_request_bytes: u64,
    pub max_concurrent_streams: u32,
    pub keepalive_interval: Nanos,
    pub keepalive_timeout: Nanos,
    pub reuse_port: bool,
    pub gateway: bool,
    pub features: Features,
    pub advertise_peer_urls: Vec<Url>,
    /// `None` where clients were given URLs to come in by and none to be told of.
    pub advertise_client_urls: Option<Vec<Url>>,
    pub initial_cluster: String,
    pub initial_cluster_state: String,
    pub initial_cluster_token: String,
    pub discovery_token: String,
    pub discovery_endpoints: Vec<String>,
    pub discovery_srv: String,
    pub discovery_fallback: String,
    pub compaction_mode: String,
    pub compaction_retention: String,
    pub client_tls: Tls,
    pub peer_tls: Tls,
    pub self_signed_validity: u64,
    pub cipher_suites: Vec<String>,
    pub tls_min_version: String,
    pub tls_max_version: String,
    pub auth_token: String,
    pub bcrypt_cost: u64,
    pub auth_token_ttl: u64,
    pub enable_pprof: bool,
    pub logger: String,
    pub log_outputs: Vec<String>,
    pub log_level: String,
    pub log_format: String,
    pub log_rotation: bool,
    pub log_rotation_config: String,
    pub tracing: bool,
    pub tracing_rate: i64,
    pub compact_hash_check: Nanos,
    pub progress_notify: Nanos,
    pub slow_request: Nanos,
    pub force_new_cluster: bool,
    pub strict_reconfig: bool,
    pub unsafe_no_fsync: bool,
    pub config_file: String,
    /// Asked for the version.
    pub version: bool,
    /// Flags that were set at all, by the command line, the environment or the file.
    pub explicit: BTreeSet<&'static str>,
    /// Those of them that say something else than the default and have no effect here.
    pub without_effect: BTreeSet<&'static str>,
}

impl Default for Settings {
    /// The defaults of the table of flags.
    fn default() -> Self {
        let mut settings = Settings {
            name: String::new(),
            data_dir: String::new(),
            wal_dir: String::new(),
            snapshot_count: 0,
            heartbeat_ms: 0,
            election_ms: 0,
            listen_peer_urls: Vec::new(),
            listen_client_urls: Vec::new(),
            listen_client_http_urls: Vec::new(),
            listen_metrics_urls: Vec::new(),
            quota_backend_bytes: 0,
            max_txn_ops: 0,
            max_request_bytes: 0,
            max_concurrent_streams: 0,
            keepalive_interval: Nanos(0),
            keepalive_timeout: Nanos(0),
            reuse_port: false,
            gateway: false,
            features: Features::default(),
            advertise_peer_urls: Vec::new(),
            advertise_client_urls: None,
            initial_cluster: String::new(),
            initial_cluster_state: String::new(),
            initial_cluster_token: String::new(),
            discovery_token: String::new(),
            discovery_endpoints: Vec::new(),
            discovery_srv: String::new(),
            discovery_fallback: String::new(),
            compaction_mode: String::new(),
            compaction_retention: String::new(),
            client_tls: Tls::default(),
            peer_tls: Tls::default(),
            self_signed_validity: 0,
            cipher_suites: Vec::new(),
            tls_min_version: String::new(),
            tls_max_version: String::new(),
            auth_token: String::new(),
            bcrypt_cost: 0,
            auth_token_ttl: 0,
            enable_pprof: false,
            logger: String::new(),
            log_outputs: Vec::new(),
            log_level: String::new(),
            log_format: String::new(),
            log_rotation: false,
            log_rotation_config: String::new(),
            tracing: false,
            tracing_rate: 0,
            compact_hash_check: Nanos(0),
            progress_notify: Nanos(0),
            slow_request: Nanos(0),
            force_new_cluster: false,
            strict_reconfig: false,
            unsafe_no_fsync: false,
            config_file: String::new(),
            version: false,
            explicit: BTreeSet::new(),
            without_effect: BTreeSet::new(),
        };
        for flag in FLAGS.iter().filter(|flag| !flag.default.is_empty()) {
            if let Ok(value) = flag.kind.parse(flag.default) {
                settings.assign(flag.name, value);
            }
        }
        settings
    }
}

impl Settings {
    /// Takes what was given for a flag.
    pub fn set(&mut self, flag: &'static Flag, value: Value) {
        self.explicit.insert(flag.name);
        if flag.meaning == Meaning::None && flag.kind.parse(flag.default).as_ref() != Ok(&value) {
            self.without_effect.insert(flag.name);
        }
        self.assign(flag.name, value);
    }

    /// Whether a flag was set at all.
    pub fn is_set(&self, name: &str) -> bool {
        self.explicit.contains(name)
    }

    fn assign(&mut self, name: &str, value: Value) {
        match value {
            Value::Text(text) => self.assign_text(name, text),
            Value::Bool(on) => self.assign_switch(name, on),
            Value::Number(number) => self.assign_number(name, number),
            Value::Signed(number) => match name {
                "quota-backend-bytes" => self.quota_backend_bytes = number,
                "distributed-tracing-sampling-rate" => self.tracing_rate = number,
                _ => {}
            },
            Value::Duration(time) => match name {
                "grpc-keepalive-interval" => self.keepalive_interval = time,
                "grpc-keepalive-timeout" => self.keepalive_timeout = time,
                "compact-hash-check-time" => self.compact_hash_check = time,
                "warning-unary-request-duration" => self.slow_request = time,
                "watch-progress-notify-interval" => self.progress_notify = time,
                _ => {}
            },
            Value::Urls(urls) => match name {
                "listen-peer-urls" => self.listen_peer_urls = urls,
                "listen-client-urls" => self.listen_client_urls = urls,
                "listen-client-http-urls" => self.listen_client_http_urls = urls,
                "listen-metrics-urls" => self.listen_metrics_urls = urls,
                "initial-advertise-peer-urls" => self.advertise_peer_urls = urls,
                "advertise-client-urls" => self.advertise_client_urls = Some(urls),
                _ => {}
            },
            Value::List(list) => match name {
                "client-cert-allowed-hostname" => self.client_tls.allowed_hostname = list,
                "peer-cert-allowed-cn" => self.peer_tls.allowed_cn = list,
                "peer-cert-allowed-hostname" => self.peer_tls.allowed_hostname = list,
                "cipher-suites" => self.cipher_suites = list,
                "log-outputs" => self.log_outputs = list,
                "discovery-endpoints" => self.discovery_endpoints = list,
                _ => {}
            },
            Value::Features(features) => self.features = features,
            Value::Unchanged => {}
        }
    }

    fn assign_text(&mut self, name: &str, text: String) {
        let place = match name {
            "name" => &mut self.name,
            "data-dir" => &mut self.data_dir,
            "wal-dir" => &mut self.wal_dir,
            "initial-cluster" => &mut self.initial_cluster,
            "initial-cluster-state" => &mut self.initial_cluster_state,
            "initial-cluster-token" => &mut self.initial_cluster_token,
            "discovery-token" => &mut self.discovery_token,
            "discovery-srv" => &mut self.discovery_srv,
            "discovery-fallback" => &mut self.discovery_fallback,
            "auto-compaction-mode" => &mut self.compaction_mode,
            "auto-compaction-retention" => &mut self.compaction_retention,
            "cert-file" => &mut self.client_tls.cert_file,
            "key-file" => &mut self.client_tls.key_file,
            "client-crl-file" => &mut self.client_tls.crl_file,
            "trusted-ca-file" => &mut self.client_tls.trusted_ca_file,
            "peer-cert-file" => &mut self.peer_tls.cert_file,
            "peer-key-file" => &mut self.peer_tls.key_file,
            "peer-trusted-ca-file" => &mut self.peer_tls.trusted_ca_file,
            "peer-crl-file" => &mut self.peer_tls.crl_file,
            "tls-min-version" => &mut self.tls_min_version,
            "tls-max-version" => &mut self.tls_max_version,
            "auth-token" => &mut self.auth_token,
            "logger" => &mut self.logger,
            "log-level" => &mut self.log_level,
            "log-format" => &mut self.log_format,
            "log-rotation-config-json" => &mut self.log_rotation_config,
            "config-file" => &mut self.config_file,
            _ => return,
        };
        *place = text;
    }

    fn assign_switch(&mut self, name: &str, on: bool) {
        let place = match name {
            "socket-reuse-port" => &mut self.reuse_port,
            "enable-grpc-gateway" => &mut self.gateway,
            "client-cert-auth" => &mut self.client_tls.client_cert_auth,
            "auto-tls" => &mut self.client_tls.auto,
            "peer-client-cert-auth" => &mut self.peer_tls.client_cert_auth,
            "peer-auto-tls" => &mut self.peer_tls.auto,
            "enable-pprof" => &mut self.enable_pprof,
            "enable-log-rotation" => &mut self.log_rotation,
            "enable-distributed-tracing" => &mut self.tracing,
            "strict-reconfig-check" => &mut self.strict_reconfig,
            "force-new-cluster" => &mut self.force_new_cluster,
            "unsafe-no-fsync" => &mut self.unsafe_no_fsync,
            "version" => &mut self.version,
            _ => return,
        };
        *place = on;
    }

    fn assign_number(&mut self, name: &str, number: u64) {
        let place = match name {
            "snapshot-count" => &mut self.snapshot_count,
            "heartbeat-interval" => &mut self.heartbeat_ms,
            "election-timeout" => &mut self.election_ms,
            "max-txn-ops" => &mut self.max_txn_ops,
            "max-request-bytes" => &mut self.max_request_bytes,
            "self-signed-cert-validity" => &mut self.self_signed_validity,
            "bcrypt-cost" => &mut self.bcrypt_cost,
            "auth-token-ttl" => &mut self.auth_token_ttl,
            "max-concurrent-streams" => {
                self.max_concurrent_streams = u32::try_from(number).unwrap_or(u32::MAX);
                return;
            }
            _ => return,
        };
        *place = number;
    }

    /// The `initial-cluster` of this member alone (etcd's `InitialClusterFromName`).
    pub fn cluster_of_one(&self) -> String {
        let name = if self.name.is_empty() { "default" } else { &self.name };
        let pairs: Vec<_> = self.advertise_peer_urls.iter().map(|url| format!("{name}={url}")).collect();
        pairs.join(",")
    }

    /// The data directory as a path.
    pub fn data_path(&self) -> PathBuf {
        PathBuf::from(&self.data_dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::flags;
    use crate::store::value::Kind;

    /// A value that is not the default of a flag.
    fn other(flag: &Flag) -> Value {
        let text = match flag.kind {
            Kind::Bool if flag.default == "true" => "false",
            Kind::Bool => "true",
            Kind::Uint | Kind::Uint32 | Kind::Int => "12345",
            Kind::Duration => "77s",
            Kind::Urls => "http://127.0.0.1:17",
            Kind::OneOf(known) | Kind::ManyOf(known) => known[known.len() - 1],
            Kind::Features => "PriorityRequest=true",
            _ => "http://other:1",
        };
        flag.kind.parse(text).unwrap()
    }

    #[test]
    fn every_flag_with_a_meaning_changes_something() {
        for flag in FLAGS.iter().filter(|flag| flag.meaning == Meaning::Same) {
            let mut settings = Settings::default();
            settings.set(
                flag,
                if flag.name == "initial-cluster-state" { Value::Text("existing".into()) } else { other(flag) },
            );
            settings.explicit.clear();
            assert_ne!(settings, Settings::default(), "{}", flag.name);
        }
    }

    #[test]
    fn flags_without_effect_are_noted_unless_they_say_what_is_so_anyway() {
        let mut settings = Settings::default();
        for (name, text) in [("max-wals", "7"), ("pre-vote", "true"), ("name", "a"), ("force", "")] {
            let flag = flags::find(name).unwrap();
            settings.set(flag, flag.kind.parse(text).unwrap());
        }
        assert_eq!(settings.without_effect.iter().copied().collect::<Vec<_>>(), ["max-wals"]);
        assert!(settings.is_set("pre-vote") && !settings.is_set("data-dir"));
    }

    #[test]
    fn defaults_are_etcds() {
        let settings = Settings::default();
        assert_eq!(settings.cluster_of_one(), "default=http://localhost:2380");
        assert_eq!(settings.initial_cluster, settings.cluster_of_one());
        assert_eq!((settings.max_request_bytes, settings.heartbeat_ms), (3 << 19, 100));
        assert!(settings.gateway);
    }
}
