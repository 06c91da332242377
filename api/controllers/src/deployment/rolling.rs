//! The two strategies: RollingUpdate and Recreate.

use super::plan::Planner;
use crate::view::ReplicaSet;

/// One step of a rolling update: grow the new set, or shrink the old ones, never both.
pub(super) fn roll(planner: &mut Planner) {
    let Some(new) = planner.ensure_new() else { return };
    if grow(planner, new) || shrink(planner, new) {
        return;
    }
    if planner.is_complete() {
        planner.clean_up();
    }
}

/// One step of a recreation: no new pod before the last old one has ended.
pub(super) fn recreate(planner: &mut Planner, has_live_pods: &dyn Fn(&ReplicaSet) -> bool) {
    planner.keep_revision();
    let old = planner.old();
    let mut shrunk = false;
    for at in &old {
        if planner.members[*at].replicas != 0 {
            shrunk |= planner.resize(*at, 0);
        }
    }
    if shrunk || old.iter().any(|at| has_live_pods(&planner.members[*at].set)) {
        return;
    }
    let Some(new) = planner.ensure_new() else { return };
    if !planner.resize(new, planner.deployment.replicas()) && planner.is_complete() {
        planner.clean_up();
    }
}

/// Replicas that the new set, which has `current`, may have now.
pub(super) fn new_replicas(planner: &Planner, current: i64) -> i64 {
    let wanted = planner.deployment.replicas();
    if planner.deployment.recreates() {
        return wanted;
    }
    let (surge, _) = planner.deployment.fences();
    let room = wanted + surge - planner.total();
    if room <= 0 { current } else { current + room.min(wanted - current) }
}

fn grow(planner: &mut Planner, new: usize) -> bool {
    let current = planner.members[new].replicas;
    let wanted = planner.deployment.replicas();
    if current == wanted {
        return false;
    }
    let replicas = if current > wanted { wanted } else { new_replicas(planner, current) };
    replicas != current && planner.resize(new, replicas)
}

fn shrink(planner: &mut Planner, new: usize) -> bool {
    let old = planner.old();
    if old.iter().all(|at| planner.members[*at].replicas == 0) {
        return false;
    }
    let (_, max_unavailable) = planner.deployment.fences();
    let least = planner.deployment.replicas() - max_unavailable;
    let pending = planner.members[new].replicas - planner.members[new].set.status.available_replicas;
    let budget = planner.total() - least - pending;
    if budget <= 0 {
        return false;
    }
    let available_before = planner.available();
    let unhealthy = drop_unhealthy(planner, &old, budget);
    let healthy = drop_healthy(planner, &old, available_before - least);
    unhealthy || healthy
}

/// Pods that are not available go first: they are not missed.
fn drop_unhealthy(planner: &mut Planner, old: &[usize], budget: i64) -> bool {
    let mut left = budget;
    let mut shrunk = false;
    for at in old {
        let member = &planner.members[*at];
        let unhealthy = (member.replicas - member.set.status.available_replicas).min(left).max(0);
        if unhealthy > 0 {
            left -= unhealthy;
            shrunk |= planner.resize(*at, planner.members[*at].replicas - unhealthy);
        }
    }
    shrunk
}

/// Then available ones, as many as there are beyond the least.
fn drop_healthy(planner: &mut Planner, old: &[usize], surplus: i64) -> bool {
    let mut left = surplus;
    let mut shrunk = false;
    for at in old {
        let healthy = planner.members[*at].replicas.min(left);
        if healthy > 0 {
            left -= healthy;
            shrunk |= planner.resize(*at, planner.members[*at].replicas - healthy);
        }
    }
    shrunk
}
