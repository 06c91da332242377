//! `kelson bench store` from outside: what it reports is what happened.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cluster::KELSON;
use crate::program::Program;
use crate::server::{Kind, Server};

/// Longest run of the small sizes here on a busy machine, in seconds.
const RUN: u64 = 240;

/// Runs the comparison to its end and returns its status and standard output.
fn bench(arguments: &[&str]) -> (bool, String, String) {
    let output = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut command = Command::new("sh");
    // Its rows go to a file, so that they are not mixed with what it says meanwhile.
    command.args(["-c", "out=$1; shift; exec \"$@\" > \"$out\"", "sh"]).arg(output.path());
    command.arg(KELSON).args(["bench", "store", "--alternations", "1"]).args(arguments).stdin(Stdio::null());
    let mut program = Program::start("kelson bench store", &mut command);
    let status = program.ended(RUN);
    (status.success(), std::fs::read_to_string(output.path()).expect("its output"), program.output())
}

fn json(arguments: &[&str]) -> Value {
    let (success, output, said) = bench(&[arguments, &["-o", "json"]].concat());
    assert!(success, "{said}");
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}:\n{output}"))
}

fn figure(side: &Value, name: &str) -> f64 {
    side["median"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {side}"))
}

/// What must hold of any run that writes and is measured.
fn holds(side: &Value) {
    for name in ["operations", "seconds", "throughput", "cpu_us", "rss_mib", "p50_ms", "p99_ms", "p99_9_ms", "rate"] {
        assert!(figure(side, name) > 0.0, "{name} in {side}");
    }
    assert!(figure(side, "p50_ms") <= figure(side, "p99_ms") && figure(side, "p99_ms") <= figure(side, "p99_9_ms"));
    let throughput = figure(side, "operations") / figure(side, "seconds");
    assert!((figure(side, "throughput") / throughput - 1.0).abs() < 0.01, "{side}");
    assert_eq!(
        figure(side, "acknowledged_writes"),
        figure(side, "revisions"),
        "a write that was acknowledged counts once"
    );
    assert!(figure(side, "acknowledged_writes") > figure(side, "operations"), "warm-up and open loop are writes too");
}

#[test]
fn the_comparison_counts_what_was_acknowledged() {
    let program = |kind| match kind {
        Kind::Etcd(program) => Some(program.display().to_string()),
        Kind::Kelson => None,
    };
    let peers: Vec<String> = Kind::all().into_iter().filter_map(program).collect();
    let mut arguments = vec!["--scale", "0.02", "--workload", "put,txn-k8s"];
    if let Some(etcd) = peers.first() {
        arguments.extend(["--peer", etcd]);
    }
    let report = json(&arguments);
    let comparisons = report["comparisons"].as_array().expect("comparisons");
    let names: Vec<_> = comparisons.iter().map(|row| row["workload"].as_str().unwrap_or_default()).collect();
    assert_eq!(names, ["put", "txn-k8s"]);
    for row in comparisons {
        holds(&row["kelson"]);
        if peers.is_empty() {
            assert!(row.get("cpu_ratio").is_none() && row.get("peer").is_none(), "{row}");
            continue;
        }
        holds(&row["peer"]);
        for (ratio, over, under, name) in [
            ("throughput_ratio", "kelson", "peer", "throughput"),
            ("cpu_ratio", "peer", "kelson", "cpu_us"),
            ("p99_ratio", "peer", "kelson", "p99_ms"),
            ("rss_ratio", "peer", "kelson", "rss_mib"),
        ] {
            let expected = figure(&row[over], name) / figure(&row[under], name);
            assert!((row[ratio].as_f64().expect(ratio) / expected - 1.0).abs() < 1e-9, "{ratio} in {row}");
        }
        assert_eq!(figure(&row["kelson"], "rate"), figure(&row["peer"], "rate"), "open loops are at one rate");
    }
    for side in ["kelson", "peer"].iter().filter(|side| comparisons[1].get(**side).is_some()) {
        let side = &comparisons[1][*side];
        assert_eq!(figure(side, "events"), figure(side, "acknowledged_writes"), "the watcher saw every write once");
    }
}

#[test]
fn a_running_server_is_driven_and_left_as_it_was() {
    let server = Server::start(&Kind::Kelson);
    let url = server.url();
    let report =
        json(&["--scale", "0.01", "--endpoint", &url, "--workload", "list,list-pages,watch-fanout,lease-keepalive"]);
    for row in report["comparisons"].as_array().expect("comparisons") {
        let side = &row["endpoint"];
        assert!(figure(side, "throughput") > 0.0 && side["median"].get("cpu_us").is_none(), "{row}");
    }
    let left = Command::new(KELSON).args(["bench", "store", "--endpoint", &url, "--workload", "restart"]).output();
    let left = left.expect("kelson");
    let said = String::from_utf8_lossy(&left.stderr).into_owned();
    assert!(!left.status.success() && said.contains("--workload"), "{said}");
}

#[test]
fn a_picture_is_drawn_and_bad_input_names_its_flag() {
    let (success, svg, said) =
        bench(&["--scale", "0.005", "--workload", "put-1-client", "--peer", KELSON, "-o", "svg"]);
    assert!(success && svg.starts_with("<svg") && svg.contains("put-1-client"), "{said}\n{svg}");
    for (arguments, flag) in [
        (&["--workload", "nothing"][..], "--workload"),
        (&["--scale", "0"], "--scale"),
        (&["--peer", "/bin/true"], "--peer"),
        (&["--dir", "/nonexistent", "--workload", "put"], "--dir"),
        (&["--endpoint", "https://127.0.0.1:1"], "http://"),
        (&["--deadline", "1", "--endpoint", "http://127.0.0.1:1"], "--deadline"),
    ] {
        let (success, output, said) = bench(arguments);
        assert!(!success && output.is_empty() && said.contains(flag), "{arguments:?}: {said}");
    }
}
