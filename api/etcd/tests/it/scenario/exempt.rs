//! Where we answer something else than etcd on purpose: `tests/exemptions.txt`, with the reason for each.
//!
//! ```text
//! # Why.
//! request PATTERN
//! etcd PATTERN
//! ours PATTERN
//! ```
//! A pattern is a line in which `*` stands for anything; the lines of an answer are joined by ` / `.

use std::path::Path;

pub struct Exemption {
    pub reason: String,
    pub request: String,
    etcd: String,
    ours: String,
}

impl Exemption {
    /// Whether it is about such a request.
    pub fn names(&self, request: &str) -> bool {
        matches(&self.request, request)
    }

    pub fn covers(&self, request: &str, etcd: &[String], ours: &[String]) -> bool {
        matches(&self.request, request)
            && matches(&self.etcd, &etcd.join(" / "))
            && matches(&self.ours, &ours.join(" / "))
    }
}

/// All exemptions of the file.
pub fn all() -> Vec<Exemption> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exemptions.txt");
    read(&std::fs::read_to_string(path).unwrap())
}

fn read(text: &str) -> Vec<Exemption> {
    let mut exemptions = Vec::new();
    for entry in text.split("\n\n").map(str::trim).filter(|entry| !entry.is_empty()) {
        let of = |name: &str| -> Vec<&str> {
            entry.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).collect()
        };
        let one = |name: &str| match of(name)[..] {
            [line] => line.to_owned(),
            _ => panic!("an exemption has one line that begins with {name:?}:\n{entry}"),
        };
        let reason = of("#").join(" ");
        assert!(!reason.is_empty(), "an exemption has a reason:\n{entry}");
        exemptions.push(Exemption { reason, request: one("request"), etcd: one("etcd"), ours: one("ours") });
    }
    exemptions
}

fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    let mut cuts = (0..=rest.len()).filter(|cut| rest.is_char_boundary(*cut));
    cuts.any(|cut| matches(tail, &rest[cut..]))
}

#[test]
fn an_exemption_covers_what_it_names() {
    let text = "# Because\n# of that.\nrequest stream * by=*\netcd rev=*\nours ! Un*\n";
    let [exemption] = &read(text)[..] else { panic!("one exemption") };
    assert_eq!(exemption.reason, "Because of that.");
    let covers =
        |request: &str, etcd: &str, ours: &str| exemption.covers(request, &[etcd.to_owned()], &[ours.to_owned()]);
    assert!(covers("stream a z by=mod", "rev=3 count=0", "! Unimplemented"));
    assert!(!covers("range a z by=mod", "rev=3 count=0", "! Unimplemented"));
    assert!(!covers("stream a z", "rev=3 count=0", "! Unimplemented"));
    assert!(!covers("stream a z by=mod", "! no", "! Unimplemented"));
    assert!(!covers("stream a z by=mod", "rev=3", "rev=3"));
}
