//! A lease ends when its time is up, counted from the last renewal that was granted, or when it is given back; never
//! earlier. Its keys go at one revision. In the end all are gone.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    client::{Lease, Told},
    truth::{Step, Truth},
};

/// The lease that a key hangs on, by its name.
fn lease_of(key: &str) -> Option<i64> {
    key.strip_prefix("lease/")?.split('/').next()?.parse().ok()
}

pub fn check(told: &Told, truth: &Truth, jumps: &[(Duration, Duration)], found: &mut Vec<String>) {
    let mut standing: BTreeMap<i64, usize> = BTreeMap::new();
    for (revision, step) in &truth.steps {
        let mut ended: BTreeMap<i64, usize> = BTreeMap::new();
        for change in &step.changes {
            let Some(id) = lease_of(&change.key) else { continue };
            let count = if change.value.is_none() { &mut ended } else { &mut standing };
            *count.entry(id).or_default() += 1;
        }
        for (id, keys) in ended {
            if standing.remove(&id) != Some(keys) {
                found.push(format!("revision {revision} takes some keys of lease {id} and leaves others"));
            }
            match told.leases.get(&id) {
                Some(lease) => in_time(id, lease, step, jumps, found),
                None => found.push(format!("revision {revision} ends lease {id}, which nobody was granted")),
            }
        }
    }
    if !standing.is_empty() {
        found.push(format!("keys that outlived their leases: {standing:?}"));
    }
}

fn in_time(id: i64, lease: &Lease, step: &Step, jumps: &[(Duration, Duration)], found: &mut Vec<String>) {
    if lease.revoked.is_some_and(|revoked| revoked <= step.at) {
        return;
    }
    for renewed in &lease.renewed {
        // By a clock that jumps ahead the time is up earlier.
        let jumped = jumps.iter().filter(|(at, _)| (*renewed..=step.at).contains(at)).map(|(_, by)| *by);
        let promised = (*renewed + lease.ttl).saturating_sub(jumped.sum());
        if step.at < promised {
            let (at, renewed) = (step.at.as_millis(), renewed.as_millis());
            found.push(format!("lease {id} of {:?} ended at {at} ms and was renewed at {renewed} ms", lease.ttl));
            return;
        }
    }
}
