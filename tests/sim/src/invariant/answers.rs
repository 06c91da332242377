//! A read shows one revision, whole: exactly the keys that were there.

use std::collections::BTreeMap;

use crate::{
    client::{Seen, Told},
    truth::{Held, State, Truth, advance},
};

pub fn check(told: &Told, truth: &Truth, found: &mut Vec<String>) {
    let mut by_revision: BTreeMap<i64, Vec<&Seen>> = BTreeMap::new();
    for seen in &told.seen {
        by_revision.entry(seen.revision).or_default().push(seen);
    }
    let mut state = State::new();
    let mut steps = truth.steps.iter().peekable();
    for (revision, reads) in by_revision {
        while let Some((at, step)) = steps.next_if(|(at, _)| **at <= revision) {
            advance(&mut state, *at, step);
        }
        for read in reads {
            let shown: State = read
                .response
                .kvs
                .iter()
                .map(|kv| {
                    let held = Held {
                        value: kv.value.clone(),
                        create: kv.create_revision,
                        modified: kv.mod_revision,
                        version: kv.version,
                        lease: kv.lease,
                    };
                    (String::from_utf8_lossy(&kv.key).into_owned(), held)
                })
                .collect();
            if shown != state || read.response.count != state.len() as i64 {
                let wrong = shown.iter().find(|(key, held)| state.get(*key) != Some(held));
                let lacks = state.keys().find(|key| !shown.contains_key(*key));
                found.push(format!("a read at revision {revision} shows {wrong:?} and lacks {lacks:?}"));
                return;
            }
        }
    }
}
