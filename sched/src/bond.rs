//! A class's constraints on other pods, with their tallies held.

use crate::census::{Carried, Census, ProfileId, Pull, Query, Scope, TallyId};
use crate::constraint::SpreadConstraint;
use crate::intern::{Interner, Symbol};
use crate::pod::PodTemplate;
use crate::profile::Profile;
use crate::reason::Filter;

/// One topology spread constraint.
#[derive(Debug)]
pub(crate) struct Spread {
    /// `None`: it counts nothing.
    pub tally: Option<TallyId>,
    pub key: Symbol,
    pub max_skew: i64,
    pub min_domains: usize,
    /// 1 if the pod counts itself.
    pub own: i64,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

/// A tally summed up over the domains of a key.
#[derive(Debug)]
pub(crate) struct Link {
    pub tally: TallyId,
    pub key: Symbol,
    pub weight: i64,
}

#[derive(Debug, Default)]
pub(crate) struct Bonds {
    pub profile: ProfileId,
    pub hard: Vec<Spread>,
    pub soft: Vec<Spread>,
    /// Nodes without all keys of the soft constraints score 0.
    pub all_topologies: bool,
    /// Required affinity: every key, with the pods that all terms select.
    pub affinity: Vec<Link>,
    pub anti_affinity: Vec<Link>,
    pub preferred: Vec<Link>,
    /// Terms that its pods carry to where they go, and their keys.
    pub carries: Vec<TallyId>,
    keys: Vec<Symbol>,
}

impl Bonds {
    /// Holds what a template counts and carries, until [`Bonds::release`].
    pub fn of(template: &PodTemplate, profile: &Profile, census: &mut Census, labels: &mut Interner) -> Bonds {
        let on = |filter| profile.filters.contains(filter);
        let (spreads, keeps) = (on(Filter::PodTopologySpread), on(Filter::InterPodAffinity));
        let pods = census.hold_profile(&template.namespace, &template.labels);
        let mut bonds = Bonds { profile: pods, all_topologies: !template.spread_defaulted, ..Bonds::default() };
        let wanted = |one: &&SpreadConstraint| if one.hard { spreads } else { profile.weights.topology_spread != 0 };
        for constraint in template.spread.iter().filter(wanted) {
            let query = constraint
                .selector
                .clone()
                .map(|selector| Query::Live { namespace: template.namespace.clone(), selector });
            let own = constraint.selector.as_ref().is_some_and(|selector| selector.matches(&template.labels));
            let spread = Spread {
                tally: query.map(|query| census.hold_query(query)),
                key: labels.hold(&constraint.topology_key),
                max_skew: i64::from(constraint.max_skew),
                min_domains: usize::try_from(constraint.min_domains).unwrap_or(0),
                own: i64::from(own),
                honor_affinity: constraint.honor_affinity,
                honor_taints: constraint.honor_taints,
            };
            if constraint.hard { bonds.hard.push(spread) } else { bonds.soft.push(spread) }
        }
        if keeps && !template.affinity.is_empty() {
            let query = Query::Selected(template.affinity.iter().map(Scope::of).collect());
            for term in &template.affinity {
                let tally = census.hold_query(query.clone());
                bonds.affinity.push(Link { tally, key: labels.hold(&term.topology_key), weight: 1 });
            }
        }
        for term in template.anti_affinity.iter().filter(|_| keeps) {
            let tally = census.hold_query(Query::Selected(vec![Scope::of(term)]));
            bonds.anti_affinity.push(Link { tally, key: labels.hold(&term.topology_key), weight: 1 });
        }
        let towards = template.preferred_affinity.iter().map(|(weight, term)| (*weight, term));
        let away = template.preferred_anti_affinity.iter().map(|(weight, term)| (-*weight, term));
        for (weight, term) in towards.chain(away) {
            let query = Query::Selected(vec![Scope::of(term)]);
            if profile.weights.pod_affinity != 0 {
                let tally = census.hold_query(query.clone());
                bonds.preferred.push(Link { tally, key: labels.hold(&term.topology_key), weight: i64::from(weight) });
            }
            let carried = Carried { query, key: labels.hold(&term.topology_key), pull: Pull::Weight(weight) };
            bonds.keys.push(carried.key);
            bonds.carries.push(census.hold_term(carried));
        }
        let pulls = template.affinity.iter().map(|term| (Pull::Required, term));
        let bars = template.anti_affinity.iter().map(|term| (Pull::Bar, term));
        for (pull, term) in pulls.chain(bars) {
            let query = Query::Selected(vec![Scope::of(term)]);
            let carried = Carried { query, key: labels.hold(&term.topology_key), pull };
            bonds.keys.push(carried.key);
            bonds.carries.push(census.hold_term(carried));
        }
        bonds
    }

    /// Gives everything back.
    pub fn release(&self, census: &mut Census, labels: &mut Interner) {
        let spreads = || self.hard.iter().chain(&self.soft);
        let links = || [&self.affinity, &self.anti_affinity, &self.preferred].into_iter().flatten();
        let tallies = spreads().filter_map(|spread| spread.tally).chain(links().map(|link| link.tally));
        for tally in tallies.chain(self.carries.iter().copied()) {
            census.drop_tally(tally);
        }
        let keys = spreads().map(|spread| spread.key).chain(links().map(|link| link.key));
        for key in keys.chain(self.keys.iter().copied()) {
            labels.drop_hold(key);
        }
        census.drop_profile(self.profile);
    }

    /// Whether the class has constraints of its own.
    pub fn is_empty(&self) -> bool {
        self.hard.is_empty()
            && self.soft.is_empty()
            && self.affinity.is_empty()
            && self.anti_affinity.is_empty()
            && self.preferred.is_empty()
    }
}
