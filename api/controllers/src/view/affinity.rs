//! Which nodes a pod may go to.

use kelson_wire::kube::meta::{StringMap, null_default};
use serde::Deserialize;

/// `spec.affinity`, in the part that excludes nodes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Affinity {
    #[serde(deserialize_with = "null_default")]
    node_affinity: NodeAffinity,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelector {
    #[serde(deserialize_with = "null_default")]
    node_selector_terms: Vec<NodeSelectorTerm>,
}

/// All of its requirements have to hold; without any it matches nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelectorTerm {
    #[serde(deserialize_with = "null_default")]
    match_expressions: Vec<Requirement>,
    #[serde(deserialize_with = "null_default")]
    match_fields: Vec<Requirement>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Requirement {
    key: String,
    operator: String,
    #[serde(deserialize_with = "null_default")]
    values: Vec<String>,
}

impl Affinity {
    /// Whether a node with this name and these labels is allowed.
    pub(crate) fn allows(&self, name: &str, labels: &StringMap) -> bool {
        match &self.node_affinity.required_during_scheduling_ignored_during_execution {
            None => true,
            Some(selector) => selector.node_selector_terms.iter().any(|term| term.matches(name, labels)),
        }
    }

    /// The node that a single field requirement names.
    pub(crate) fn one_node(&self) -> Option<String> {
        let selector = self.node_affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        let fields = selector.node_selector_terms.iter().flat_map(|term| &term.match_fields);
        let mut named = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
        named.find_map(|field| match field.values.as_slice() {
            [name] => Some(name.clone()),
            _ => None,
        })
    }
}

impl NodeSelectorTerm {
    fn matches(&self, name: &str, labels: &StringMap) -> bool {
        let some = !self.match_expressions.is_empty() || !self.match_fields.is_empty();
        some && self.match_expressions.iter().all(|each| each.holds(labels.get(&each.key).map(String::as_str)))
            && self.match_fields.iter().all(|each| each.holds((each.key == "metadata.name").then_some(name)))
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|each| each == value);
        let compared = || {
            let number = value?.parse::<i64>().ok()?;
            Some(number.cmp(&self.values.first()?.parse::<i64>().ok()?))
        };
        match self.operator.as_str() {
            "In" => value.is_some_and(listed),
            "NotIn" => !value.is_some_and(listed),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => compared().is_some_and(std::cmp::Ordering::is_gt),
            "Lt" => compared().is_some_and(std::cmp::Ordering::is_lt),
            _ => false,
        }
    }
}
