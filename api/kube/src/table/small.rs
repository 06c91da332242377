//! The rows of the small kinds.

use std::collections::BTreeMap;
use std::time::SystemTime;

use kelson_wire::kube::meta::null_default;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::duration;
use super::view::{Cells, Meta, Text, View, or};

/// A kind that has no columns of its own.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Plain<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
}

impl<'a> View<'a> for Plain<'a> {
    fn cells(&self, _now: SystemTime) -> Cells {
        let created = self.metadata.creation_timestamp.as_deref().unwrap_or_default();
        vec![(&self.metadata.name).into(), created.into()]
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceAccount<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
}

impl<'a> View<'a> for ServiceAccount<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        vec![(&self.metadata.name).into(), self.metadata.age(now).into()]
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Namespace<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    status: NamespaceStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamespaceStatus<'a> {
    #[serde(borrow)]
    phase: Text<'a>,
}

impl<'a> View<'a> for Namespace<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        vec![(&self.metadata.name).into(), (&self.status.phase).into(), self.metadata.age(now).into()]
    }
}

type Keys<'a> = BTreeMap<Text<'a>, IgnoredAny>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConfigMap<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    data: Keys<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    binary_data: Keys<'a>,
}

impl<'a> View<'a> for ConfigMap<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let keys = self.data.len() + self.binary_data.len();
        vec![(&self.metadata.name).into(), keys.into(), self.metadata.age(now).into()]
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Secret<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    data: Keys<'a>,
}

impl<'a> View<'a> for Secret<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        vec![(&self.metadata.name).into(), (&self.kind).into(), self.data.len().into(), self.metadata.age(now).into()]
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lease<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    spec: LeaseSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeaseSpec<'a> {
    #[serde(borrow)]
    holder_identity: Option<Text<'a>>,
}

impl<'a> View<'a> for Lease<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let holder = self.spec.holder_identity.as_deref().unwrap_or_default();
        vec![(&self.metadata.name).into(), holder.into(), self.metadata.age(now).into()]
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Event<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    involved_object: Reference<'a>,
    #[serde(borrow)]
    reason: Text<'a>,
    #[serde(borrow)]
    message: Text<'a>,
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    source: Source<'a>,
    #[serde(borrow)]
    reporting_component: Text<'a>,
    #[serde(borrow)]
    reporting_instance: Text<'a>,
    #[serde(borrow)]
    first_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    last_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    event_time: Option<Text<'a>>,
    count: i64,
    #[serde(borrow)]
    series: Option<Series<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Reference<'a> {
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    field_path: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Source<'a> {
    #[serde(borrow)]
    component: Text<'a>,
    #[serde(borrow)]
    host: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Series<'a> {
    count: i64,
    #[serde(borrow)]
    last_observed_time: Option<Text<'a>>,
}

impl<'a> View<'a> for Event<'a> {
    fn cells(&self, now: SystemTime) -> Cells {
        let first_at = self.first_timestamp.as_deref().or(self.event_time.as_deref());
        let first = duration::since(first_at, now);
        let (last, count) = match &self.series {
            Some(series) => (duration::since(series.last_observed_time.as_deref(), now), series.count),
            None => {
                let last = match self.last_timestamp.as_deref() {
                    Some(last) => duration::since(Some(last), now),
                    None => first.clone(),
                };
                (last, self.count.max(1))
            }
        };
        let object = &self.involved_object;
        let mut target = object.kind.to_lowercase();
        if !object.name.is_empty() {
            target = format!("{target}/{}", object.name);
        }
        let component = or(&self.source.component, &self.reporting_component);
        let source = match or(&self.source.host, &self.reporting_instance) {
            "" => component.to_owned(),
            host => format!("{component}, {host}"),
        };
        vec![
            last.into(),
            (&self.kind).into(),
            (&self.reason).into(),
            target.into(),
            (&object.field_path).into(),
            source.into(),
            self.message.trim().into(),
            first.into(),
            count.into(),
            (&self.metadata.name).into(),
        ]
    }
}
