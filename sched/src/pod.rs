//! Pods as the scheduler sees them, and the classes that make thousands of them one question.

use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustc_hash::{FxHashMap, FxHasher};

use crate::bond::Bonds;
use crate::columns::{Apart, Demand};
use crate::constraint::{Pairs, PodTerm, SpreadConstraint};
use crate::device::ClaimUse;
use crate::ledger::Take;
use crate::profile::Profile;
use crate::reason::Filter;
use crate::resources::Requests;
use crate::score::Scoring;
use crate::selector::{NodeSelectorTerm, named_nodes};
use crate::taint::{Toleration, tolerates_cordon};
use crate::volume::VolumeUse;

/// The caller's own number for a pod. One pod, one number, for as long as the core knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId(pub u64);

/// Transport protocol of a host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A port that a pod takes of its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    pub protocol: Protocol,
    pub port: u16,
    /// Address to bind; empty or `0.0.0.0` for all of them.
    pub ip: Arc<str>,
}

/// Everything about a pod that decides where it may and should run. Pods with equal templates are one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodTemplate {
    pub requests: Requests,
    /// The only node it asks for, by name.
    pub node_name: Option<Arc<str>>,
    /// `spec.nodeSelector`, sorted by key.
    pub node_selector: Vec<(Arc<str>, Arc<str>)>,
    /// Required node affinity: one of the terms holds. `None` where the pod has none.
    pub required: Option<Vec<NodeSelectorTerm>>,
    /// Preferred node affinity: weights 1 to 100.
    pub preferred: Vec<(i32, NodeSelectorTerm)>,
    pub tolerations: Vec<Toleration>,
    pub host_ports: Vec<HostPort>,
    /// Image of each container, init containers included, as written in the pod.
    pub images: Vec<Arc<str>>,
    pub namespace: Arc<str>,
    /// Sorted by key: what other pods' selectors see.
    pub labels: Pairs,
    pub spread: Vec<SpreadConstraint>,
    /// The constraints are not the pod's own but the cluster's default ones, which also score nodes without their keys.
    pub spread_defaulted: bool,
    /// Required pod affinity: all terms hold.
    pub affinity: Vec<PodTerm>,
    /// Required pod anti-affinity: no term holds.
    pub anti_affinity: Vec<PodTerm>,
    /// Preferred pod affinity: weights 1 to 100.
    pub preferred_affinity: Vec<(i32, PodTerm)>,
    /// Preferred pod anti-affinity, likewise.
    pub preferred_anti_affinity: Vec<(i32, PodTerm)>,
    /// Which profile decides, by its place in the list that the cluster was made with.
    pub profile: usize,
    pub volumes: Vec<VolumeUse>,
    /// ResourceClaims that it uses.
    pub claims: Vec<ClaimUse>,
    /// The pod's uid, where it owns ephemeral volumes or claims; `None` elsewhere, so that equal pods are one class.
    pub uid: Option<Arc<str>>,
    /// Features that its node has to declare, sorted.
    pub features: Vec<Arc<str>>,
}

/// A class of equal pods, known to one [`crate::Cluster`]. Hold it for as long as a pod of it may be scheduled.
#[derive(Debug)]
pub struct Class {
    pub(crate) id: u64,
    pub(crate) template: Arc<PodTemplate>,
    pub(crate) demand: Arc<Demand>,
    pub(crate) bonds: Bonds,
    /// Images with the tag that an unwritten one stands for.
    pub(crate) images: Vec<Box<str>>,
    /// The only nodes that required affinity leaves by name, if it does.
    pub(crate) named: Option<Vec<Arc<str>>>,
    pub(crate) profile: Arc<Profile>,
    /// What of the demand has to fit and what is only booked, where the profile turns filters off.
    pub(crate) apart: Option<Apart>,
    /// Scores of one node alone, where they are not the default ones.
    pub(crate) scoring: Option<Box<Scoring>>,
    /// It has volumes or claims: pods of it are placed one at a time, and every node is looked at.
    pub(crate) attached: bool,
    pub(crate) tolerates_cordon: bool,
    /// Whether a pod of it was to be placed already, or more than one is.
    asked: AtomicBool,
}

impl Class {
    /// Notes that a pod is to be placed; whether it is another one. A class with several pods is worth a plan.
    pub(crate) fn ask(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.asked.swap(true, Ordering::Relaxed)
    }

    /// What its pods have in common.
    pub fn template(&self) -> &Arc<PodTemplate> {
        &self.template
    }

    /// What has to fit.
    pub(crate) fn checked(&self) -> &[Take] {
        self.apart.as_ref().map_or(&self.demand.takes, |(checked, _)| checked)
    }
}

/// A pod to schedule.
#[derive(Clone, Debug)]
pub struct Pod {
    pub id: PodId,
    pub class: Arc<Class>,
    pub priority: i32,
}

/// What a class is made of.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub profile: Arc<Profile>,
    pub demand: Arc<Demand>,
    pub apart: Option<Apart>,
    pub scoring: Option<Box<Scoring>>,
    pub bonds: Bonds,
}

/// Classes by template. Those that no pod holds go when the table has doubled.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    by_hash: FxHashMap<u64, Vec<Arc<Class>>>,
    count: usize,
    sweep_at: usize,
    next_id: u64,
}

/// The table is not swept before it has this many classes.
const MIN_SWEEP: usize = 256;

impl Classes {
    /// The class of a template, with what is made for it if it is new.
    pub fn get(&mut self, template: &Arc<PodTemplate>, make: impl FnOnce() -> Parts) -> Arc<Class> {
        let hash = BuildHasherDefault::<FxHasher>::default().hash_one(template);
        let same_hash = self.by_hash.entry(hash).or_default();
        let same = |class: &&Arc<Class>| Arc::ptr_eq(&class.template, template) || class.template == *template;
        if let Some(class) = same_hash.iter().find(same) {
            return class.clone();
        }
        let Parts { profile, demand, apart, scoring, bonds } = make();
        let by_name = profile.filters.contains(Filter::NodeAffinity);
        let class = Arc::new(Class {
            id: self.next_id,
            demand,
            bonds,
            images: template.images.iter().map(|image| normalized_image(image)).collect(),
            named: template.required.as_deref().filter(|_| by_name).and_then(named_nodes),
            profile,
            apart,
            scoring,
            attached: !template.volumes.is_empty() || !template.claims.is_empty(),
            tolerates_cordon: tolerates_cordon(&template.tolerations),
            template: template.clone(),
            asked: AtomicBool::new(false),
        });
        same_hash.push(class.clone());
        self.next_id += 1;
        self.count += 1;
        class
    }

    /// Whether it is time to [`Classes::sweep`].
    pub fn is_due(&self) -> bool {
        self.count >= self.sweep_at.max(MIN_SWEEP)
    }

    /// Drops the classes that nobody else holds. `alive` learns the ids of those that stay, `gone` what goes.
    pub fn sweep(&mut self, mut alive: impl FnMut(u64), mut gone: impl FnMut(&Class)) {
        self.count = 0;
        self.by_hash.retain(|_, classes| {
            classes.retain(|class| {
                let held = Arc::strong_count(class) > 1;
                if !held {
                    gone(class);
                }
                held
            });
            self.count += classes.len();
            classes.iter().for_each(|class| alive(class.id));
            !classes.is_empty()
        });
        self.sweep_at = self.count * 2;
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.count
    }
}

/// An image name with `:latest` where it has neither tag nor digest, as nodes report it.
pub(crate) fn normalized_image(image: &str) -> Box<str> {
    // A colon before the last slash is the registry's port.
    let tagged = image.rfind(':') > image.rfind('/') || image.contains('@');
    if tagged { image.into() } else { format!("{image}:latest").into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_get_the_tag_they_stand_for() {
        for (image, want) in [
            ("nginx", "nginx:latest"),
            ("nginx:1.2", "nginx:1.2"),
            ("reg:5000/nginx", "reg:5000/nginx:latest"),
            ("reg:5000/nginx:1", "reg:5000/nginx:1"),
            ("nginx@sha256:00", "nginx@sha256:00"),
        ] {
            assert_eq!(&*normalized_image(image), want);
        }
    }

    #[test]
    fn equal_templates_are_one_class_and_unheld_ones_go() {
        let mut classes = Classes::default();
        let make = Parts::default;
        let template = |port| {
            let ports = vec![HostPort { protocol: Protocol::Tcp, port, ip: "".into() }];
            Arc::new(PodTemplate { host_ports: ports, ..PodTemplate::default() })
        };
        let first = classes.get(&template(1), make);
        assert_eq!(classes.get(&template(1), make).id, first.id);
        assert_ne!(classes.get(&template(2), make).id, first.id);
        let mut alive = Vec::new();
        let mut gone = 0;
        classes.sweep(|id| alive.push(id), |_| gone += 1);
        assert_eq!(gone, 1);
        assert_eq!((alive, classes.len()), (vec![first.id], 1));
    }
}
