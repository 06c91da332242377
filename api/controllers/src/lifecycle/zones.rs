//! How fast nodes may be emptied: a zone at a time, slower or not at all when much of it is lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::config::Config;
use crate::view::Node;

/// How a zone fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Normal,
    /// At least the threshold of its nodes, and more than two, are not ready.
    Partial,
    /// None is ready.
    Full,
}

/// State of a zone with this many nodes ready and not.
pub(super) fn state(ready: usize, not_ready: usize, threshold: f64) -> State {
    #[expect(clippy::cast_precision_loss, reason = "node counts are far below 2^52")]
    let share = not_ready as f64 / (ready + not_ready).max(1) as f64;
    match (ready, not_ready) {
        (0, 1..) => State::Full,
        (_, 3..) if share >= threshold => State::Partial,
        _ => State::Normal,
    }
}

/// Region and zone of a node, as one key.
pub(super) fn zone_of(node: &Node) -> String {
    let label = |name: &str| node.metadata.labels.get(name).map_or("", String::as_str);
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// Nodes that wait for their turn, by zone. Holds each lost node once.
#[derive(Default)]
pub(super) struct Turns {
    zones: BTreeMap<String, Turn>,
    /// Every zone is lost.
    pub suspended: bool,
}

#[derive(Default)]
struct Turn {
    line: VecDeque<Arc<str>>,
    waiting: FxHashSet<Arc<str>>,
    tokens: f64,
    at: f64,
    rate: f64,
}

impl Turns {
    /// Sets each zone's rate from its counts of ready and other nodes. `now` in seconds.
    pub(super) fn assess(&mut self, counts: &BTreeMap<String, (usize, usize)>, config: &Config, now: f64) {
        let state_of = |(ready, not_ready): &(usize, usize)| state(*ready, *not_ready, config.unhealthy_zone_threshold);
        self.suspended = !counts.is_empty() && counts.values().all(|count| state_of(count) == State::Full);
        self.zones.retain(|zone, _| counts.contains_key(zone));
        for (zone, count) in counts {
            let rate = match state_of(count) {
                _ if self.suspended => 0.0,
                State::Normal | State::Full => config.node_eviction_rate,
                State::Partial if count.0 + count.1 > config.large_cluster_size => config.secondary_node_eviction_rate,
                State::Partial => 0.0,
            };
            // A full token to begin with: the first lost node does not wait.
            let turn = self.zones.entry(zone.clone()).or_insert(Turn { tokens: 1.0, at: now, rate, ..Turn::default() });
            turn.refill(now);
            turn.rate = rate;
        }
    }

    /// Puts a node in its zone's line, if it is not there.
    pub(super) fn wait(&mut self, zone: &str, node: &Arc<str>) {
        if let Some(turn) = self.zones.get_mut(zone)
            && turn.waiting.insert(node.clone())
        {
            turn.line.push_back(node.clone());
        }
    }

    /// Takes a node out of line.
    pub(super) fn leave(&mut self, zone: &str, node: &str) {
        if let Some(turn) = self.zones.get_mut(zone)
            && turn.waiting.remove(node)
        {
            turn.line.retain(|each| **each != *node);
        }
    }

    /// The nodes whose turn has come.
    pub(super) fn take(&mut self, now: f64) -> Vec<Arc<str>> {
        let mut taken = Vec::new();
        for turn in self.zones.values_mut() {
            turn.refill(now);
            while turn.rate > 0.0 && turn.tokens >= 1.0 {
                let Some(node) = turn.line.pop_front() else { break };
                turn.waiting.remove(&node);
                turn.tokens -= 1.0;
                taken.push(node);
            }
        }
        taken
    }
}

impl Turn {
    fn refill(&mut self, now: f64) {
        // One token at most is saved up, or as many as a second brings at high rates.
        self.tokens = (self.tokens + (now - self.at).max(0.0) * self.rate).min(self.rate.max(1.0));
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_judged_as_documented() {
        assert_eq!(state(10, 0, 0.55), State::Normal);
        assert_eq!(state(0, 0, 0.55), State::Normal);
        assert_eq!(state(1, 2, 0.55), State::Normal, "two are never a disruption");
        assert_eq!(state(2, 3, 0.55), State::Partial);
        assert_eq!(state(0, 1, 0.55), State::Full);
    }

    #[test]
    fn turns_come_at_the_rate_of_the_zone() {
        let config = Config::default();
        let mut turns = Turns::default();
        turns.assess(&[("a".to_string(), (10, 3))].into(), &config, 0.0);
        for node in ["n1", "n2", "n2", "n3"] {
            turns.wait("a", &node.into());
        }
        assert_eq!(turns.take(0.0), ["n1".into()]);
        assert!(turns.take(9.0).is_empty());
        turns.leave("a", "n2");
        assert_eq!(turns.take(10.1), ["n3".into()]);
        assert!(turns.take(1000.0).is_empty());
    }

    #[test]
    fn nobody_is_evicted_when_all_zones_are_lost() {
        let config = Config::default();
        let mut turns = Turns::default();
        turns.assess(&[("a".to_string(), (0, 3)), ("b".to_string(), (0, 1))].into(), &config, 0.0);
        turns.wait("a", &"n1".into());
        assert!(turns.suspended && turns.take(100.0).is_empty());
        turns.assess(&[("a".to_string(), (0, 3)), ("b".to_string(), (1, 0))].into(), &config, 100.0);
        assert!(!turns.suspended);
        assert_eq!(turns.take(110.1).len(), 1);
        // A small zone that is mostly lost waits for better times.
        turns.assess(&[("a".to_string(), (2, 30)), ("b".to_string(), (1, 0))].into(), &config, 200.0);
        turns.wait("a", &"n2".into());
        turns.take(300.0);
        turns.wait("a", &"n3".into());
        assert!(turns.take(10_000.0).is_empty());
    }
}
