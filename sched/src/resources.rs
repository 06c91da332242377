//! What a pod asks of a node: sums over containers, and the rule for containers that run before or beside them.

use std::sync::Arc;

/// Milli-CPUs that a container without a CPU request counts for in scores (not in filters).
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// Bytes that a container without a memory request counts for in scores (not in filters).
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts per resource: CPU in thousandths, memory and ephemeral storage in bytes, everything else in its own unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages by name, sorted, each name once.
    pub extended: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// Amount of the extended resource `name`, 0 where it is absent.
    pub fn extended(&self, name: &str) -> i64 {
        self.extended.binary_search_by(|(have, _)| (**have).cmp(name)).map_or(0, |at| self.extended[at].1)
    }

    /// Sets the amount of the extended resource `name`.
    pub fn set_extended(&mut self, name: &str, amount: i64) {
        match self.extended.binary_search_by(|(have, _)| (**have).cmp(name)) {
            Ok(at) => self.extended[at].1 = amount,
            Err(at) => self.extended.insert(at, (name.into(), amount)),
        }
    }

    fn combine(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.extended {
            let sum = with(self.extended(name), *amount);
            self.set_extended(name, sum);
        }
    }

    /// Adds, stopping at the largest number.
    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes the larger amount, resource by resource.
    pub fn max(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }
}

/// The requests of one container. `None` is "not given", which scores differently from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerRequests {
    pub milli_cpu: Option<i64>,
    pub memory: Option<i64>,
    pub ephemeral_storage: i64,
    pub extended: Vec<(Arc<str>, i64)>,
    /// An init container with `restartPolicy: Always`: it starts in turn and stays.
    pub sidecar: bool,
}

impl ContainerRequests {
    fn resources(&self, default_milli_cpu: i64, default_memory: i64) -> Resources {
        let mut resources = Resources {
            milli_cpu: self.milli_cpu.unwrap_or(default_milli_cpu),
            memory: self.memory.unwrap_or(default_memory),
            ephemeral_storage: self.ephemeral_storage,
            extended: Vec::new(),
        };
        for (name, amount) in &self.extended {
            resources.set_extended(name, *amount);
        }
        resources
    }
}

/// What a pod asks for, as filters see it and as scores see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Requests {
    pub resources: Resources,
    /// CPU for the least-allocated score: with the default for containers that ask for none.
    pub scored_milli_cpu: i64,
    /// Memory for the least-allocated score, likewise.
    pub scored_memory: i64,
}

impl Requests {
    /// Adds up a pod ("Resource sharing within containers" of the Kubernetes documentation on sidecars): containers and
    /// sidecars run together; an init container runs with the sidecars started before it; the pod needs the larger of
    /// both, resource by resource. Requests of the pod itself (`spec.resources`) replace the sums; overhead comes on top.
    pub fn of_pod(
        containers: &[ContainerRequests],
        init_containers: &[ContainerRequests],
        pod_level: Option<&ContainerRequests>,
        overhead: Option<&Resources>,
    ) -> Requests {
        let plain = sum(containers, init_containers, pod_level, overhead, 0, 0);
        let scored = sum(containers, init_containers, pod_level, overhead, DEFAULT_MILLI_CPU, DEFAULT_MEMORY);
        Requests { resources: plain, scored_milli_cpu: scored.milli_cpu, scored_memory: scored.memory }
    }
}

fn sum(
    containers: &[ContainerRequests],
    init_containers: &[ContainerRequests],
    pod_level: Option<&ContainerRequests>,
    overhead: Option<&Resources>,
    default_milli_cpu: i64,
    default_memory: i64,
) -> Resources {
    let mut running = Resources::default();
    for container in containers {
        running.add(&container.resources(default_milli_cpu, default_memory));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in init_containers {
        let mut now = container.resources(default_milli_cpu, default_memory);
        if container.sidecar {
            running.add(&now);
            sidecars.add(&now);
            now = sidecars.clone();
        } else {
            now.add(&sidecars);
        }
        starting.max(&now);
    }
    running.max(&starting);
    if let Some(pod_level) = pod_level {
        running.milli_cpu = pod_level.milli_cpu.unwrap_or(running.milli_cpu);
        running.memory = pod_level.memory.unwrap_or(running.memory);
        for (name, amount) in pod_level.extended.iter().filter(|(name, _)| name.starts_with("hugepages-")) {
            running.set_extended(name, *amount);
        }
    }
    if let Some(overhead) = overhead {
        running.add(overhead);
    }
    running
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(milli_cpu: i64, sidecar: bool) -> ContainerRequests {
        ContainerRequests { milli_cpu: Some(milli_cpu), memory: Some(0), sidecar, ..ContainerRequests::default() }
    }

    fn cpu(containers: &[ContainerRequests], init: &[ContainerRequests]) -> i64 {
        Requests::of_pod(containers, init, None, None).resources.milli_cpu
    }

    #[test]
    fn init_containers_count_by_the_largest_moment() {
        assert_eq!(cpu(&[asks(100, false), asks(200, false)], &[asks(250, false)]), 300);
        assert_eq!(cpu(&[asks(100, false)], &[asks(500, false), asks(400, false)]), 500);
    }

    #[test]
    fn a_sidecar_runs_with_all_that_start_after_it() {
        // Before the sidecar: 300. After it: 50 + 280. Running: 100 + 50.
        assert_eq!(cpu(&[asks(100, false)], &[asks(300, false), asks(50, true), asks(280, false)]), 330);
        assert_eq!(cpu(&[asks(100, false)], &[asks(50, true), asks(60, true)]), 210);
    }

    #[test]
    fn missing_requests_score_as_defaults_and_filter_as_nothing() {
        let requests = Requests::of_pod(&[ContainerRequests::default(), asks(0, false)], &[], None, None);
        assert_eq!(requests.resources, Resources::default());
        assert_eq!((requests.scored_milli_cpu, requests.scored_memory), (DEFAULT_MILLI_CPU, DEFAULT_MEMORY));
    }

    #[test]
    fn pod_level_requests_replace_and_overhead_adds() {
        let overhead = Resources { milli_cpu: 7, ..Resources::default() };
        let level = asks(1000, false);
        let requests = Requests::of_pod(&[asks(100, false)], &[], Some(&level), Some(&overhead));
        assert_eq!((requests.resources.milli_cpu, requests.scored_milli_cpu), (1007, 1007));
    }

    #[test]
    fn extended_resources_add_by_name() {
        let gpus = |count| ContainerRequests { extended: vec![("gpu".into(), count)], ..ContainerRequests::default() };
        let requests = Requests::of_pod(&[gpus(1), gpus(2)], &[gpus(2)], None, None);
        assert_eq!(requests.resources.extended, [("gpu".into(), 3)]);
    }
}
