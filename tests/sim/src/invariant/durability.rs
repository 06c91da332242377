//! What was acknowledged is there, at the revision that was told, once; what was refused is not there; and there is nothing
//! that nobody wrote.

use std::collections::BTreeMap;

use crate::{
    client::{Fate, Told},
    truth::Truth,
};

pub fn check(told: &Told, truth: &Truth, found: &mut Vec<String>) {
    let mut written: BTreeMap<(&str, u64), Vec<i64>> = BTreeMap::new();
    for (revision, step) in &truth.steps {
        for change in &step.changes {
            if let Some(number) = change.number() {
                written.entry((&change.key, number)).or_default().push(*revision);
            }
        }
    }
    for sent in &told.sent {
        let at = written.remove(&(&sent.key, sent.number)).unwrap_or_default();
        match sent.fate {
            Fate::Done(revision) if at.contains(&revision) => {}
            Fate::Done(_) => found.push(format!("acknowledged and lost: {sent:?}, written at {at:?}")),
            Fate::Refused if !at.is_empty() => found.push(format!("refused and done: {sent:?}, written at {at:?}")),
            Fate::Refused | Fate::Unknown => {}
        }
        if at.len() > 1 {
            found.push(format!("done more than once: {sent:?}, written at {at:?}"));
        }
    }
    // The other key of a lease goes with the first.
    let by_nobody = written.iter().find(|((key, _), _)| !key.starts_with("lease/"));
    if let Some(write) = by_nobody {
        found.push(format!("written by nobody: {write:?}"));
    }
    for (revision, step) in &truth.steps {
        let of =
            |key: &str| step.changes.iter().filter(|change| change.key == key).map(|change| change.number()).next();
        if of("pair/left") != of("pair/right") {
            found.push(format!("revision {revision} holds a part of a transaction: {:?}", step.changes));
        }
    }
}
