//! What pods ask for and nodes have.

use kelson_wire::kube::{meta::StringMap, quantity};

use crate::view;

/// Amounts of the resources that a kubelet admits by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Amounts {
    /// Thousandths of a core.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local storage.
    pub storage: i64,
    /// `nvidia.com/gpu`.
    pub gpus: i64,
}

impl Amounts {
    /// The requests of one container. What is malformed counts as nothing: the API server refused it already.
    pub fn of(requests: &StringMap) -> Amounts {
        let get = |name: &str| requests.get(name).and_then(|text| quantity::units(text)).unwrap_or(0).max(0);
        Amounts {
            cpu: requests.get("cpu").and_then(|text| quantity::millis(text)).unwrap_or(0).max(0),
            memory: get("memory"),
            storage: get("ephemeral-storage"),
            gpus: get("nvidia.com/gpu"),
        }
    }

    fn each(self, other: Amounts, with: impl Fn(i64, i64) -> i64) -> Amounts {
        Amounts {
            cpu: with(self.cpu, other.cpu),
            memory: with(self.memory, other.memory),
            storage: with(self.storage, other.storage),
            gpus: with(self.gpus, other.gpus),
        }
    }

    pub fn plus(self, other: Amounts) -> Amounts {
        self.each(other, i64::saturating_add)
    }

    pub fn minus(self, other: Amounts) -> Amounts {
        self.each(other, i64::saturating_sub)
    }

    fn max(self, other: Amounts) -> Amounts {
        self.each(other, i64::max)
    }
}

/// What a pod asks for in all: the larger of its running containers' sum and the peak while its init containers run, as
/// the Kubernetes documentation has it under "Init containers: resource sharing", and its overhead.
pub(crate) fn requests(spec: &view::PodSpec) -> Amounts {
    let mut sidecars = Amounts::default();
    let mut peak = Amounts::default();
    for container in &spec.init_containers {
        let own = Amounts::of(&container.resources.requests);
        if container.restart_policy == "Always" {
            sidecars = sidecars.plus(own);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.plus(own));
        }
    }
    let running =
        spec.containers.iter().fold(sidecars, |sum, container| sum.plus(Amounts::of(&container.resources.requests)));
    let mut total = running.max(peak);
    // Requests at pod level replace the sum, resource by resource.
    let own = Amounts::of(&spec.resources.requests);
    if spec.resources.requests.contains_key("cpu") {
        total.cpu = own.cpu;
    }
    if spec.resources.requests.contains_key("memory") {
        total.memory = own.memory;
    }
    total.plus(Amounts::of(&spec.overhead))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_containers_and_sidecars_count_as_documented() {
        let spec: view::PodSpec = serde_json::from_value(serde_json::json!({
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "setup", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}},
            ],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "300m", "memory": "100Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "300m"}}},
            ],
            "overhead": {"cpu": "10m"},
        }))
        .unwrap();
        let total = requests(&spec);
        assert_eq!((total.cpu, total.memory), (1110, 1 << 30));
    }
}
