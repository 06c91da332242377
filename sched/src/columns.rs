//! Which column of the ledger stands for what: the fixed ones, extended resources by name, host ports.
//!
//! A host port is a resource too: a pod on all addresses takes the whole column of its port, a pod on one address
//! takes one unit of it and the whole column of that address and port. So ports are claimed exactly as CPU is.

use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};

use crate::ledger::{Ledger, MAX_AMOUNT, Take};
use crate::pod::{HostPort, Protocol};
use crate::profile::Profile;
use crate::reason::Filter;
use crate::resources::Requests;

pub(crate) const PODS: u32 = 0;
pub(crate) const MILLI_CPU: u32 = 1;
pub(crate) const MEMORY: u32 = 2;
/// Booked, never claimed: CPU and memory with the defaults that scores assume.
pub(crate) const SCORED_MILLI_CPU: u32 = 3;
pub(crate) const SCORED_MEMORY: u32 = 4;
pub(crate) const EPHEMERAL_STORAGE: u32 = 5;
const FIXED: u32 = 6;

/// Units of a port: more than there can be addresses on a node.
const WHOLE_PORT: i64 = 1 << 16;

/// What a column counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Fixed,
    Extended(Arc<str>),
    Port(Protocol, u16),
    PortAt(Protocol, u16, Arc<str>),
    /// Free for another use.
    Vacant,
}

impl Kind {
    /// What each node has of it without saying so.
    fn own_capacity(&self) -> i64 {
        match self {
            Kind::Port(..) => WHOLE_PORT,
            Kind::PortAt(..) => 1,
            Kind::Fixed | Kind::Extended(_) | Kind::Vacant => 0,
        }
    }
}

/// What pods of one size and set of ports take of a node.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Demand {
    /// In column order, which is the order of claiming.
    pub takes: Vec<Take>,
    pub milli_cpu: i64,
    pub memory: i64,
    pub scored_milli_cpu: i64,
    pub scored_memory: i64,
}

impl Demand {
    /// What is booked beside the claim.
    pub fn scored(&self) -> [Take; 2] {
        [
            Take { column: SCORED_MILLI_CPU, amount: self.scored_milli_cpu },
            Take { column: SCORED_MEMORY, amount: self.scored_memory },
        ]
    }
}

/// What of a demand has to fit, and what is only booked.
pub(crate) type Apart = (Box<[Take]>, Box<[Take]>);

/// The table of columns and of demands on them.
#[derive(Debug)]
pub(crate) struct Columns {
    kinds: Vec<Kind>,
    /// Nodes and demands that refer to the column.
    holds: Vec<u32>,
    by_kind: FxHashMap<Kind, u32>,
    vacant: Vec<u32>,
    demands: FxHashMap<u64, Vec<Arc<Demand>>>,
    demand_count: usize,
    sweep_at: usize,
}

/// Demands are not swept before there are this many.
const MIN_SWEEP: usize = 256;

impl Columns {
    /// The fixed columns, in `ledger` too.
    pub fn new(ledger: &mut Ledger) -> Columns {
        for column in 0..FIXED {
            let placed = ledger.put_column(None, 0);
            debug_assert_eq!(placed, column);
        }
        Columns {
            kinds: vec![Kind::Fixed; FIXED as usize],
            holds: vec![1; FIXED as usize],
            by_kind: FxHashMap::default(),
            vacant: Vec::new(),
            demands: FxHashMap::default(),
            demand_count: 0,
            sweep_at: MIN_SWEEP,
        }
    }

    /// What a column counts.
    pub fn kind(&self, column: u32) -> &Kind {
        &self.kinds[column as usize]
    }

    /// The extended resources that any node has or any pod asks for.
    pub fn extended(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.by_kind.iter().filter_map(|(kind, column)| match kind {
            Kind::Extended(name) => Some((name, *column)),
            _ => None,
        })
    }

    /// The column of an extended resource, if any node has it or any pod asks for it.
    pub fn find_extended(&self, name: &Arc<str>) -> Option<u32> {
        self.by_kind.get(&Kind::Extended(name.clone())).copied()
    }

    /// What of a demand a profile lets pods take unchecked, if anything.
    pub fn part(&self, demand: &Demand, profile: &Profile) -> Option<Apart> {
        let on = |filter| profile.filters.contains(filter);
        let (resources, ports) = (on(Filter::NodeResourcesFit), on(Filter::NodePorts));
        if resources && ports && profile.ignored_resources.is_empty() && profile.ignored_groups.is_empty() {
            return None;
        }
        let checked = |take: &Take| match self.kind(take.column) {
            Kind::Port(..) | Kind::PortAt(..) => ports,
            Kind::Extended(name) => resources && !profile.ignores(name),
            Kind::Fixed | Kind::Vacant => resources,
        };
        let (checked, free): (Vec<Take>, Vec<Take>) = demand.takes.iter().partition(|take| checked(take));
        Some((checked.into(), free.into()))
    }

    /// What a new row has of a column, `None` for one that is vacant.
    pub fn own_capacity(&self, column: u32) -> Option<i64> {
        let kind = self.kind(column);
        (*kind != Kind::Vacant).then(|| kind.own_capacity())
    }

    /// The column of `kind`, held once more.
    pub fn hold(&mut self, ledger: &mut Ledger, kind: Kind) -> u32 {
        if let Some(&column) = self.by_kind.get(&kind) {
            self.holds[column as usize] += 1;
            return column;
        }
        let reused = self.vacant.pop();
        let column = ledger.put_column(reused, kind.own_capacity());
        if reused.is_some() {
            self.kinds[column as usize] = kind.clone();
            self.holds[column as usize] = 1;
        } else {
            self.kinds.push(kind.clone());
            self.holds.push(1);
        }
        self.by_kind.insert(kind, column);
        column
    }

    /// Gives a hold back; a column without any is vacated.
    pub fn drop_hold(&mut self, ledger: &mut Ledger, column: u32) {
        let holds = &mut self.holds[column as usize];
        *holds -= 1;
        if *holds == 0 {
            let kind = std::mem::replace(&mut self.kinds[column as usize], Kind::Vacant);
            self.by_kind.remove(&kind);
            self.vacant.push(column);
            ledger.vacate_column(column);
        }
    }

    /// The demand of pods with these requests and ports.
    pub fn demand(&mut self, ledger: &mut Ledger, requests: &Requests, ports: &[HostPort]) -> Arc<Demand> {
        if self.demand_count >= self.sweep_at {
            self.sweep(ledger);
        }
        let amount = |wanted: i64| wanted.clamp(0, MAX_AMOUNT);
        let resources = &requests.resources;
        let mut takes = vec![Take { column: PODS, amount: 1 }];
        for (column, wanted) in [
            (MILLI_CPU, resources.milli_cpu),
            (MEMORY, resources.memory),
            (EPHEMERAL_STORAGE, resources.ephemeral_storage),
        ] {
            takes.push(Take { column, amount: amount(wanted) });
        }
        for (name, wanted) in &resources.extended {
            let column = self.hold(ledger, Kind::Extended(name.clone()));
            takes.push(Take { column, amount: amount(*wanted) });
        }
        for (kind, amount) in port_kinds(ports) {
            takes.push(Take { column: self.hold(ledger, kind), amount });
        }
        takes.retain(|take| {
            let keep = take.amount > 0;
            if !keep && take.column >= FIXED {
                self.drop_hold(ledger, take.column);
            }
            keep
        });
        takes.sort_unstable_by_key(|take| take.column);
        let demand = Demand {
            takes,
            milli_cpu: amount(resources.milli_cpu),
            memory: amount(resources.memory),
            scored_milli_cpu: amount(requests.scored_milli_cpu),
            scored_memory: amount(requests.scored_memory),
        };
        let hash = BuildHasherDefault::<FxHasher>::default().hash_one(&demand);
        if let Some(known) = self.demands.get(&hash).and_then(|same| same.iter().find(|known| ***known == demand)) {
            let known = known.clone();
            for take in demand.takes.iter().filter(|take| take.column >= FIXED) {
                self.drop_hold(ledger, take.column);
            }
            return known;
        }
        let demand = Arc::new(demand);
        self.demands.entry(hash).or_default().push(demand.clone());
        self.demand_count += 1;
        demand
    }

    /// Forgets the demands that no pod and no class holds.
    pub fn sweep(&mut self, ledger: &mut Ledger) {
        let mut gone = Vec::new();
        self.demands.retain(|_, same| {
            same.retain(|demand| {
                let held = Arc::strong_count(demand) > 1;
                if !held {
                    gone.extend(demand.takes.iter().map(|take| take.column).filter(|column| *column >= FIXED));
                    self.demand_count -= 1;
                }
                held
            });
            !same.is_empty()
        });
        for column in gone {
            self.drop_hold(ledger, column);
        }
        self.sweep_at = (self.demand_count * 2).max(MIN_SWEEP);
    }
}

/// The columns that host ports take, each once.
fn port_kinds(ports: &[HostPort]) -> Vec<(Kind, i64)> {
    let is_wildcard = |port: &HostPort| port.ip.is_empty() || &*port.ip == "0.0.0.0";
    let mut kinds: Vec<(Kind, i64)> = Vec::new();
    let mut add = |kind: Kind, amount: i64| match kinds.iter_mut().find(|(have, _)| *have == kind) {
        Some((_, have)) => *have = (*have + amount).min(WHOLE_PORT),
        None => kinds.push((kind, amount)),
    };
    for port in ports.iter().filter(|port| is_wildcard(port)) {
        add(Kind::Port(port.protocol, port.port), WHOLE_PORT);
    }
    let mut specific: Vec<&HostPort> = ports.iter().filter(|port| !is_wildcard(port)).collect();
    specific.sort_unstable();
    specific.dedup();
    for port in specific {
        add(Kind::Port(port.protocol, port.port), 1);
        add(Kind::PortAt(port.protocol, port.port, port.ip.clone()), 1);
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;

    fn port(port: u16, ip: &str) -> HostPort {
        HostPort { protocol: Protocol::Tcp, port, ip: ip.into() }
    }

    #[test]
    fn ports_conflict_as_their_addresses_overlap() {
        let mut ledger = Ledger::default();
        let mut columns = Columns::new(&mut ledger);
        let mut demand = |ports: &[HostPort]| columns.demand(&mut ledger, &Requests::default(), ports);
        let [all, one, other] =
            [&[port(80, "")][..], &[port(80, "10.0.0.1")], &[port(80, "10.0.0.2")]].map(&mut demand);
        let both = demand(&[port(80, "0.0.0.0"), port(80, "10.0.0.1")]);
        let node = ledger.push_row(|column| columns.own_capacity(column).map(|own| own.max(100)));
        let ports_of = |demand: &Demand| -> Vec<Take> {
            demand.takes.iter().copied().filter(|take| take.column >= FIXED).collect()
        };
        assert!(ledger.claim(node, &ports_of(&one)));
        assert!(ledger.claim(node, &ports_of(&other)), "another address");
        assert!(!ledger.claim(node, &ports_of(&all)));
        ledger.release(node, &ports_of(&one));
        ledger.release(node, &ports_of(&other));
        assert!(ledger.claim(node, &ports_of(&both)), "a pod does not conflict with itself");
        assert!(!ledger.claim(node, &ports_of(&one)));
    }

    #[test]
    fn columns_go_with_the_last_demand() {
        let mut ledger = Ledger::default();
        let mut columns = Columns::new(&mut ledger);
        ledger.push_row(|column| columns.own_capacity(column));
        let gpus = Resources { extended: vec![("gpu".into(), 1)], ..Resources::default() };
        let requests = Requests { resources: gpus, ..Requests::default() };
        let demand = columns.demand(&mut ledger, &requests, &[port(80, "")]);
        assert!(Arc::ptr_eq(&demand, &columns.demand(&mut ledger, &requests, &[port(80, "")])));
        drop(demand);
        columns.sweep(&mut ledger);
        assert_eq!(columns.vacant.len(), 2);
        ledger.push_row(|column| columns.own_capacity(column));
        let again = columns.demand(&mut ledger, &requests, &[]);
        assert_eq!(ledger.capacity(again.takes[1].column, crate::ledger::NodeId(1)), 0);
    }
}
