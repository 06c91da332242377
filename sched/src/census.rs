//! How many pods of which kind are on which node: what topology spread and pod affinity count.
//!
//! Two kinds of tallies. A *query* counts the pods that a constraint selects. A *term* counts the pods that carry a
//! term of affinity of their own, which later pods have to respect or are drawn by. Both count per node; a class that
//! is to be placed sums them up per domain (`topology`). Pods with equal namespace and labels are one *profile*, so a
//! selector is evaluated once per profile, not once per pod.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::constraint::{LabelSelector, Pairs, PodTerm};
use crate::intern::Symbol;
use crate::ledger::NodeId;
use crate::near::NearMap;
use crate::presence::Presences;

/// Index of a tally, valid while somebody holds it.
pub(crate) type TallyId = u32;
/// Index of a profile, likewise.
pub(crate) type ProfileId = u32;

/// Which pods a constraint counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Query {
    /// Spread: of one namespace, not terminating.
    Live { namespace: Arc<str>, selector: LabelSelector },
    /// Affinity: pods that all of these terms select (their topology keys do not matter).
    Selected(Vec<Scope>),
}

/// The pods that one term selects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub selector: Option<LabelSelector>,
    pub namespaces: Vec<Arc<str>>,
    pub namespace_selector: Option<LabelSelector>,
}

impl Scope {
    pub fn of(term: &PodTerm) -> Scope {
        Scope {
            selector: term.selector.clone(),
            namespaces: term.namespaces.clone(),
            namespace_selector: term.namespace_selector.clone(),
        }
    }

    fn selects(&self, profile: &Profile, namespaces: &FxHashMap<Arc<str>, Pairs>) -> bool {
        let by_label = |selector: &LabelSelector| {
            selector.matches(namespaces.get(&profile.namespace).map_or(&[][..], Vec::as_slice))
        };
        let in_scope =
            self.namespaces.contains(&profile.namespace) || self.namespace_selector.as_ref().is_some_and(by_label);
        in_scope && self.selector.as_ref().is_some_and(|selector| selector.matches(&profile.labels))
    }
}

impl Query {
    fn selects(&self, profile: &Profile, namespaces: &FxHashMap<Arc<str>, Pairs>) -> bool {
        match self {
            Query::Live { namespace, selector } => {
                // An empty selector of a spread constraint counts nothing.
                *namespace == profile.namespace
                    && !selector.requirements.is_empty()
                    && selector.matches(&profile.labels)
            }
            Query::Selected(scopes) => scopes.iter().all(|scope| scope.selects(profile, namespaces)),
        }
    }

    fn certain_pair(&self) -> Option<(&Arc<str>, &Arc<str>)> {
        match self {
            Query::Live { selector, .. } => selector.certain_pair(),
            Query::Selected(scopes) => scopes.iter().find_map(|scope| scope.selector.as_ref()?.certain_pair()),
        }
    }

    fn depends_on_namespace_labels(&self) -> bool {
        matches!(self, Query::Selected(scopes) if scopes.iter().any(|scope| scope.namespace_selector.is_some()))
    }
}

/// What a term of a pod that is there does to one that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pull {
    /// Required anti-affinity: keeps it away.
    Bar,
    /// Required affinity: draws it, as much as its profile says.
    Required,
    /// Preferred affinity: adds this much to the score.
    Weight(i32),
}

/// A term that pods carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Carried {
    /// Of a single scope; a query so that both kinds match alike.
    pub query: Query,
    pub key: Symbol,
    pub pull: Pull,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What {
    Query(Query),
    Term(Carried),
}

impl What {
    fn query(&self) -> &Query {
        match self {
            What::Query(query) => query,
            What::Term(carried) => &carried.query,
        }
    }
}

#[derive(Debug)]
struct Tally {
    what: Arc<What>,
    counts: NearMap<NodeId, u32>,
    holds: u32,
}

#[derive(Debug)]
pub(crate) struct Profile {
    namespace: Arc<str>,
    labels: Pairs,
    on: Presences,
    queries: Vec<TallyId>,
    /// Terms of other pods that select these.
    terms: Vec<TallyId>,
    /// Grows when `terms` changes.
    epoch: u64,
    holds: u32,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Census {
    namespaces: FxHashMap<Arc<str>, Pairs>,
    profiles: Vec<Option<Profile>>,
    by_identity: FxHashMap<(Arc<str>, Pairs), ProfileId>,
    vacant_profiles: Vec<ProfileId>,
    tallies: Vec<Option<Tally>>,
    by_what: FxHashMap<Arc<What>, TallyId>,
    vacant_tallies: Vec<TallyId>,
    /// Tallies by a pair that all they select carry, and those without one.
    by_pair: FxHashMap<(Arc<str>, Arc<str>), Vec<TallyId>>,
    unpaired: Vec<TallyId>,
}

impl Census {
    fn profile(&self, id: ProfileId) -> &Profile {
        self.profiles[id as usize].as_ref().expect("held by whoever asks")
    }

    fn profile_mut(&mut self, id: ProfileId) -> &mut Profile {
        self.profiles[id as usize].as_mut().expect("held by whoever asks")
    }

    fn tally(&self, id: TallyId) -> &Tally {
        self.tallies[id as usize].as_ref().expect("held by whoever asks")
    }

    /// The profile of pods with this namespace and these labels, held once more.
    pub fn hold_profile(&mut self, namespace: &Arc<str>, labels: &Pairs) -> ProfileId {
        let identity = (namespace.clone(), labels.clone());
        if let Some(&id) = self.by_identity.get(&identity) {
            self.profile_mut(id).holds += 1;
            return id;
        }
        let mut profile = Profile {
            namespace: namespace.clone(),
            labels: labels.clone(),
            on: Presences::default(),
            queries: Vec::new(),
            terms: Vec::new(),
            epoch: 0,
            holds: 1,
        };
        let paired = labels.iter().filter_map(|pair| self.by_pair.get(pair)).flatten();
        for &id in paired.chain(&self.unpaired) {
            let tally = self.tally(id);
            if tally.what.query().selects(&profile, &self.namespaces) {
                match *tally.what {
                    What::Query(_) => profile.queries.push(id),
                    What::Term(_) => profile.terms.push(id),
                }
            }
        }
        let id = put(&mut self.profiles, &mut self.vacant_profiles, profile);
        self.by_identity.insert(identity, id);
        id
    }

    /// Gives a hold on a profile back. The last one goes after all its pods.
    pub fn drop_profile(&mut self, id: ProfileId) {
        let profile = self.profile_mut(id);
        profile.holds -= 1;
        if profile.holds == 0 {
            debug_assert!(profile.on.is_empty(), "pods hold their profile");
            if let Some(profile) = self.profiles[id as usize].take() {
                self.by_identity.remove(&(profile.namespace, profile.labels));
            }
            self.vacant_profiles.push(id);
        }
    }

    /// The tally of a query, held once more.
    pub fn hold_query(&mut self, query: Query) -> TallyId {
        self.hold(What::Query(query))
    }

    /// The tally of a term that pods carry, held once more.
    pub fn hold_term(&mut self, carried: Carried) -> TallyId {
        self.hold(What::Term(carried))
    }

    fn hold(&mut self, what: What) -> TallyId {
        if let Some(&id) = self.by_what.get(&what) {
            if let Some(tally) = &mut self.tallies[id as usize] {
                tally.holds += 1;
            }
            return id;
        }
        let what = Arc::new(what);
        let tally = Tally { what: what.clone(), counts: NearMap::default(), holds: 1 };
        let id = put(&mut self.tallies, &mut self.vacant_tallies, tally);
        match what.query().certain_pair() {
            Some((key, value)) => self.by_pair.entry((key.clone(), value.clone())).or_default().push(id),
            None => self.unpaired.push(id),
        }
        self.by_what.insert(what, id);
        self.enlist(id);
        id
    }

    /// Tells all profiles of a tally that is new, and counts the pods that are there.
    fn enlist(&mut self, id: TallyId) {
        let Census { profiles, tallies, namespaces, .. } = self;
        let tally = tallies[id as usize].as_mut().expect("just put");
        for profile in profiles.iter_mut().flatten() {
            if !tally.what.query().selects(profile, namespaces) {
                continue;
            }
            match &*tally.what {
                What::Query(query) => {
                    profile.queries.push(id);
                    for (node, presence) in profile.on.sums() {
                        let count = if matches!(query, Query::Live { .. }) { presence.live } else { presence.all };
                        if count > 0 {
                            *tally.counts.entry(node).or_default() += count;
                        }
                    }
                }
                What::Term(_) => {
                    profile.terms.push(id);
                    profile.epoch += 1;
                }
            }
        }
    }

    fn delist(&mut self, id: TallyId) {
        for profile in self.profiles.iter_mut().flatten() {
            profile.queries.retain(|have| *have != id);
            let before = profile.terms.len();
            profile.terms.retain(|have| *have != id);
            profile.epoch += u64::from(profile.terms.len() != before);
        }
    }

    /// Gives a hold on a tally back.
    pub fn drop_tally(&mut self, id: TallyId) {
        let Some(tally) = &mut self.tallies[id as usize] else { return };
        tally.holds -= 1;
        if tally.holds > 0 {
            return;
        }
        let what = tally.what.clone();
        self.delist(id);
        self.by_what.remove(&what);
        match what.query().certain_pair() {
            Some((key, value)) => {
                let pair = (key.clone(), value.clone());
                if let Some(list) = self.by_pair.get_mut(&pair) {
                    list.retain(|have| *have != id);
                    if list.is_empty() {
                        self.by_pair.remove(&pair);
                    }
                }
            }
            None => self.unpaired.retain(|have| *have != id),
        }
        self.tallies[id as usize] = None;
        self.vacant_tallies.push(id);
    }

    /// Puts the labels of a namespace; `None` if it is gone. True if selectors of namespaces may see it differently,
    /// so that all sums over them are to be made anew.
    pub fn set_namespace(&mut self, name: &Arc<str>, labels: Option<Pairs>) -> bool {
        let before = match &labels {
            Some(labels) => self.namespaces.insert(name.clone(), labels.clone()),
            None => self.namespaces.remove(name),
        };
        if before.unwrap_or_default() == labels.unwrap_or_default() {
            return false;
        }
        let affected: Vec<TallyId> = (0..self.tallies.len() as TallyId)
            .filter(|id| {
                let tally = self.tallies[*id as usize].as_ref();
                tally.is_some_and(|tally| tally.what.query().depends_on_namespace_labels())
            })
            .collect();
        for id in &affected {
            self.delist(*id);
            if let Some(tally) =
                self.tallies[*id as usize].as_mut().filter(|tally| matches!(*tally.what, What::Query(_)))
            {
                tally.counts.clear();
            }
            self.enlist(*id);
        }
        !affected.is_empty()
    }

    /// Counts a pod in (`by` = 1) or out (-1) on a node.
    pub fn count(&mut self, profile: ProfileId, carries: &[TallyId], node: NodeId, live: bool, by: i32) {
        let Census { profiles, tallies, .. } = self;
        let Some(profile) = profiles[profile as usize].as_mut() else { return };
        profile.on.count(node, live, by);
        let mut bump = |id: TallyId| {
            let Some(tally) = tallies[id as usize].as_mut() else { return };
            if !live && matches!(&*tally.what, What::Query(Query::Live { .. })) {
                return;
            }
            let count = tally.counts.entry(node).or_default();
            *count = count.wrapping_add_signed(by);
            if *count == 0 {
                tally.counts.remove(&node);
            }
        };
        profile.queries.iter().for_each(|id| bump(*id));
        carries.iter().for_each(|id| bump(*id));
    }

    /// A pod of the profile began to terminate: spread no longer counts it.
    pub fn retire(&mut self, profile: ProfileId, node: NodeId) {
        let Census { profiles, tallies, .. } = self;
        let Some(profile) = profiles[profile as usize].as_mut() else { return };
        profile.on.retire(node);
        for id in &profile.queries {
            let Some(tally) = tallies[*id as usize].as_mut() else { continue };
            if !matches!(&*tally.what, What::Query(Query::Live { .. })) {
                continue;
            }
            if let Some(count) = tally.counts.get_mut(&node) {
                *count -= 1;
                if *count == 0 {
                    tally.counts.remove(&node);
                }
            }
        }
    }

    /// Pods of a tally on a node.
    pub fn on(&self, id: TallyId, node: NodeId) -> i64 {
        self.tally(id).counts.get(&node).copied().map_or(0, i64::from)
    }

    /// Whether a query selects pods of a profile.
    pub fn selects(&self, query: TallyId, profile: ProfileId) -> bool {
        self.profile(profile).queries.contains(&query)
    }

    /// Terms of other pods that a pod of this profile meets.
    pub fn terms(&self, profile: ProfileId) -> impl Iterator<Item = (TallyId, &Carried)> {
        self.profile(profile).terms.iter().filter_map(|id| match &*self.tally(*id).what {
            What::Term(carried) => Some((*id, carried)),
            What::Query(_) => None,
        })
    }

    /// Whether there are any such terms.
    pub fn meets_terms(&self, profile: ProfileId) -> bool {
        !self.profile(profile).terms.is_empty()
    }

    /// Grows when those terms change.
    pub fn epoch(&self, profile: ProfileId) -> u64 {
        self.profile(profile).epoch
    }

    /// Whether any constraint counts pods of this profile.
    pub fn is_counted(&self, profile: ProfileId) -> bool {
        !self.profile(profile).queries.is_empty()
    }
}

fn put<T>(into: &mut Vec<Option<T>>, vacant: &mut Vec<u32>, value: T) -> u32 {
    match vacant.pop() {
        Some(at) => {
            into[at as usize] = Some(value);
            at
        }
        None => {
            into.push(Some(value));
            (into.len() - 1) as u32
        }
    }
}
