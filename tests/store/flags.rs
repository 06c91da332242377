//! Flags, environment and configuration file, by what a real etcd does with the same ones.

use std::path::Path;
use std::process::Stdio;

use super::member::{Member, command, link};
use crate::cluster::peer;
use crate::poll;

/// A start that ends by itself: arguments, variables, a configuration file, and how it ends.
struct Wrong {
    arguments: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
    file: Option<&'static str>,
    status: i32,
    says: &'static str,
}

const fn wrong(arguments: &'static [&'static str], status: i32, says: &'static str) -> Wrong {
    Wrong { arguments, variables: &[], file: None, status, says }
}

const fn from_file(file: &'static str, says: &'static str) -> Wrong {
    Wrong { arguments: &[], variables: &[], file: Some(file), status: 1, says }
}

/// Both programs end with this status and say this, each in the form that it has for it.
#[rustfmt::skip]
const WRONG: &[Wrong] = &[
    wrong(&["--nonsense"], 2, "flag provided but not defined: -nonsense"),
    wrong(&["--experimental-initial-corrupt-check"], 2, "flag provided but not defined: -experimental-initial-corrupt-check"),
    wrong(&["--name"], 2, "flag needs an argument: -name"),
    wrong(&["---name"], 2, "bad flag syntax: ---name"),
    wrong(&["serve"], 1, r#""error":"\"serve\" is not a valid flag""#),
    wrong(&["--heartbeat-interval", "abc"], 2, r#"invalid value "abc" for flag -heartbeat-interval: parse error"#),
    wrong(&["--snapshot-count=-2"], 2, r#"invalid value "-2" for flag -snapshot-count: parse error"#),
    wrong(&["--client-cert-auth=maybe"], 2, r#"invalid boolean value "maybe" for -client-cert-auth: parse error"#),
    wrong(&["--grpc-keepalive-interval", "5"], 2, r#"invalid value "5" for flag -grpc-keepalive-interval: parse error"#),
    wrong(&["--initial-cluster-state", "old"], 2, r#"invalid value "old" for flag -initial-cluster-state: invalid value"#),
    wrong(&["--max-concurrent-streams", "99999999999"], 2, "strconv.ParseUint: parsing \"99999999999\": value out of range"),
    wrong(&["--feature-gates", "Foo=true"], 2, "unrecognized feature gate: Foo"),
    wrong(&["--feature-gates", "AllAlpha"], 2, "missing bool value for AllAlpha"),
    wrong(&["--feature-gates", "LeaseCheckpointPersist=true"], 1, "requires enabling feature gate LeaseCheckpoint"),
    wrong(&["--listen-client-urls", "ftp://127.0.0.1:1"], 2, "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1"),
    wrong(&["--listen-client-urls", "127.0.0.1:1"], 2, "first path segment in URL cannot contain colon"),
    wrong(&["--listen-client-urls", "http://127.0.0.1"], 2, r#"URL address does not have the form "host:port": http://127.0.0.1"#),
    wrong(&["--listen-client-urls", "http://127.0.0.1:1/x"], 2, "URL must not contain a path: http://127.0.0.1:1/x"),
    wrong(&["--listen-client-urls", "http://127.0.0.1:abc"], 2, r#"invalid port ":abc" after host"#),
    wrong(&["--listen-client-urls", "http://127.0.0.1:1"], 1, "--advertise-client-urls is required when --listen-client-urls is set explicitly"),
    wrong(&["--listen-peer-urls", "http://example.com:1"], 1, "expected IP in URL for binding (http://example.com:1)"),
    wrong(&["--listen-metrics-urls", "http://example.com:1"], 1, "expected IP in URL for binding (http://example.com:1)"),
    wrong(&["--initial-advertise-peer-urls", "http://:1"], 1, "(unexpected empty host (http://:1))"),
    wrong(&["--election-timeout", "499"], 1, "--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]"),
    wrong(&["--election-timeout", "50001"], 1, "--election-timeout[50001ms] is too long, and should be set less than 50000ms"),
    wrong(&["--heartbeat-interval", "0"], 1, "--heartbeat-interval must be >0 (set to 0ms)"),
    wrong(&["--auto-compaction-mode", "never"], 1, r#"unknown auto-compaction-mode \"never\""#),
    wrong(&["--tls-min-version", "TLS1.1"], 1, r#"unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"#),
    wrong(&["--tls-min-version", "TLS1.3", "--tls-max-version", "TLS1.2"], 1, "min version (TLS1.3) is greater than max version (TLS1.2)"),
    wrong(&["--tls-min-version", "TLS1.3", "--cipher-suites", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], 1, "cipher suites cannot be configured when only TLS1.3 is enabled"),
    wrong(&["--logger", "other"], 1, r#"unknown logger option \"other\""#),
    wrong(&["--log-format", "xml"], 1, "unknown log format: xml, supported values json, console"),
    wrong(&["--log-outputs", "default,stderr"], 1, r#"multi logoutput for \"default\" is not supported yet"#),
    wrong(&["--enable-log-rotation"], 1, "--log-outputs requires a single file path when --log-rotate-config-json is defined"),
    wrong(&["--discovery-token", "x"], 1, "both --discovery-token and --discovery-endpoints must be set"),
    wrong(&["--initial-cluster", "default=http://localhost:2380", "--discovery-srv", "x.invalid"], 1, "multiple discovery or bootstrap flags are set"),
    wrong(&["--compact-hash-check-time", "0s"], 1, "--compact-hash-check-time must be >0 (set to 0s)"),
    wrong(&["--listen-client-urls", "https://127.0.0.1:0", "--advertise-client-urls", "https://127.0.0.1:1"], 1,
        "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:0 with HTTPS scheme"),
    wrong(&["--listen-client-urls", "http://127.0.0.1:99999", "--advertise-client-urls", "http://127.0.0.1:1"], 1, "listen tcp: address 99999: invalid port"),
    wrong(&["--listen-client-urls", "http://127.0.0.1:2", "--listen-client-http-urls", "http://127.0.0.1:2", "--advertise-client-urls", "http://127.0.0.1:2"], 1,
        "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://127.0.0.1:2"),
    wrong(&["--initial-cluster", "other=http://localhost:2380"], 1, r#"couldn't find local name \"default\" in the initial cluster configuration"#),
    wrong(&["--initial-cluster", "default=http://127.0.0.9:2"], 1, "--initial-cluster has default=http://127.0.0.9:2 but missing from --initial-advertise-peer-urls=http://localhost:2380"),
    wrong(&["--initial-cluster", "default=http://127.0.0.1:2,b=http://127.0.0.1:2", "--initial-advertise-peer-urls", "http://127.0.0.1:2"], 1,
        "initial cluster b=http://127.0.0.1:2,default=http://127.0.0.1:2 has duplicate url"),
    wrong(&["--initial-cluster-state", "existing"], 1, "cannot fetch cluster info from peer urls"),
    wrong(&["--initial-cluster", "default"], 1, "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: "),
    wrong(&["--auto-compaction-retention", "abc"], 1, r#"error parsing CompactionRetention: time: invalid duration \"abc\""#),
    wrong(&["--auto-compaction-retention=-5"], 1, r#"error parsing CompactionRetention: time: missing unit in duration \"-5\""#),
    wrong(&["--data-dir", "/proc/nowhere"], 1, "cannot access data directory: mkdir /proc/nowhere: no such file or directory"),
    wrong(&["--auto-tls", "--self-signed-cert-validity", "0"], 1, "selfSignedCertValidity is invalid,it should be greater than 0"),
    wrong(&["--config-file", "nowhere.yaml"], 1, "open nowhere.yaml: no such file or directory"),
    Wrong { variables: &[("ETCD_NAME", "b")], ..wrong(&["--name", "a"], 1, "conflicting environment variable is shadowed by corresponding command-line flag") },
    Wrong { variables: &[("ETCD_SNAPSHOT_COUNT", "x")], ..wrong(&[], 1, r#"invalid value \"x\" for ETCD_SNAPSHOT_COUNT: parse error"#) },
    Wrong { variables: &[("ETCD_CONFIG_FILE", "nowhere.yaml")], ..wrong(&[], 1, "open nowhere.yaml: no such file or directory") },
    from_file("name: [a]\n", "cannot unmarshal array into Go struct field configYAML.Config.name of type string"),
    from_file("heartbeat-interval: \"x\"\n", "cannot unmarshal string into Go struct field configYAML.Config.heartbeat-interval of type uint"),
    from_file("watch-progress-notify-interval: 10m\n", "cannot unmarshal string into Go struct field configYAML.Config.watch-progress-notify-interval of type time.Duration"),
    from_file("listen-client-urls: ftp://x\n", "unexpected error setting up listen-client-urls: URL scheme must be http, https, unix, or unixs: ftp://x"),
    from_file("feature-gates: Foo=true\n", "unrecognized feature gate: Foo"),
    from_file("initial-cluster-state: weird\n", r#"unexpected clusterState \"weird\""#),
    from_file("election-timeout: 499\n", "--election-timeout[499ms] should be at least as 5 times"),
    from_file("a: b: c\n", "error converting YAML to JSON: yaml: "),
];

/// How a start ends; one that does not end within a while is killed.
fn ends(program: &Path, case: &Wrong) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Beside each other, and beside whoever has the usual ports.
    let mut arguments = case.arguments.to_vec();
    let has = |flag: &str| case.arguments.contains(&flag) || case.file.is_some();
    if case.status == 1 && case.arguments != ["serve"] {
        if !has("--listen-peer-urls") {
            arguments.extend(["--listen-peer-urls", "http://127.0.0.1:0"]);
        }
        if !has("--listen-client-urls") {
            arguments.extend(["--listen-client-urls", "http://127.0.0.1:0"]);
            arguments.extend(["--advertise-client-urls", "http://127.0.0.1:1"]);
        }
    }
    if let Some(content) = case.file {
        std::fs::write(folder.path().join("etcd.yaml"), content).expect("written");
        arguments.extend(["--config-file", "etcd.yaml"]);
    }
    let mut command = command(program, folder.path(), &arguments);
    command.envs(case.variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    poll::until(&format!("{arguments:?} ends"), 60, || child.try_wait().expect("wait").ok_or("still running"));
    let output = child.wait_with_output().expect("its output");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn wrong_settings_end_as_they_end_an_etcd() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ours = link(folder.path());
    let real = peer("KELSON_TEST_ETCD", "wrong settings on a real etcd");
    let mut differ = Vec::new();
    for case in WRONG {
        for program in std::iter::once(&ours).chain(&real) {
            let (status, said) = ends(program, case);
            if status != Some(case.status) || !said.contains(case.says) {
                let (arguments, file, variables) = (case.arguments, case.file, case.variables);
                differ.push(format!(
                    "{} {arguments:?} {variables:?} {file:?} ended with {status:?}, not {} and {:?}:\n{said}",
                    program.display(),
                    case.status,
                    case.says
                ));
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn version_and_help_are_for_tools_that_know_etcd() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ours = link(folder.path());
    let run = |arguments: &[&str]| command(&ours, folder.path(), arguments).output().expect("it runs");
    let version = run(&["--version"]);
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(version.status.success() && text.starts_with("etcd Version: 3.7.3\nGit SHA: "), "{text}");
    assert!(text.contains("\nKelson Version: "), "{text}");
    let help = run(&["--help"]);
    let text = String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).into_owned();
    assert!(help.status.success() && text.contains("--quota-backend-bytes '0'"), "{text}");
    let Some(real) = peer("KELSON_TEST_ETCD", "the flags of a real etcd") else { return };
    let real = command(&real, folder.path(), &["--help"]).output().expect("it runs");
    let listed = String::from_utf8_lossy(&[real.stdout, real.stderr].concat()).into_owned();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let flags = listed.lines().filter_map(|line| line.trim().strip_prefix("--")?.split(|c: char| !is_name(c)).next());
    let missing: Vec<_> = flags.filter(|flag| !text.contains(&format!("--{flag}"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_subcommand_takes_the_same_flags() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kelson = Path::new(crate::cluster::KELSON);
    let version = command(kelson, folder.path(), &["store", "--version"]).output().expect("it runs");
    assert!(version.stdout.starts_with(b"etcd Version: 3.7.3\n"));
    let wrong = command(kelson, folder.path(), &["store", "--nonsense"]).output().expect("it runs");
    assert_eq!(wrong.status.code(), Some(2));
    let early = command(kelson, folder.path(), &["--log", "debug", "store"]).output().expect("it runs");
    assert!(!early.status.success());
}

#[test]
fn environment_and_file_start_a_member() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ours = link(folder.path());
    let mut by_environment = command(&ours, folder.path(), &[]);
    by_environment.envs([
        ("ETCD_NAME", "by-environment"),
        ("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:0"),
        ("ETCD_ADVERTISE_CLIENT_URLS", "http://127.0.0.1:2379"),
        ("ETCD_LISTEN_PEER_URLS", "http://127.0.0.1:0"),
        ("ETCD_ROOT_PASSWORD", "hush-hush"),
        ("ETCD_MAX_WALS", "9"),
    ]);
    let mut program = crate::program::Program::start("etcd", &mut by_environment);
    program.wait_for(super::member::READY, crate::cluster::START);
    let said = program.output();
    assert!(
        said.contains("recognized and used environment variable") && said.contains("by-environment.etcd"),
        "{said}"
    );
    assert!(said.contains("ETCD_ROOT_PASSWORD") && !said.contains("hush-hush"), "{said}");
    assert!(said.contains(r#""msg":"these flags have no effect here","flags":["max-wals"]"#), "{said}");
    drop(program);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = "name: by-file\nlisten-client-urls: http://127.0.0.1:0\nlisten-peer-urls: http://127.0.0.1:0\nnews: 1\n";
    std::fs::write(folder.path().join("etcd.yaml"), file).expect("written");
    let member = Member::in_folder(folder, &["--config-file", "etcd.yaml", "--name", "ignored"]);
    let said = member.program.output();
    assert!(said.contains("by-file.etcd") && !said.contains("ignored.etcd"), "{said}");
    assert!(said.contains(r#""msg":"configuration file has unknown keys","keys":["news"]"#), "{said}");
}
