//! A watch delivers every event once, in order, and says where it lacks some.

use crate::{client::Told, truth::Truth, watcher::Watched};

pub fn check(watched: &Watched, told: &Told, truth: &Truth, found: &mut Vec<String>) {
    let name = watched.prefix;
    for (from, to) in &watched.gaps {
        if *to > told.compacted || to < from {
            found.push(format!(
                "watcher {name:?} was told of a gap from {from} to {to}, and {} was asked for",
                told.compacted
            ));
        }
    }
    let in_gap = |revision: i64| watched.gaps.iter().any(|(from, to)| (*from..*to).contains(&revision));
    for (revision, step) in truth.steps.range(2..(watched.upto + 1).max(2)) {
        let wanted: Vec<_> = step.changes.iter().filter(|change| change.key.starts_with(name)).cloned().collect();
        let seen = watched.record.get(revision).map_or(&[][..], Vec::as_slice);
        let fits = if in_gap(*revision) { seen.is_empty() } else { seen == wanted };
        if !fits {
            found.push(format!("watcher {name:?} saw {seen:?} at revision {revision}, which is {wanted:?}"));
            return;
        }
    }
    if let Some(revision) = watched.record.keys().find(|revision| !truth.steps.contains_key(revision)) {
        found.push(format!("watcher {name:?} saw revision {revision}, which never was"));
    }
}
