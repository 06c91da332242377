//! A pod's status as the agent reports it: one strategic merge patch with everything the kubelet owns.

use std::net::Ipv4Addr;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::Millis;
use crate::container::{Container, Ended, Stage};
use crate::digest::{hex64, mix};
use crate::image;
use crate::node::stamp;
use crate::plan::Restart;
use crate::pod::{CONDITIONS, Phase, Pod, pause};

#[derive(Serialize)]
struct Patch<'a> {
    /// A uid that differs is a conflict: the status of a pod is never written to its namesake.
    metadata: Meta<'a>,
    status: Status<'a>,
}

#[derive(Serialize)]
struct Meta<'a> {
    uid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    #[serde(skip_serializing_if = "is_zero")]
    observed_generation: i64,
    phase: &'static str,
    conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    start_time: String,
    #[serde(rename = "hostIP", skip_serializing_if = "str::is_empty")]
    host_ip: &'a str,
    #[serde(rename = "hostIPs", skip_serializing_if = "Vec::is_empty")]
    host_ips: Vec<Address>,
    #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
    pod_ips: Vec<Address>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_container_statuses: Vec<ContainerStatus<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    container_statuses: Vec<ContainerStatus<'a>>,
}

#[derive(Serialize)]
struct Address {
    ip: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    r#type: &'static str,
    status: &'static str,
    last_probe_time: Option<()>,
    last_transition_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus<'a> {
    name: &'a str,
    image: String,
    #[serde(rename = "imageID")]
    image_id: String,
    #[serde(rename = "containerID", skip_serializing_if = "String::is_empty")]
    container_id: String,
    ready: bool,
    started: bool,
    restart_count: u32,
    state: State,
    last_state: State,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<RunningState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    terminated: Option<Terminated>,
}

#[derive(Serialize)]
struct Waiting {
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunningState {
    started_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Terminated {
    exit_code: i32,
    reason: &'static str,
    started_at: String,
    finished_at: String,
    #[serde(rename = "containerID")]
    container_id: String,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// The patch that brings the API's status of a pod up to date.
pub(crate) fn patch(pod: &Pod, host: &str, timings: &crate::Timings) -> Result<Box<RawValue>, serde_json::Error> {
    let (_, name) = pod.names();
    let address = |ip: Ipv4Addr| if pod.plan.host_network { host.to_string() } else { ip.to_string() };
    let pod_ip = pod.ip.map(address);
    let statuses = |range: std::ops::Range<usize>| {
        range.map(|index| container_status(pod, index, name, timings)).collect::<Vec<_>>()
    };
    let status = Status {
        observed_generation: pod.generation,
        phase: pod.phase.name(),
        conditions: (0..CONDITIONS.len()).map(|at| condition(pod, at)).collect(),
        reason: pod.failure.as_ref().map(|failure| failure.reason.as_str()),
        message: pod.failure.as_ref().map(|failure| failure.message.as_str()),
        start_time: stamp(pod.started),
        host_ip: host,
        host_ips: vec![Address { ip: host.to_string() }],
        pod_ips: pod_ip.iter().map(|ip| Address { ip: ip.clone() }).collect(),
        pod_ip,
        // A refused pod never had containers.
        init_container_statuses: if pod.is_refused() { Vec::new() } else { statuses(0..pod.plan.inits) },
        container_statuses: if pod.is_refused() { Vec::new() } else { statuses(pod.plan.inits..pod.containers.len()) },
    };
    serde_json::value::to_raw_value(&Patch { metadata: Meta { uid: &pod.uid }, status })
}

impl Pod {
    /// Whether its node never took it.
    fn is_refused(&self) -> bool {
        self.phase == Phase::Failed && self.failure.is_some() && !self.containers.iter().any(Container::has_run)
    }
}

fn condition(pod: &Pod, at: usize) -> Condition {
    let (value, since) = pod.conditions[at];
    let (mut reason, mut message) = (None, None);
    if at >= 1 {
        match pod.phase {
            Phase::Succeeded => reason = Some("PodCompleted"),
            Phase::Failed if !value => reason = Some("PodFailed"),
            _ if value => {}
            _ if at == 1 => {
                let waiting = names(pod, 0..pod.plan.inits, |container| container.final_code() != Some(0));
                reason = Some("ContainersNotInitialized");
                message = Some(format!("containers with incomplete status: [{waiting}]"));
            }
            _ if at == 3 && pod.conditions[2].0 => reason = Some("ReadinessGatesNotReady"),
            _ => {
                let unready = names(pod, pod.plan.inits..pod.containers.len(), |container| !container.ready);
                reason = Some("ContainersNotReady");
                message = Some(format!("containers with unready status: [{unready}]"));
            }
        }
    }
    Condition {
        r#type: CONDITIONS[at],
        status: if value { "True" } else { "False" },
        last_probe_time: None,
        last_transition_time: stamp(since),
        reason,
        message,
    }
}

fn names(pod: &Pod, range: std::ops::Range<usize>, wanted: impl Fn(&Container) -> bool) -> String {
    let names = range.filter(|index| wanted(&pod.containers[*index])).map(|index| &*pod.plan.containers[index].name);
    names.collect::<Vec<_>>().join(" ")
}

fn container_status<'a>(pod: &'a Pod, index: usize, pod_name: &str, timings: &crate::Timings) -> ContainerStatus<'a> {
    let plan = &pod.plan.containers[index];
    let container = &pod.containers[index];
    let up = container.is_up();
    let id = |run: u32| {
        let mut id = String::from("containerd://");
        hex64(mix(u64::from(run), &pod.uid) ^ mix(index as u64, &plan.name), &mut id);
        id
    };
    let ended = |ended: &Ended, run: u32| State { terminated: Some(terminated(ended, id(run))), ..State::default() };
    let waiting = |reason: &'static str, message: Option<String>| State {
        waiting: Some(Waiting { reason, message }),
        ..State::default()
    };
    let before =
        |run: Option<&Ended>| run.map_or_else(State::default, |run| ended(run, container.restarts.saturating_sub(1)));
    let last = before(container.last.as_deref());
    let (state, last_state) = match (container.stage, &container.exited) {
        (Stage::Running(running), _) => (started(running.since), last),
        (Stage::Killing { since, .. }, _) => (started(since), last),
        (Stage::BackOff { .. }, Some(exited)) => {
            let text = format!(
                "back-off {} restarting failed container={} pod={pod_name}_{}({})",
                span(pause(container.level.saturating_sub(2), timings)),
                plan.name,
                pod.names().0,
                pod.uid
            );
            (waiting("CrashLoopBackOff", Some(text)), ended(exited, container.restarts))
        }
        (Stage::PullFailed { reason, .. }, exited) => {
            let text = match reason {
                "ImagePullBackOff" => format!("Back-off pulling image \"{}\"", plan.image),
                "ErrImageNeverPull" => {
                    format!("Container image \"{}\" is not present with pull policy of Never", plan.image)
                }
                "InvalidImageName" => format!(
                    "Failed to apply default image tag \"{0}\": couldn't parse image name \"{0}\": invalid reference format",
                    plan.image
                ),
                _ => format!("failed to pull and unpack image \"{}\": not found", image::normalized(&plan.image)),
            };
            let last_state = exited.as_ref().map_or(last, |exited| ended(exited, container.restarts));
            (waiting(reason, Some(text)), last_state)
        }
        // Between two runs the last one's end is shown.
        (_, Some(exited)) => (ended(exited, container.restarts), last),
        (_, None) => {
            let initializing = pod.plan.is_main(index) && pod.plan.inits > 0 && !pod.initialized();
            (waiting(if initializing { "PodInitializing" } else { "ContainerCreating" }, None), last)
        }
    };
    let has_run = container.has_run();
    ContainerStatus {
        name: &plan.name,
        image: if has_run { image::normalized(&plan.image) } else { plan.image.to_string() },
        image_id: if has_run { image_id(&plan.image) } else { String::new() },
        container_id: if has_run { id(container.restarts) } else { String::new() },
        // An init container is ready when it has done its work.
        ready: match pod.plan.is_main(index) || plan.sidecar {
            true => container.ready,
            false => container.final_code() == Some(0),
        },
        started: up && container.started,
        restart_count: container.restarts,
        state,
        last_state,
    }
}

fn started(since: Millis) -> State {
    State { running: Some(RunningState { started_at: stamp(since) }), ..State::default() }
}

fn terminated(ended: &Ended, container_id: String) -> Terminated {
    Terminated {
        exit_code: ended.code,
        reason: ended.reason,
        started_at: stamp(ended.started),
        finished_at: stamp(ended.finished),
        container_id,
    }
}

fn image_id(name: &str) -> String {
    if name.contains("@sha256:") {
        return image::normalized(name);
    }
    let mut id = image::repository(name);
    id.push_str("@sha256:");
    hex64(mix(0, &image::normalized(name)), &mut id);
    id
}

/// A back-off as the kubelet prints it: `10s`, `2m40s`.
fn span(length: Millis) -> String {
    let seconds = length / 1000;
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

/// Whether a pod's end is looked at by somebody, so that it is written before the pod goes.
pub(crate) fn end_is_watched(restart: Restart, has_finalizers: bool) -> bool {
    has_finalizers || restart != Restart::Always
}
