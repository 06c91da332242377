//! The rows of workloads.

use std::time::SystemTime;

use kelson_wire::kube::meta::null_default;
use serde::Deserialize;

use super::duration;
use super::view::{
    Cells, Condition, Container, Labels, Meta, Selector, Text, View, format_labels, format_selector, is_true, layout,
    or,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Template<'a> {
    #[serde(borrow)]
    metadata: TemplateMeta<'a>,
    #[serde(borrow)]
    spec: TemplateSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateMeta<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    labels: Labels<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TemplateSpec<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    containers: Vec<Container<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    node_selector: Labels<'a>,
}

/// The part of `spec` that the workloads share.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec<'a> {
    replicas: Option<i64>,
    completions: Option<i64>,
    parallelism: Option<i64>,
    #[serde(borrow)]
    selector: Option<Selector<'a>>,
    #[serde(borrow)]
    template: Template<'a>,
}

impl Spec<'_> {
    /// The cells that all workloads end with.
    fn wide(&self, cells: &mut Cells) {
        cells.extend(layout(&self.template.spec.containers));
        cells.push(or(&format_selector(self.selector.as_ref()), "<none>").into());
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodTemplate<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    template: Template<'a>,
}

impl<'a> View<'a> for PodTemplate<'a> {
    fn cells(&self, _now: SystemTime) -> Cells {
        let [names, images] = layout(&self.template.spec.containers);
        vec![(&self.metadata.name).into(), names, images, format_labels(&self.template.metadata.labels).into()]
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Deployment<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    status: DeploymentStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeploymentStatus {
    ready_replicas: i64,
    updated_replicas: i64,
    available_replicas: i64,
}

impl<'a> View<'a> for Deployment<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let mut cells = vec![
            (&self.metadata.name).into(),
            format!("{}/{}", self.status.ready_replicas, self.spec.replicas.unwrap_or_default()).into(),
            self.status.updated_replicas.into(),
            self.status.available_replicas.into(),
            self.metadata.age(now).into(),
        ];
        cells.extend(layout(&self.spec.template.spec.containers));
        cells.push(format_selector(self.spec.selector.as_ref()).into());
        cells
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ReplicaSet<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    status: ReplicaSetStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ReplicaSetStatus {
    replicas: i64,
    ready_replicas: i64,
}

impl<'a> View<'a> for ReplicaSet<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let mut cells = vec![
            (&self.metadata.name).into(),
            self.spec.replicas.unwrap_or_default().into(),
            self.status.replicas.into(),
            self.status.ready_replicas.into(),
            self.metadata.age(now).into(),
        ];
        self.spec.wide(&mut cells);
        cells
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DaemonSet<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    status: DaemonSetStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DaemonSetStatus {
    desired_number_scheduled: i64,
    current_number_scheduled: i64,
    number_ready: i64,
    updated_number_scheduled: i64,
    number_available: i64,
}

impl<'a> View<'a> for DaemonSet<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let status = &self.status;
        let mut cells = vec![
            (&self.metadata.name).into(),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.into(),
            status.number_available.into(),
            format_labels(&self.spec.template.spec.node_selector).into(),
            self.metadata.age(now).into(),
        ];
        self.spec.wide(&mut cells);
        cells
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Job<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    #[serde(borrow)]
    status: JobStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobStatus<'a> {
    succeeded: i64,
    #[serde(borrow)]
    start_time: Option<Text<'a>>,
    #[serde(borrow)]
    completion_time: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    conditions: Vec<Condition<'a>>,
}

impl Job<'_> {
    fn status(&self) -> &'static str {
        let has = |kind| is_true(&self.status.conditions, kind);
        match () {
            () if has("Complete") => "Complete",
            () if has("Failed") => "Failed",
            () if self.metadata.deletion_timestamp.is_some() => "Terminating",
            () if has("Suspended") => "Suspended",
            () if has("FailureTarget") => "FailureTarget",
            () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
            () => "Running",
        }
    }

    fn completions(&self) -> String {
        let succeeded = self.status.succeeded;
        match (self.spec.completions, self.spec.parallelism.unwrap_or_default()) {
            (Some(completions), _) => format!("{succeeded}/{completions}"),
            (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        }
    }

    fn duration(&self, now: SystemTime) -> String {
        match (&self.status.start_time, &self.status.completion_time) {
            (None, _) => String::new(),
            (Some(start), None) => duration::since(Some(start), now),
            (Some(start), Some(end)) => duration::between(start, end).unwrap_or_default(),
        }
    }
}

impl<'a> View<'a> for Job<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let mut cells = vec![
            (&self.metadata.name).into(),
            self.status().into(),
            self.completions().into(),
            self.duration(now).into(),
            self.metadata.age(now).into(),
        ];
        self.spec.wide(&mut cells);
        cells
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ControllerRevision<'a> {
    #[serde(borrow)]
    metadata: OwnedMeta<'a>,
    revision: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OwnedMeta<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    creation_timestamp: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    owner_references: Vec<Owner<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Owner<'a> {
    #[serde(borrow)]
    api_version: Text<'a>,
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    controller: Option<bool>,
}

impl<'a> View<'a> for ControllerRevision<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let owner = self.metadata.owner_references.iter().find(|owner| owner.controller == Some(true));
        let controller = owner.map_or("<none>".to_owned(), |owner| {
            let kind = owner.kind.to_lowercase();
            match owner.api_version.split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
                None => format!("{kind}/{}", owner.name),
            }
        });
        vec![
            (&self.metadata.name).into(),
            controller.into(),
            self.revision.into(),
            duration::since(self.metadata.creation_timestamp.as_deref(), now).into(),
        ]
    }
}
