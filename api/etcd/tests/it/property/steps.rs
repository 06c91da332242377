//! Generated requests, and the lines of a story that they become.
//!
//! Revisions are counted from the one at which the story begins: the same steps make the same story on a store that
//! has lived before.

use proptest::collection::vec;
use proptest::prelude::*;

/// Streams on which watches are opened.
const STREAMS: [&str; 2] = ["s", "t"];

/// Most revisions that a watch's start lies beyond the story's begin.
const FUTURE: i64 = 40;

#[derive(Clone, Debug)]
pub enum Step {
    /// A line as it stands, with `@N` for the revision N after the story's begin.
    Request(String),
    Compact(i64, bool),
    Watch(usize, String),
    Cancel(usize, i64),
}

/// The lines of the steps, on a store that is at this revision. Before history goes and before a watch ends, watches
/// that are open are heard: what they would have told later is a matter of time.
pub fn lines(steps: &[Step], begin: i64) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = [false; STREAMS.len()];
    let settle = |lines: &mut Vec<String>, open: &[bool]| {
        if open.contains(&true) {
            lines.push("settle".to_owned());
        }
    };
    for step in steps {
        match step {
            Step::Request(line) => lines.push(absolute(line, begin)),
            Step::Compact(revision, physical) => {
                settle(&mut lines, &open);
                let physical = if *physical { " physical" } else { "" };
                lines.push(format!("compact {}{physical}", begin + revision));
            }
            Step::Watch(stream, line) => {
                open[*stream] = true;
                lines.push(format!("watch {} create {} wait", STREAMS[*stream], absolute(line, begin)));
            }
            Step::Cancel(stream, id) => {
                if open[*stream] {
                    settle(&mut lines, &open);
                    lines.push(format!("watch {} cancel {id} wait", STREAMS[*stream]));
                }
            }
        }
    }
    settle(&mut lines, &open);
    lines.push("range \\0 \\0".to_owned());
    lines.push("leases".to_owned());
    lines
}

fn absolute(line: &str, begin: i64) -> String {
    let words = line.split(' ').map(|word| match word.split_once('@') {
        Some((name, after)) => format!("{name}{}", (begin + after.parse::<i64>().expect("a number")).max(0)),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn flag(name: &'static str, share: f64) -> impl Strategy<Value = String> {
    prop::bool::weighted(share).prop_map(move |set| if set { format!(" {name}") } else { String::new() })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![30 => "[a-e]", 12 => "[a-b][a-c]", 2 => Just("a\\0".to_owned()), 1 => Just("\"\"".to_owned())]
}

/// A range, as words.
fn keys() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => key(),
        6 => (key(), "[a-f]").prop_map(|(key, end)| format!("{key} {end}")),
        2 => key().prop_map(|key| format!("{key} \\0")),
        1 => Just("\\0 \\0".to_owned()),
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[x-z]{1,2}", 1 => Just("\"\"".to_owned())]
}

/// A revision or none; mostly one that there may be.
fn revision() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![4 => Just(None), 6 => (0..14i64).prop_map(Some), 1 => (-3..60i64).prop_map(Some)]
}

fn option(name: &'static str, value: impl Strategy<Value = Option<i64>>) -> impl Strategy<Value = String> {
    value.prop_map(move |value| value.map_or(String::new(), |value| format!(" {name}=@{value}")))
}

fn rarely() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![8 => Just(None), 1 => (0..14i64).prop_map(Some)]
}

/// A range's words behind its name.
fn range() -> impl Strategy<Value = String> {
    let order = prop_oneof![5 => Just(""), 1 => Just(" order=asc"), 2 => Just(" order=desc"), 1 => Just(" order=none")];
    let by = prop_oneof![
        5 => Just(""),
        1 => Just(" by=key"),
        1 => Just(" by=version"),
        1 => Just(" by=create"),
        1 => Just(" by=mod"),
        1 => Just(" by=value"),
    ];
    let limit = prop_oneof![4 => Just(String::new()), 3 => (-1..4i64).prop_map(|limit| format!(" limit={limit}"))];
    let bounds = (
        option("min_mod", rarely()),
        option("max_mod", rarely()),
        option("min_create", rarely()),
        option("max_create", rarely()),
    );
    let flags = (flag("keys_only", 0.15), flag("count_only", 0.1), flag("serializable", 0.1));
    (keys(), limit, option("rev", revision()), order, by, bounds, flags).prop_map(
        |(keys, limit, rev, order, by, (min_mod, max_mod, min_create, max_create), (keys_only, count_only, local))| {
            format!(
                "{keys}{limit}{rev}{order}{by}{min_mod}{max_mod}{min_create}{max_create}{keys_only}{count_only}{local}"
            )
        },
    )
}

/// A put's words behind its name.
fn put(ignoring: f64) -> impl Strategy<Value = String> {
    let lease = prop_oneof![5 => Just(String::new()), 4 => (1..4i64).prop_map(|id| format!(" lease={id}"))];
    let flags = (flag("prev_kv", 0.4), flag("ignore_value", ignoring), flag("ignore_lease", ignoring));
    (key(), value(), lease, flags).prop_map(|(key, value, lease, (prev_kv, ignore_value, ignore_lease))| {
        // Now and then what contradicts itself.
        let value = if ignore_value.is_empty() || value == "zz" { value } else { "\"\"".to_owned() };
        let lease = if ignore_lease.is_empty() || value == "z" { lease } else { String::new() };
        format!("{key} {value}{lease}{prev_kv}{ignore_value}{ignore_lease}")
    })
}

fn compare() -> impl Strategy<Value = String> {
    let what = prop_oneof![
        (0..4i64).prop_map(|n| ("version", n.to_string())),
        (0..12i64).prop_map(|n| ("create", format!("@{n}"))),
        (0..12i64).prop_map(|n| ("mod", format!("@{n}"))),
        (0..2i64).prop_map(|n| ("mod", n.to_string())),
        value().prop_map(|value| ("value", value)),
        (0..4i64).prop_map(|n| ("lease", n.to_string())),
    ];
    let relation = prop_oneof![3 => Just("="), 1 => Just("!="), 1 => Just("<"), 1 => Just(">")];
    let end = prop_oneof![3 => Just(String::new()), 1 => "[a-f]".prop_map(|end| format!(" {end}")), 1 => Just(" \\0".to_owned())];
    (what, key(), relation, end)
        .prop_map(|((target, value), key, relation, end)| format!("{target} {key} {relation} {value}{end}"))
}

/// A transaction's words behind its name. A put in it ignores what was, or a deletion in it may take any key, but not
/// both: etcd's check for keys that are written twice overlooks open ends, and it then stops for good.
fn txn() -> impl Strategy<Value = String> {
    prop::bool::weighted(0.25).prop_flat_map(|ignoring| {
        let delete = keys().prop_map(move |keys| if ignoring { keys.replace(" \\0", "") } else { keys });
        let op = prop_oneof![
            4 => put(if ignoring { 0.3 } else { 0.0 }).prop_map(|put| format!("put {put}")),
            2 => (delete, flag("prev_kv", 0.4)).prop_map(|(keys, prev_kv)| format!("delete {keys}{prev_kv}")),
            3 => range().prop_map(|range| format!("range {range}")),
        ];
        let nested = op.prop_recursive(3, 10, 3, |op| {
            branches(vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3)).prop_map(|txn| format!("txn {txn}"))
        });
        branches(vec(compare(), 0..3), vec(nested.clone(), 0..5), vec(nested, 0..3))
    })
}

fn branches(
    compares: impl Strategy<Value = Vec<String>>,
    success: impl Strategy<Value = Vec<String>>,
    failure: impl Strategy<Value = Vec<String>>,
) -> impl Strategy<Value = String> {
    (compares, success, failure).prop_map(|(compares, success, failure)| {
        let list = |items: Vec<String>| format!("[ {} ]", items.join(" ; "));
        format!("if {} then {} else {}", list(compares), list(success), list(failure))
    })
}

fn watch() -> impl Strategy<Value = String> {
    let start = prop_oneof![
        4 => Just(String::new()),
        5 => (0..16i64).prop_map(|start| format!(" start=@{start}")),
        1 => (-3..FUTURE).prop_map(|start| format!(" start=@{start}")),
        1 => Just(" start=-1".to_owned()),
    ];
    let filter = prop_oneof![6 => Just(""), 1 => Just(" noput"), 1 => Just(" nodelete")];
    let id = prop_oneof![5 => Just(String::new()), 1 => (-1..4i64).prop_map(|id| format!(" id={id}"))];
    (keys(), start, filter, flag("prev_kv", 0.5), flag("fragment", 0.2), id).prop_map(
        |(keys, start, filter, prev_kv, fragment, id)| format!("{keys}{start}{filter}{prev_kv}{fragment}{id}"),
    )
}

pub fn step() -> impl Strategy<Value = Step> {
    let lease = || 1..4i64;
    let request = prop_oneof![
        12 => put(0.12).prop_map(|put| format!("put {put}")),
        5 => (keys(), flag("prev_kv", 0.5)).prop_map(|(keys, prev_kv)| format!("delete {keys}{prev_kv}")),
        8 => range().prop_map(|range| format!("range {range}")),
        2 => range().prop_map(|range| format!("stream {range}")),
        8 => txn().prop_map(|txn| format!("txn {txn}")),
        3 => (lease(), prop_oneof![9 => 60..1000i64, 1 => Just(9_000_000_001)])
            .prop_map(|(id, ttl)| format!("grant {id} {ttl}")),
        2 => lease().prop_map(|id| format!("revoke {id}")),
        1 => lease().prop_map(|id| format!("keepalive {id}")),
        2 => (lease(), flag("keys", 0.7)).prop_map(|(id, keys)| format!("ttl {id}{keys}")),
        1 => Just("leases".to_owned()),
    ];
    let stream = || 0..STREAMS.len();
    prop_oneof![
        20 => request.prop_map(Step::Request),
        1 => (prop_oneof![8 => 0..14i64, 1 => -3..60i64], any::<bool>())
            .prop_map(|(revision, physical)| Step::Compact(revision, physical)),
        2 => (stream(), watch()).prop_map(|(stream, line)| Step::Watch(stream, line)),
        1 => (stream(), -1..4i64).prop_map(|(stream, id)| Step::Cancel(stream, id)),
    ]
}
