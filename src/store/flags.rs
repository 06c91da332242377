//! Every flag of etcd 3.7 as one table: name, what it takes, default, and what it does here. Help, parsing, environment,
//! configuration file and documentation all read it.

use super::value::Kind;

/// What a flag does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// What it does in etcd.
    Same,
    /// Taken, checked, and without effect: what it tunes does not exist here, or not with one member. Setting it to
    /// something else than its default is worth a warning.
    None,
    /// A flag of etcd's past, silently ignored there too.
    Past,
}

/// Where help lists a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Member,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Tracing,
    Features,
    Unsafe,
    /// Not listed.
    Hidden,
}

/// One flag.
#[derive(Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    /// As it would be written; empty where there is none.
    pub default: &'static str,
    pub meaning: Meaning,
    pub section: Section,
    /// One sentence for help and documentation.
    pub help: &'static str,
}

use Kind::{Bool, Duration, Features, Ignored, Int, List, ManyOf, OneOf, Origins, Set, Text, Uint, Uint32, Urls};
use Meaning::{None as Nothing, Past, Same};
use Section::{Auth, Clustering, Hidden, Logging, Member, Monitoring, Security, Tracing, Unsafe};

const V2: Kind = ManyOf(&["gone", "write-only", "write-only-drop-data", "write-only-skip-check"]);
const ROTATION: &str = r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;

const fn flag(
    section: Section,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    meaning: Meaning,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, meaning, section, help }
}

/// All flags, by section.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    flag(Member, "name", Text, "default", Same, "Name of this member, for people."),
    flag(Member, "data-dir", Text, "", Same, "Where log, state and generated certificates are kept; <name>.etcd when empty."),
    flag(Member, "wal-dir", Text, "", Same, "A directory for the log alone; inside of the data directory when empty."),
    flag(Member, "snapshot-count", Uint, "10000", Same, "Log entries after which the state is flushed and the log in front of it dropped. An entry holds many requests; unset, 50000 entries or 16 MiB."),
    flag(Member, "heartbeat-interval", Uint, "100", Same, "Milliseconds between a leader's heartbeats."),
    flag(Member, "election-timeout", Uint, "1000", Same, "Milliseconds without a heartbeat after which a member stands for election; also bounds lease times from below."),
    flag(Member, "initial-election-tick-advance", Bool, "true", Nothing, "Shortens the first election; a member that is alone elects itself at once."),
    flag(Member, "listen-peer-urls", Urls, "http://localhost:2380", Same, "URLs to listen on for other members."),
    flag(Member, "listen-client-urls", Urls, "http://localhost:2379", Same, "URLs to listen on for clients: gRPC, and HTTP unless listen-client-http-urls is set."),
    flag(Member, "listen-client-http-urls", Urls, "", Same, "URLs to listen on for HTTP alone; listen-client-urls then serve gRPC alone."),
    flag(Member, "max-snapshots", Uint, "5", Nothing, "Snapshot files to keep; there are none."),
    flag(Member, "max-wals", Uint, "5", Nothing, "Log files to keep; the log is cut where the state is flushed."),
    flag(Member, "memory-mlock", Bool, "false", Nothing, "Keeps bbolt's pages in memory; there is no bbolt."),
    flag(Member, "quota-backend-bytes", Int, "0", Same, "Most bytes of the state: beyond them the NOSPACE alarm is raised and writes are refused. 0 means 2 GiB, a negative number no bound."),
    flag(Member, "backend-bbolt-freelist-type", Text, "map", Nothing, "How bbolt keeps its free pages; there is no bbolt."),
    flag(Member, "backend-batch-interval", Duration, "0s", Nothing, "How long bbolt collects writes; every log entry is one batch here."),
    flag(Member, "backend-batch-limit", Int, "0", Nothing, "How many writes bbolt collects; every log entry is one batch here."),
    flag(Member, "max-txn-ops", Uint, "128", Same, "Most operations in one list of a transaction."),
    flag(Member, "max-request-bytes", Uint, "1572864", Same, "Most bytes of one request."),
    flag(Member, "max-concurrent-streams", Uint32, "4294967295", Same, "Most requests and streams open at a time on one connection. Unset, 16384."),
    flag(Member, "grpc-keepalive-min-time", Duration, "5s", Nothing, "How often a client may ping; pings cost nothing worth refusing here."),
    flag(Member, "grpc-keepalive-interval", Duration, "2h0m0s", Same, "A client that says nothing for so long is asked whether it lives; 0 never asks."),
    flag(Member, "grpc-keepalive-timeout", Duration, "20s", Same, "A client that does not answer for so long is cut off; 0 never asks."),
    flag(Member, "socket-reuse-port", Bool, "false", Same, "Sets SO_REUSEPORT on listeners."),
    flag(Member, "socket-reuse-address", Bool, "false", Nothing, "Sets SO_REUSEADDR on listeners, which is always done."),
    flag(Member, "enable-grpc-gateway", Bool, "true", Same, "Serves the JSON gateway under /v3/."),
    flag(Member, "raft-read-timeout", Duration, "5s", Nothing, "Bound on a read from another member."),
    flag(Member, "raft-write-timeout", Duration, "5s", Nothing, "Bound on a write to another member."),
    flag(Member, "feature-gates", Features, "", Same, "Features by name, as NAME=true or NAME=false, separated by commas. Names are checked; none changes anything here."),

    flag(Clustering, "initial-advertise-peer-urls", Urls, "http://localhost:2380", Same, "URLs by which other members reach this one."),
    flag(Clustering, "initial-cluster", Text, "default=http://localhost:2380", Same, "All members of a new cluster, as NAME=URL separated by commas; this member alone."),
    flag(Clustering, "initial-cluster-state", OneOf(&["new", "existing"]), "new", Same, "Whether a missing data directory begins a cluster or joins one; without meaning once it is there."),
    flag(Clustering, "initial-cluster-token", Text, "etcd-cluster", Same, "Sets clusters apart: it is part of the members' ids."),
    flag(Clustering, "advertise-client-urls", Urls, "http://localhost:2379", Same, "URLs by which clients are told to reach this member."),
    flag(Clustering, "discovery", Text, "", Nothing, "Discovery of the second kind, which is gone."),
    flag(Clustering, "discovery-token", Text, "", Nothing, "Token of the cluster that a discovery service assembles."),
    flag(Clustering, "discovery-endpoints", Set, "", Nothing, "Endpoints of a discovery service; members are named by --initial-cluster."),
    flag(Clustering, "discovery-dial-timeout", Duration, "2s", Nothing, "Discovery service: bound on connecting."),
    flag(Clustering, "discovery-request-timeout", Duration, "5s", Nothing, "Discovery service: bound on a request."),
    flag(Clustering, "discovery-keepalive-time", Duration, "2s", Nothing, "Discovery service: time between pings."),
    flag(Clustering, "discovery-keepalive-timeout", Duration, "6s", Nothing, "Discovery service: bound on the answer to a ping."),
    flag(Clustering, "discovery-insecure-transport", Bool, "true", Nothing, "Discovery service: speak without TLS."),
    flag(Clustering, "discovery-insecure-skip-tls-verify", Bool, "false", Nothing, "Discovery service: trust any certificate."),
    flag(Clustering, "discovery-cert", Text, "", Nothing, "Discovery service: client certificate."),
    flag(Clustering, "discovery-key", Text, "", Nothing, "Discovery service: key of that certificate."),
    flag(Clustering, "discovery-cacert", Text, "", Nothing, "Discovery service: its authority."),
    flag(Clustering, "discovery-user", Text, "", Nothing, "Discovery service: user."),
    flag(Clustering, "discovery-password", Text, "", Nothing, "Discovery service: password."),
    flag(Clustering, "discovery-fallback", OneOf(&["exit", "proxy"]), "exit", Nothing, "What to do when discovery fails; there is only exit."),
    flag(Clustering, "discovery-proxy", Text, "", Nothing, "Proxy for discovery of the second kind, which is gone."),
    flag(Clustering, "discovery-srv", Text, "", Nothing, "DNS domain that names the members; they are named by --initial-cluster."),
    flag(Clustering, "discovery-srv-name", Text, "", Nothing, "Suffix of the DNS service name."),
    flag(Clustering, "strict-reconfig-check", Bool, "true", Same, "Refuses membership changes that could lose the quorum."),
    flag(Clustering, "pre-vote", Bool, "true", Nothing, "Asks before an election; always on."),
    flag(Clustering, "auto-compaction-retention", Text, "0", Same, "History to keep: a duration (hours without a unit) or a number of revisions; 0 keeps all."),
    flag(Clustering, "auto-compaction-mode", Text, "periodic", Same, "Whether the retention is a time (periodic) or a number of revisions (revision)."),
    flag(Clustering, "v2-deprecation", V2, "write-only", Nothing, "Phase of the second store's removal; there is none."),

    flag(Security, "cert-file", Text, "", Same, "Certificate for clients, PEM; read again when it changes."),
    flag(Security, "key-file", Text, "", Same, "Key of that certificate, PEM."),
    flag(Security, "client-cert-auth", Bool, "false", Same, "Clients must show a certificate."),
    flag(Security, "client-cert-file", Text, "", Nothing, "Certificate that etcd's own gateway shows to itself; ours needs none."),
    flag(Security, "client-key-file", Text, "", Nothing, "Key of that certificate."),
    flag(Security, "client-crl-file", Text, "", Same, "Revocation list, DER or PEM: certificates on it are refused."),
    flag(Security, "client-cert-allowed-hostname", List, "", Same, "Host names or addresses, one of which a client's certificate must be for."),
    flag(Security, "trusted-ca-file", Text, "", Same, "Authority of the clients' certificates, PEM; where it is set clients must show one."),
    flag(Security, "auto-tls", Bool, "false", Same, "Generates a certificate for clients in fixtures/client of the data directory."),
    flag(Security, "peer-cert-file", Text, "", Same, "Certificate for other members, PEM."),
    flag(Security, "peer-key-file", Text, "", Same, "Key of that certificate, PEM."),
    flag(Security, "peer-client-cert-auth", Bool, "false", Same, "Other members must show a certificate."),
    flag(Security, "peer-client-cert-file", Text, "", Nothing, "Certificate to show to other members."),
    flag(Security, "peer-client-key-file", Text, "", Nothing, "Key of that certificate."),
    flag(Security, "peer-trusted-ca-file", Text, "", Same, "Authority of the other members' certificates, PEM."),
    flag(Security, "peer-cert-allowed-cn", List, "", Same, "Common names, one of which a member's certificate must have."),
    flag(Security, "peer-cert-allowed-hostname", List, "", Same, "Host names or addresses, one of which a member's certificate must be for."),
    flag(Security, "peer-auto-tls", Bool, "false", Same, "Generates a certificate for other members in fixtures/peer of the data directory."),
    flag(Security, "self-signed-cert-validity", Uint, "1", Same, "Years for which generated certificates are valid."),
    flag(Security, "peer-crl-file", Text, "", Same, "Revocation list for other members' certificates, DER or PEM."),
    flag(Security, "cipher-suites", List, "", Same, "Suites for TLS 1.2, by Go's names, separated by commas."),
    flag(Security, "cors", Origins, "*", Nothing, "Origins that browsers may call from."),
    flag(Security, "host-whitelist", Set, "*", Nothing, "Host names that HTTP requests may be for."),
    flag(Security, "tls-min-version", Text, "TLS1.2", Same, "Oldest version of TLS: TLS1.2 or TLS1.3."),
    flag(Security, "tls-max-version", Text, "", Same, "Newest version of TLS: TLS1.2 or TLS1.3; TLS1.3 when empty."),

    flag(Auth, "auth-token", Text, "simple", Same, "Kind of the tokens and its options: simple, or jwt,pub-key=FILE,priv-key=FILE,sign-method=METHOD,ttl=DURATION."),
    flag(Auth, "bcrypt-cost", Uint, "10", Same, "Cost of hashing a password, from 4 to 31."),
    flag(Auth, "auth-token-ttl", Uint, "300", Same, "Seconds for which an unused simple token lives."),

    flag(Monitoring, "enable-pprof", Bool, "false", Same, "Answers /debug/pprof by saying that there are no Go profiles."),
    flag(Monitoring, "metrics", Text, "basic", Nothing, "basic, or extensive with histograms of the gRPC calls, which are not taken."),
    flag(Monitoring, "listen-metrics-urls", Urls, "", Same, "URLs to listen on for metrics and health alone; https uses the clients' certificate."),

    flag(Logging, "logger", Text, "zap", Same, "The format's name: zap."),
    flag(Logging, "log-outputs", Set, "default", Same, "Where logs go: default or stderr, stdout, systemd/journal, or files, separated by commas."),
    flag(Logging, "log-level", Text, "info", Same, "Least level that is logged: debug, info, warn, error, dpanic, panic or fatal."),
    flag(Logging, "log-format", Text, "json", Same, "json or console."),
    flag(Logging, "enable-log-rotation", Bool, "false", Same, "Begins a new log file when the one file among log-outputs is full."),
    flag(Logging, "log-rotation-config-json", Text, ROTATION, Same, "When, in MB and days, and how many old files to keep."),
    flag(Logging, "warning-unary-request-duration", Duration, "300ms", Same, "Time after which a request is slow, and worth a warning."),

    flag(Tracing, "enable-distributed-tracing", Bool, "false", Nothing, "Sends traces to an OpenTelemetry collector; none are taken."),
    flag(Tracing, "distributed-tracing-address", Text, "localhost:4317", Nothing, "The collector."),
    flag(Tracing, "distributed-tracing-service-name", Text, "etcd", Nothing, "The service's name in traces."),
    flag(Tracing, "distributed-tracing-instance-id", Text, "", Nothing, "This member's name in traces."),
    flag(Tracing, "distributed-tracing-sampling-rate", Int, "0", Nothing, "Traces taken of a million."),

    flag(Section::Features, "corrupt-check-time", Duration, "0s", Nothing, "Time between comparisons of the members' states; there is nobody to compare with."),
    flag(Section::Features, "compact-hash-check-time", Duration, "1m0s", Nothing, "Time between comparisons of the members' compactions; there is nobody to compare with."),
    flag(Section::Features, "compaction-batch-limit", Int, "0", Nothing, "Revisions deleted at a time; a compaction never holds up requests here."),
    flag(Section::Features, "peer-skip-client-san-verification", Bool, "false", Nothing, "Does not compare a member's address with its certificate."),
    flag(Section::Features, "watch-progress-notify-interval", Duration, "0s", Same, "How often idle watches that ask for it hear where they are; 0 means 10 minutes."),
    flag(Section::Features, "warning-apply-duration", Duration, "100ms", Nothing, "Time after which applying a request is slow."),
    flag(Section::Features, "bootstrap-defrag-threshold-megabytes", Uint, "0", Nothing, "Defragments at the start what would free so much; the state needs no such pause."),
    flag(Section::Features, "max-learners", Int, "1", Nothing, "Most learners in the cluster."),
    flag(Section::Features, "compaction-sleep-interval", Duration, "0s", Nothing, "Pause between two batches of a compaction."),
    flag(Section::Features, "downgrade-check-time", Duration, "5s", Nothing, "Time between looks at a downgrade."),
    flag(Section::Features, "snapshot-catchup-entries", Uint, "5000", Nothing, "Log entries kept for slow members."),

    flag(Unsafe, "force-new-cluster", Bool, "false", Same, "Makes this member the whole cluster, whoever were members before."),
    flag(Unsafe, "unsafe-no-fsync", Bool, "false", Same, "Does not wait for the disk: a power cut loses acknowledged writes."),

    flag(Hidden, "config-file", Text, "", Same, "Configuration file; where it is given, other flags and the environment are ignored."),
    flag(Hidden, "version", Bool, "false", Same, "Prints the version."),
    flag(Hidden, "cluster-active-size", Ignored, "", Past, ""),
    flag(Hidden, "cluster-remove-delay", Ignored, "", Past, ""),
    flag(Hidden, "cluster-sync-interval", Ignored, "", Past, ""),
    flag(Hidden, "config", Ignored, "", Past, ""),
    flag(Hidden, "force", Ignored, "", Past, ""),
    flag(Hidden, "max-result-buffer", Ignored, "", Past, ""),
    flag(Hidden, "max-retry-attempts", Ignored, "", Past, ""),
    flag(Hidden, "peer-heartbeat-interval", Ignored, "", Past, ""),
    flag(Hidden, "peer-election-timeout", Ignored, "", Past, ""),
    flag(Hidden, "retry-interval", Ignored, "", Past, ""),
    flag(Hidden, "snapshot", Ignored, "", Past, ""),
    flag(Hidden, "v", Ignored, "", Past, ""),
    flag(Hidden, "vv", Ignored, "", Past, ""),
    flag(Hidden, "test.coverprofile", Ignored, "", Past, ""),
    flag(Hidden, "test.outputdir", Ignored, "", Past, ""),
];

/// The flag of a name.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The environment variable of a flag: `ETCD_` and its name in capitals.
pub fn variable(name: &str) -> String {
    format!("ETCD_{}", name.to_uppercase().replace('-', "_"))
}

/// Flags whose values are nobody's business and never logged.
pub fn is_secret(name: &str) -> bool {
    matches!(name, "discovery-password" | "discovery-user")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::value::Value;

    #[test]
    fn names_are_unique_and_defaults_can_be_read() {
        let mut names: Vec<_> = FLAGS.iter().map(|flag| flag.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FLAGS.len());
        for flag in FLAGS.iter().filter(|flag| !flag.default.is_empty()) {
            assert!(flag.kind.parse(flag.default).is_ok_and(|value| value != Value::Unchanged), "{}", flag.name);
        }
    }

    #[test]
    fn variables_are_etcds() {
        assert_eq!(variable("listen-client-urls"), "ETCD_LISTEN_CLIENT_URLS");
    }
}
