//! Flags from the environment: `ETCD_NAME` is `--name`. A flag that is given both ways is an error, as in etcd.

use std::collections::{BTreeMap, BTreeSet};

use super::commandline::Given;
use super::flags::{self, FLAGS};

/// What a variable was good for, to be logged.
#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    /// It set a flag; with the value, unless that is a secret.
    Used { variable: String, value: String },
    /// It begins with `ETCD_` and belongs to no flag, or is empty. Its value may be a secret, and is not told.
    Unknown(String),
    /// A variable that is refused because of what it would mean.
    Special { variable: String, value: String },
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub given: Given,
    pub notes: Vec<Note>,
    /// A value that could not be read.
    pub error: Option<String>,
    /// A variable whose flag is on the command line too.
    pub conflict: Option<String>,
}

/// Reads `variables` beside the flags that the command line has set already.
pub fn read(variables: &BTreeMap<String, String>, given: &Given) -> Found {
    let set: BTreeSet<String> = given.iter().map(|(flag, _)| flags::variable(flag.name)).collect();
    let mut found = Found::default();
    let mut used = BTreeSet::new();
    if let Some(value) = variables.get("ETCD_VERSION").filter(|value| !value.is_empty()) {
        used.insert("ETCD_VERSION".to_owned());
        found.notes.push(Note::Special { variable: "ETCD_VERSION".into(), value: value.clone() });
    }
    // Go visits flags by name, and keeps the last error.
    let mut sorted: Vec<_> = FLAGS.iter().filter(|flag| flag.name != "version").collect();
    sorted.sort_by_key(|flag| flag.name);
    for flag in sorted {
        let variable = flags::variable(flag.name);
        let Some(value) = variables.get(&variable).filter(|value| !value.is_empty()) else { continue };
        if set.contains(&variable) {
            continue;
        }
        used.insert(variable.clone());
        match flag.kind.parse(value) {
            Err(why) => found.error = Some(format!("invalid value {value:?} for {variable}: {why}")),
            Ok(read) => {
                let value = if flags::is_secret(flag.name) { "***".to_owned() } else { value.clone() };
                found.notes.push(Note::Used { variable, value });
                found.given.push((flag, read));
            }
        }
    }
    for variable in variables.keys().filter(|variable| !used.contains(*variable)) {
        if set.contains(variable) {
            found.conflict = Some(variable.clone());
            break;
        }
        if variable.starts_with("ETCD_") {
            found.notes.push(Note::Unknown(variable.clone()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::commandline;
    use crate::store::value::Value;

    fn read_with(variables: &[(&str, &str)], line: &[&str]) -> Found {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let line: Vec<_> = line.iter().map(ToString::to_string).collect();
        read(&variables, &commandline::parse(&line).unwrap())
    }

    #[test]
    fn variables_set_flags_and_strange_ones_are_noted_without_their_values() {
        let found = read_with(&[("ETCD_NAME", "a"), ("ETCD_ROOT_PASSWORD", "hush"), ("PATH", "/")], &[]);
        assert_eq!(found.given.len(), 1);
        assert_eq!((found.given[0].0.name, &found.given[0].1), ("name", &Value::Text("a".into())));
        let used = Note::Used { variable: "ETCD_NAME".into(), value: "a".into() };
        assert_eq!(found.notes, [used, Note::Unknown("ETCD_ROOT_PASSWORD".into())]);
        assert!(found.error.is_none() && found.conflict.is_none());
    }

    #[test]
    fn both_ways_is_a_conflict_and_nonsense_an_error() {
        let found = read_with(&[("ETCD_NAME", "a")], &["--name", "b"]);
        assert_eq!(found.conflict.as_deref(), Some("ETCD_NAME"));
        let found = read_with(&[("ETCD_SNAPSHOT_COUNT", "x")], &[]);
        assert_eq!(found.error.as_deref(), Some("invalid value \"x\" for ETCD_SNAPSHOT_COUNT: parse error"));
        assert!(read_with(&[("ETCD_NAME", "")], &["--name", "b"]).conflict.is_some());
        assert!(read_with(&[("ETCD_NAME", "")], &[]).given.is_empty());
    }
}
