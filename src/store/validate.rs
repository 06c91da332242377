//! Whether settings make sense together, in etcd's order and etcd's words.

use kelson_etcd::AutoCompaction;

use super::duration::Nanos;
use super::settings::Settings;
use super::url::Url;

/// Longest election timeout, in milliseconds.
const MAX_ELECTION_MS: u64 = 50_000;

/// Checks the settings as etcd does before it starts.
///
/// # Errors
/// The text for `failed to verify flags`.
pub fn check(settings: &Settings) -> Result<(), String> {
    if settings.discovery_fallback == "proxy" {
        return Err("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"".into());
    }
    let binds = [
        &settings.listen_peer_urls,
        &settings.listen_client_urls,
        &settings.listen_client_http_urls,
        &settings.listen_metrics_urls,
    ];
    binds.into_iter().flatten().try_for_each(Url::check_bind)?;
    let all = |urls: &[Url]| urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let hosts = |urls: &[Url]| urls.iter().try_for_each(Url::check_host);
    hosts(&settings.advertise_peer_urls).map_err(|why| {
        format!("--initial-advertise-peer-urls {:?} must be \"host:port\" ({why})", all(&settings.advertise_peer_urls))
    })?;
    let advertised = settings.advertise_client_urls.as_deref().unwrap_or_default();
    hosts(advertised).map_err(|why| {
        format!(
            "--advertise-client-urls {:?} must be in the format \"host:port\", \"unix:/path/to/socket\" or \
             \"unixs:/path/to/socket\" ({why})",
            all(advertised)
        )
    })?;
    bootstrap(settings)?;
    times(settings)?;
    if settings.advertise_client_urls.is_none() {
        return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".into());
    }
    match settings.compaction_mode.as_str() {
        "revision" | "periodic" => {}
        "" => return Err("undefined auto-compaction-mode".into()),
        other => return Err(format!("unknown auto-compaction-mode {other:?}")),
    }
    if settings.tracing && settings.tracing_rate < 0 {
        return Err("distributed tracing configurition is not valid: (tracing sampling rate must be positive)".into());
    }
    if settings.features.enabled("LeaseCheckpointPersist") && !settings.features.enabled("LeaseCheckpoint") {
        return Err(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint".into()
        );
    }
    if settings.compact_hash_check <= Nanos(0) {
        return Err(format!("--compact-hash-check-time must be >0 (set to {})", settings.compact_hash_check));
    }
    versions(settings)
}

/// Only one way to find the cluster's members may be named.
fn bootstrap(settings: &Settings) -> Result<(), String> {
    let ways = [
        !settings.initial_cluster.is_empty(),
        !settings.discovery_srv.is_empty(),
        !settings.discovery_endpoints.is_empty(),
    ];
    if !matches!(settings.initial_cluster_state.as_str(), "new" | "existing") {
        return Err(format!("unexpected clusterState {:?}", settings.initial_cluster_state));
    }
    if ways.into_iter().filter(|set| *set).count() > 1 {
        return Err("multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
                    \"discovery-endpoints\" or \"discovery-srv\""
            .into());
    }
    if settings.discovery_token.is_empty() != settings.discovery_endpoints.is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".into());
    }
    if settings.discovery_endpoints.iter().any(|endpoint| endpoint.trim().is_empty()) {
        return Err("--discovery-endpoints must not contain empty endpoints".into());
    }
    Ok(())
}

fn times(settings: &Settings) -> Result<(), String> {
    let (heartbeat, election) = (settings.heartbeat_ms, settings.election_ms);
    if heartbeat == 0 {
        return Err(format!("--heartbeat-interval must be >0 (set to {heartbeat}ms)"));
    }
    if election == 0 {
        return Err(format!("--election-timeout must be >0 (set to {election}ms)"));
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > MAX_ELECTION_MS {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_MS}ms"
        ));
    }
    Ok(())
}

fn versions(settings: &Settings) -> Result<(), String> {
    let (min, max) = (&settings.tls_min_version, &settings.tls_max_version);
    for version in [min, max] {
        if !matches!(version.as_str(), "" | "TLS1.2" | "TLS1.3") {
            return Err(format!("unexpected TLS version {version:?} (must be one of: TLS1.2, TLS1.3)"));
        }
    }
    if !max.is_empty() && min > max {
        return Err(format!("min version ({min}) is greater than max version ({max})"));
    }
    if min == "TLS1.3" && !settings.cipher_suites.is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".into());
    }
    Ok(())
}

/// Reads `auto-compaction-retention` as its mode says.
///
/// # Errors
/// etcd's text.
pub fn retention(mode: &str, text: &str) -> Result<AutoCompaction, String> {
    let text = if text.is_empty() { "0" } else { text };
    let whole = text.strip_prefix('+').unwrap_or(text).parse::<i64>().ok().filter(|number| *number >= 0);
    let nanos = match whole {
        Some(number) if mode == "revision" => number,
        Some(hours) => hours.saturating_mul(3_600).saturating_mul(1_000_000_000),
        None => Nanos::parse(text).map_err(|why| format!("error parsing CompactionRetention: {why}"))?.0,
    };
    Ok(match (nanos, mode) {
        (..=0, _) => AutoCompaction::Off,
        (number, "revision") => AutoCompaction::Revision(number),
        (nanos, _) => AutoCompaction::Periodic(Nanos(nanos).std()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::flags;

    fn with(pairs: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        for (name, text) in pairs {
            let flag = flags::find(name).unwrap();
            settings.set(flag, flag.kind.parse(text).unwrap());
        }
        settings
    }

    #[test]
    fn defaults_are_fine_and_each_rule_speaks() {
        assert_eq!(check(&Settings::default()), Ok(()));
        for (pairs, error) in [
            (&[("heartbeat-interval", "300")][..], "should be at least as 5 times as --heartbeat-interval[300ms]"),
            (&[("election-timeout", "50001")], "--election-timeout[50001ms] is too long"),
            (&[("heartbeat-interval", "0")], "--heartbeat-interval must be >0 (set to 0ms)"),
            (&[("election-timeout", "0")], "--election-timeout must be >0 (set to 0ms)"),
            (&[("auto-compaction-mode", "x")], "unknown auto-compaction-mode \"x\""),
            (&[("auto-compaction-mode", "")], "undefined auto-compaction-mode"),
            (&[("tls-min-version", "TLS1.1")], "unexpected TLS version \"TLS1.1\""),
            (&[("tls-min-version", "TLS1.3"), ("tls-max-version", "TLS1.2")], "min version (TLS1.3) is greater"),
            (&[("tls-min-version", "TLS1.3"), ("cipher-suites", "X")], "cipher suites cannot be configured"),
            (&[("discovery-token", "x")], "both --discovery-token and --discovery-endpoints must be set"),
            (&[("discovery-srv", "x")], "multiple discovery or bootstrap flags are set"),
            (&[("listen-peer-urls", "http://x.example:1")], "expected IP in URL for binding (http://x.example:1)"),
            (&[("initial-advertise-peer-urls", "http://:1")], "--initial-advertise-peer-urls \"http://:1\" must be"),
            (&[("compact-hash-check-time", "0s")], "--compact-hash-check-time must be >0 (set to 0s)"),
            (&[("feature-gates", "LeaseCheckpointPersist=true")], "requires enabling feature gate LeaseCheckpoint"),
            (&[("discovery-fallback", "proxy")], "v2 proxy is deprecated"),
        ] {
            let refused = check(&with(pairs)).unwrap_err();
            assert!(refused.contains(error), "{pairs:?}: {refused}");
        }
        assert_eq!(check(&with(&[("election-timeout", "50000")])), Ok(()));
    }

    #[test]
    fn retentions_are_times_or_revisions() {
        use std::time::Duration;
        assert_eq!(retention("periodic", "0"), Ok(AutoCompaction::Off));
        assert_eq!(retention("periodic", "2"), Ok(AutoCompaction::Periodic(Duration::from_secs(7200))));
        assert_eq!(retention("periodic", "5m"), Ok(AutoCompaction::Periodic(Duration::from_secs(300))));
        assert_eq!(retention("revision", "1000"), Ok(AutoCompaction::Revision(1000)));
        // As etcd counts it: the nanoseconds of the duration.
        assert_eq!(retention("revision", "1us"), Ok(AutoCompaction::Revision(1000)));
        assert_eq!(retention("periodic", "-5m"), Ok(AutoCompaction::Off));
        let error = "error parsing CompactionRetention: time: invalid duration \"abc\"";
        assert_eq!(retention("periodic", "abc"), Err(error.into()));
    }
}
