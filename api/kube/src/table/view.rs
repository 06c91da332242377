//! What the views of all kinds have in common.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use kelson_wire::kube::meta::null_default;
use serde::Deserialize;
use serde_json::Value;

use super::duration;

/// One row.
pub(super) type Cells = Vec<Value>;

/// The part of a kind that its row is made of.
pub(super) trait View<'de>: Deserialize<'de> {
    /// Makes the row.
    fn cells(&self, now: SystemTime) -> Cells;
}

/// A string that borrows from the object where it has no escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&Text<'_>> for Value {
    fn from(text: &Text<'_>) -> Value {
        Value::String(text.0.to_string())
    }
}

/// Text, or another where it is empty.
pub(super) fn or<'b>(text: &'b str, other: &'b str) -> &'b str {
    if text.is_empty() { other } else { text }
}

/// Labels or another map of strings.
pub(super) type Labels<'a> = BTreeMap<Text<'a>, Text<'a>>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub creation_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    pub deletion_timestamp: Option<Text<'a>>,
}

impl Meta<'_> {
    pub fn age(&self, now: SystemTime) -> String {
        duration::since(self.creation_timestamp.as_deref(), now)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub status: Text<'a>,
    #[serde(borrow)]
    pub reason: Text<'a>,
}

/// Whether the condition is there and true.
pub(super) fn is_true(conditions: &[Condition<'_>], kind: &str) -> bool {
    conditions.iter().any(|condition| &*condition.kind == kind && &*condition.status == "True")
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub image: Text<'a>,
    #[serde(borrow)]
    pub restart_policy: Option<Text<'a>>,
}

/// Names and images of containers, each in one cell.
pub(super) fn layout(containers: &[Container<'_>]) -> [Value; 2] {
    let join = |part: fn(&Container<'_>) -> String| containers.iter().map(part).collect::<Vec<_>>().join(",").into();
    [join(|container| container.name.to_string()), join(|container| container.image.to_string())]
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn format_labels(labels: &Labels<'_>) -> String {
    let text = labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    if text.is_empty() { "<none>".to_owned() } else { text }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Selector<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    match_labels: Labels<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    match_expressions: Vec<Requirement<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Requirement<'a> {
    #[serde(borrow)]
    key: Text<'a>,
    #[serde(borrow)]
    operator: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    values: Vec<Text<'a>>,
}

/// A selector in the form that `kubectl -l` takes; empty if it has no requirement.
pub(super) fn format_selector(selector: Option<&Selector<'_>>) -> String {
    let Some(selector) = selector else { return String::new() };
    let mut requirements: Vec<(&str, String)> =
        selector.match_labels.iter().map(|(key, value)| (&**key, format!("{key}={value}"))).collect();
    for requirement in &selector.match_expressions {
        let key = &*requirement.key;
        let mut values: Vec<&str> = requirement.values.iter().map(|value| &**value).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match &*requirement.operator {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".to_owned(),
        };
        requirements.push((key, text));
    }
    requirements.sort_by_key(|(key, _)| *key);
    requirements.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}
