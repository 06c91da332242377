//! What is kept of a pod's spec. Pods of one template share one plan.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::Millis;
use crate::config::Timings;
use crate::probe::{Probe, ProbeKind};
use crate::program::Program;
use crate::resources::{self, Amounts};
use crate::shell::{Surroundings, seconds};
use crate::view;

/// Annotations that tell what probes find: `sim.kelson.dev/readiness`, or `sim.kelson.dev/readiness.<container>`.
pub(crate) const ANNOTATION: &str = "sim.kelson.dev/";

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    fn of(text: &str) -> Restart {
        match text {
            "Never" => Restart::Never,
            "OnFailure" => Restart::OnFailure,
            _ => Restart::Always,
        }
    }
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pull {
    Always,
    IfNotPresent,
    Never,
}

/// Where an environment variable's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EnvValue {
    Text(Box<str>),
    Field(Box<str>),
}

/// A hook: how long it takes and whether it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HookPlan {
    pub takes: Millis,
    pub code: i32,
}

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub port: u16,
    pub protocol: Box<str>,
    /// Empty for all addresses.
    pub ip: Box<str>,
}

/// A container of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ContainerPlan {
    pub name: Box<str>,
    pub image: Box<str>,
    pub pull: Pull,
    pub program: Program,
    pub env: Box<[(Box<str>, EnvValue)]>,
    pub restart: Restart,
    /// An init container that keeps running.
    pub sidecar: bool,
    pub probes: Box<[Probe]>,
    pub post_start: Option<HookPlan>,
    pub pre_stop: Option<HookPlan>,
}

/// What is kept of a pod's spec.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Plan {
    /// Init containers first.
    pub containers: Box<[ContainerPlan]>,
    /// How many are init containers.
    pub inits: usize,
    pub restart: Restart,
    pub grace: Millis,
    pub deadline: Option<Millis>,
    pub host_network: bool,
    pub hostname: Box<str>,
    pub gates: Box<[Box<str>]>,
    pub requests: Amounts,
    pub host_ports: Box<[HostPort]>,
}

impl Plan {
    /// Works a pod's spec out.
    pub fn of(pod: &view::Pod, timings: &Timings) -> Plan {
        let spec = &pod.spec;
        let restart = Restart::of(&spec.restart_policy);
        let containers = spec
            .init_containers
            .iter()
            .map(|container| (container, true))
            .chain(spec.containers.iter().map(|container| (container, false)))
            .map(|(container, init)| container_plan(pod, container, init, restart, timings))
            .collect();
        let all = spec.init_containers.iter().filter(|c| c.restart_policy == "Always").chain(&spec.containers);
        let host_ports = all
            .flat_map(|container| &container.ports)
            .map(|port| (port, if spec.host_network { port.container_port } else { port.host_port }))
            .filter_map(|(port, number)| {
                Some(HostPort {
                    port: u16::try_from(number).ok().filter(|number| *number > 0)?,
                    protocol: if port.protocol.is_empty() { "TCP".into() } else { port.protocol.as_str().into() },
                    ip: port.host_ip.as_str().into(),
                })
            })
            .collect();
        Plan {
            containers,
            inits: spec.init_containers.len(),
            restart,
            grace: milliseconds(spec.termination_grace_period_seconds.unwrap_or(30)),
            deadline: spec.active_deadline_seconds.map(milliseconds),
            host_network: spec.host_network,
            hostname: spec.hostname.as_str().into(),
            gates: spec.readiness_gates.iter().map(|gate| gate.condition_type.as_str().into()).collect(),
            requests: resources::requests(spec),
            host_ports,
        }
    }

    /// Whether a container is one of the pod's own, not an init container.
    pub fn is_main(&self, index: usize) -> bool {
        index >= self.inits
    }
}

/// Milliseconds in non-negative seconds, at most ten years.
pub(crate) fn milliseconds(seconds: i64) -> Millis {
    Millis::try_from(seconds.clamp(0, 315_360_000)).unwrap_or(0) * 1000
}

fn container_plan(
    pod: &view::Pod,
    container: &view::Container,
    init: bool,
    pod_restart: Restart,
    timings: &Timings,
) -> ContainerPlan {
    let sidecar = init && container.restart_policy == "Always";
    let restart = match (container.restart_policy.as_str(), init) {
        ("", false) => pod_restart,
        // An init container runs until it has succeeded, or once where the pod never restarts anything.
        ("", true) if pod_restart == Restart::Never => Restart::Never,
        ("", true) => Restart::OnFailure,
        (text, _) => Restart::of(text),
    };
    let said = |kind: ProbeKind| {
        let annotations = &pod.metadata.annotations;
        let own = format!("{ANNOTATION}{}.{}", kind.name(), container.name);
        let text = annotations.get(&own).or_else(|| annotations.get(&format!("{ANNOTATION}{}", kind.name())));
        text.map(String::as_str)
    };
    let probes = [
        (ProbeKind::Startup, &container.startup_probe),
        (ProbeKind::Readiness, &container.readiness_probe),
        (ProbeKind::Liveness, &container.liveness_probe),
    ];
    let uses_env = container.command.iter().chain(&container.args).any(|arg| arg.contains('$'));
    let env = container.env.iter().filter(|_| uses_env).map(|variable| {
        let value = match &variable.value_from.field_ref {
            Some(field) => EnvValue::Field(field.field_path.as_str().into()),
            None => EnvValue::Text(variable.value.as_str().into()),
        };
        (variable.name.as_str().into(), value)
    });
    ContainerPlan {
        name: container.name.as_str().into(),
        image: container.image.as_str().into(),
        pull: match container.image_pull_policy.as_str() {
            "Always" => Pull::Always,
            "Never" => Pull::Never,
            _ => Pull::IfNotPresent,
        },
        program: Program::of(&expanded(container), restart == Restart::Always, timings),
        env: env.collect(),
        restart,
        sidecar,
        probes: probes
            .into_iter()
            .filter_map(|(kind, probe)| Some(Probe::of(kind, probe.as_ref()?, container, said(kind))))
            .collect(),
        post_start: container.lifecycle.post_start.as_ref().map(|hook| hook_plan(hook, timings)),
        pre_stop: container.lifecycle.pre_stop.as_ref().map(|hook| hook_plan(hook, timings)),
    }
}

/// Command and arguments with `$(NAME)` replaced, as the kubelet does before the shell sees them. Names that are not
/// literal in the pod stay as they are, like unknown ones.
fn expanded(container: &view::Container) -> view::Container {
    let mut container = container.clone();
    for text in container.command.iter_mut().chain(&mut container.args) {
        for variable in container.env.iter().filter(|variable| variable.value_from.field_ref.is_none()) {
            let reference = format!("$({})", variable.name);
            if text.contains(&reference) {
                *text = text.replace(&reference, &variable.value);
            }
        }
    }
    container
}

/// Surroundings of a hook: it sees nothing of the pod.
struct Hooked(Millis);

impl Surroundings for Hooked {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
    fn started(&self) -> Millis {
        0
    }
    fn hostname(&self) -> String {
        String::new()
    }
    fn serves(&self) -> bool {
        false
    }
    fn work(&self) -> Millis {
        self.0
    }
}

fn hook_plan(hook: &view::Hook, timings: &Timings) -> HookPlan {
    if let Some(sleep) = &hook.sleep {
        return HookPlan { takes: milliseconds(sleep.seconds), code: 0 };
    }
    let Some(exec) = &hook.exec else { return HookPlan { takes: 0, code: 0 } };
    if let [program, arg] = exec.command.as_slice()
        && crate::shell::base(program) == "sleep"
    {
        return HookPlan { takes: seconds(std::slice::from_ref(arg)).unwrap_or(Millis::MAX), code: 0 };
    }
    let container = view::Container { command: exec.command.clone(), ..view::Container::default() };
    let (takes, code) = match Program::of(&container, false, timings) {
        program @ Program::Script(_) => program.outcome(&Hooked(0)).exit.unwrap_or((Millis::MAX, 0)),
        // A program that is not known is quick.
        _ => (0, 0),
    };
    HookPlan { takes, code }
}

/// The plans in use, each once.
#[derive(Default)]
pub(crate) struct Plans {
    plans: FxHashSet<Arc<Plan>>,
}

impl Plans {
    /// The shared form of a plan.
    pub fn share(&mut self, plan: Plan) -> Arc<Plan> {
        if let Some(known) = self.plans.get(&plan) {
            return known.clone();
        }
        let plan = Arc::new(plan);
        self.plans.insert(plan.clone());
        plan
    }

    /// Forgets a plan that its last pod has given up.
    pub fn release(&mut self, plan: Arc<Plan>) {
        // One count for the set, one for the caller.
        if Arc::strong_count(&plan) <= 2 {
            self.plans.remove(&plan);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.plans.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_of_one_template_share_a_plan() {
        let pod = |name: &str| -> view::Pod {
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name},
                "spec": {"containers": [{"name": "c", "image": "nginx", "env": [{"name": "A", "value": name}]}]},
            }))
            .unwrap()
        };
        let timings = Timings::default();
        let mut plans = Plans::default();
        let (first, second) = (plans.share(Plan::of(&pod("a"), &timings)), plans.share(Plan::of(&pod("b"), &timings)));
        assert!(Arc::ptr_eq(&first, &second) && plans.len() == 1);
        plans.release(first);
        assert_eq!(plans.len(), 1);
        plans.release(second);
        assert_eq!(plans.len(), 0);
    }

    #[test]
    fn hooks_and_arguments_are_worked_out() {
        let pod: view::Pod = serde_json::from_value(json!({
            "metadata": {"name": "a", "annotations": {"sim.kelson.dev/readiness.c": "fail"}},
            "spec": {"hostNetwork": true, "containers": [{
                "name": "c", "image": "x", "command": ["sh", "-c", "exit $(CODE)"],
                "env": [{"name": "CODE", "value": "7"}], "ports": [{"containerPort": 80}],
                "readinessProbe": {"tcpSocket": {"port": 80}},
                "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "sleep 2; exit 1"]}},
                              "preStop": {"sleep": {"seconds": 3}}},
            }]},
        }))
        .unwrap();
        let plan = Plan::of(&pod, &Timings::default());
        let container = &plan.containers[0];
        assert_eq!(container.program.outcome(&Hooked(0)).exit, Some((0, 7)));
        assert_eq!(container.post_start, Some(HookPlan { takes: 2000, code: 1 }));
        assert_eq!(container.pre_stop, Some(HookPlan { takes: 3000, code: 0 }));
        assert_eq!(container.probes[0].finding, crate::probe::Finding::Fails);
        assert_eq!(plan.host_ports[0].port, 80);
    }
}
