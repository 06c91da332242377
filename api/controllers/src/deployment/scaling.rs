//! Changing the size of a Deployment: during a rollout each set changes in proportion to its size.

use super::plan::{DESIRED, MAX, Planner};

/// Whether the Deployment's size changed since its sets were sized.
pub(super) fn is_due(planner: &Planner) -> bool {
    let wanted = planner.deployment.replicas();
    let mut active = planner.members.iter().filter(|member| member.replicas > 0);
    active.any(|member| {
        let desired = member.annotation(DESIRED).and_then(|text| text.parse::<i64>().ok());
        desired.is_some_and(|desired| desired != wanted)
    })
}

/// Sizes the sets.
pub(super) fn scale(planner: &mut Planner) {
    let wanted = planner.deployment.replicas();
    let active: Vec<usize> = (0..planner.members.len()).filter(|at| planner.members[*at].replicas > 0).collect();
    let sole = match active.as_slice() {
        [] => planner.new.or(planner.members.len().checked_sub(1)),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(sole) = sole {
        planner.resize(sole, wanted);
        return;
    }
    if active.is_empty() {
        return;
    }
    if is_saturated(planner) {
        for at in planner.old().into_iter().filter(|at| active.contains(at)) {
            planner.resize(at, 0);
        }
        return;
    }
    if !planner.deployment.recreates() {
        in_proportion(planner, active);
    }
}

/// The new set has all the pods that are asked for, and they are available.
fn is_saturated(planner: &Planner) -> bool {
    let wanted = planner.deployment.replicas();
    planner.new.is_some_and(|new| {
        let member = &planner.members[new];
        let desired = member.annotation(DESIRED).and_then(|text| text.parse::<i64>().ok());
        member.replicas == wanted && desired == Some(wanted) && member.set.status.available_replicas == wanted
    })
}

fn in_proportion(planner: &mut Planner, mut active: Vec<usize>) {
    let wanted = planner.deployment.replicas();
    let (surge, _) = planner.deployment.fences();
    let allowed = if wanted > 0 { wanted + surge } else { 0 };
    let change = allowed - planner.total();
    // The largest first; among equals the newest when growing, the oldest when shrinking.
    active.sort_by_key(|at| {
        let age = i64::try_from(*at).unwrap_or(0);
        (-planner.members[*at].replicas, if change > 0 { -age } else { age })
    });
    let mut given = 0;
    let mut sizes = Vec::with_capacity(active.len());
    for at in &active {
        let share = if change == 0 { 0 } else { share(planner, *at, allowed, change - given, change > 0) };
        given += share;
        sizes.push(planner.members[*at].replicas + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + change - given).max(0);
    }
    for (at, size) in active.into_iter().zip(sizes) {
        planner.resize(at, size);
    }
}

/// What one set gets of a change, at most `left`.
fn share(planner: &Planner, at: usize, allowed: i64, left: i64, growing: bool) -> i64 {
    let member = &planner.members[at];
    if member.replicas == 0 || left == 0 {
        return 0;
    }
    let fraction = if planner.deployment.replicas() == 0 {
        -member.replicas
    } else {
        let recorded = member.annotation(MAX).and_then(|text| text.parse::<i64>().ok());
        let before = recorded.unwrap_or(planner.deployment.status.replicas).max(1);
        // Rounded to the nearest, halves up.
        (2 * member.replicas * allowed + before) / (2 * before) - member.replicas
    };
    if growing { fraction.min(left) } else { fraction.max(left) }
}
