//! The row of a pod: its status in one word.

use std::time::SystemTime;

use kelson_wire::kube::meta::null_default;
use serde::Deserialize;

use super::duration;
use super::view::{Cells, Condition, Container, Meta, Text, View, is_true, or};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    #[serde(borrow)]
    status: Status<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    containers: Vec<Container<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    init_containers: Vec<Container<'a>>,
    #[serde(borrow)]
    node_name: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    readiness_gates: Vec<Gate<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Gate<'a> {
    #[serde(borrow)]
    condition_type: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status<'a> {
    #[serde(borrow)]
    phase: Text<'a>,
    #[serde(borrow)]
    reason: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    conditions: Vec<Condition<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    container_statuses: Vec<ContainerStatus<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    init_container_statuses: Vec<ContainerStatus<'a>>,
    #[serde(borrow)]
    nominated_node_name: Text<'a>,
    #[serde(borrow, rename = "podIP")]
    pod_ip: Text<'a>,
    #[serde(borrow, rename = "podIPs", deserialize_with = "null_default")]
    pod_ips: Vec<Ip<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ip<'a> {
    #[serde(borrow)]
    ip: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    ready: bool,
    started: Option<bool>,
    restart_count: i64,
    #[serde(borrow)]
    state: State<'a>,
    #[serde(borrow)]
    last_state: State<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct State<'a> {
    #[serde(borrow)]
    waiting: Option<Waiting<'a>>,
    running: Option<Running>,
    #[serde(borrow)]
    terminated: Option<Terminated<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Waiting<'a> {
    #[serde(borrow)]
    reason: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct Running {}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Terminated<'a> {
    #[serde(borrow)]
    reason: Text<'a>,
    exit_code: i64,
    signal: i64,
    #[serde(borrow)]
    finished_at: Option<Text<'a>>,
}

impl Terminated<'_> {
    /// The reason, or how it ended.
    fn why(&self) -> String {
        match (&*self.reason, self.signal) {
            ("", 0) => format!("ExitCode:{}", self.exit_code),
            ("", signal) => format!("Signal:{signal}"),
            (reason, _) => reason.to_owned(),
        }
    }
}

/// Reason and message of the condition that the row of a finished pod carries.
pub(super) fn completed(phase: &str) -> Option<(&'static str, &'static str)> {
    match phase {
        "Succeeded" => Some(("Succeeded", "The pod has completed successfully.")),
        "Failed" => Some(("Failed", "The pod failed.")),
        _ => None,
    }
}

/// Restarts counted, and when the last one was. Timestamps are all in UTC and whole seconds, so they compare as text.
#[derive(Clone, Default)]
struct Restarts<'b> {
    count: i64,
    last: Option<&'b str>,
}

impl<'b> Restarts<'b> {
    fn add(&mut self, status: &'b ContainerStatus<'_>) {
        self.count += status.restart_count;
        let ended = status.last_state.terminated.as_ref().and_then(|ended| ended.finished_at.as_deref());
        self.last = self.last.max(ended);
    }

    fn text(&self, now: SystemTime) -> String {
        match self.last {
            Some(last) if self.count != 0 => format!("{} ({} ago)", self.count, duration::since(Some(last), now)),
            _ => self.count.to_string(),
        }
    }
}

/// What the containers say together.
struct Summary<'b> {
    reason: String,
    ready: usize,
    restarts: Restarts<'b>,
}

impl Pod<'_> {
    fn is_sidecar(&self, name: &str) -> bool {
        let container = self.spec.init_containers.iter().find(|container| &*container.name == name);
        container.is_some_and(|container| container.restart_policy.as_deref() == Some("Always"))
    }

    fn summary(&self) -> Summary<'_> {
        let status = &self.status;
        let mut reason = or(&status.reason, &status.phase).to_owned();
        if status.conditions.iter().any(|c| &*c.kind == "PodScheduled" && &*c.reason == "SchedulingGated") {
            reason = "SchedulingGated".to_owned();
        }
        let mut ready = 0;
        let mut restarts = Restarts::default();
        let mut sidecars = Restarts::default();
        let mut initializing = false;
        for (at, container) in status.init_container_statuses.iter().enumerate() {
            let sidecar = self.is_sidecar(&container.name);
            restarts.add(container);
            if sidecar {
                sidecars.add(container);
            }
            let state = &container.state;
            match (&state.terminated, &state.waiting) {
                (Some(ended), _) if ended.exit_code == 0 => continue,
                _ if sidecar && container.started == Some(true) => {
                    ready += usize::from(container.ready);
                    continue;
                }
                (Some(ended), _) => reason = format!("Init:{}", ended.why()),
                (None, Some(waiting)) if !matches!(&*waiting.reason, "" | "PodInitializing") => {
                    reason = format!("Init:{}", waiting.reason);
                }
                _ => reason = format!("Init:{at}/{}", self.spec.init_containers.len()),
            }
            initializing = true;
            break;
        }
        let mut summary = Summary { reason, ready, restarts };
        if !initializing || is_true(&status.conditions, "Initialized") {
            summary.restarts = sidecars;
            self.add_containers(&mut summary);
        }
        summary
    }

    fn add_containers<'b>(&'b self, summary: &mut Summary<'b>) {
        let mut running = false;
        let mut failure = None;
        for container in self.status.container_statuses.iter().rev() {
            summary.restarts.add(container);
            let state = &container.state;
            match (&state.waiting, &state.terminated) {
                (Some(waiting), _) if !waiting.reason.is_empty() => summary.reason = waiting.reason.to_string(),
                (_, Some(ended)) => {
                    summary.reason = ended.why();
                    if ended.exit_code != 0 {
                        failure = Some(summary.reason.clone());
                    }
                }
                _ if container.ready && state.running.is_some() => {
                    running = true;
                    summary.ready += 1;
                }
                _ => {}
            }
        }
        if summary.reason == "Completed" {
            if running && is_true(&self.status.conditions, "Ready") {
                summary.reason = "Running".to_owned();
            } else if let Some(failure) = failure {
                summary.reason = failure;
            } else if running {
                summary.reason = "NotReady".to_owned();
            }
        }
    }

    fn readiness_gates(&self) -> String {
        let gates = &self.spec.readiness_gates;
        if gates.is_empty() {
            return "<none>".to_owned();
        }
        let open = gates.iter().filter(|gate| is_true(&self.status.conditions, &gate.condition_type)).count();
        format!("{open}/{}", gates.len())
    }
}

impl<'a> View<'a> for Pod<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let Summary { mut reason, ready, restarts } = self.summary();
        if self.metadata.deletion_timestamp.is_some() {
            if &*self.status.reason == "NodeLost" {
                reason = "Unknown".to_owned();
            } else if !matches!(&*self.status.phase, "Succeeded" | "Failed") {
                reason = "Terminating".to_owned();
            }
        }
        let sidecars =
            self.spec.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always")).count();
        let total = self.spec.containers.len() + sidecars;
        let ip = self.status.pod_ips.first().map_or(&*self.status.pod_ip, |ip| &*ip.ip);
        vec![
            (&self.metadata.name).into(),
            format!("{ready}/{total}").into(),
            reason.into(),
            restarts.text(now).into(),
            self.metadata.age(now).into(),
            or(ip, "<none>").into(),
            or(&self.spec.node_name, "<none>").into(),
            or(&self.status.nominated_node_name, "<none>").into(),
            self.readiness_gates().into(),
        ]
    }
}
