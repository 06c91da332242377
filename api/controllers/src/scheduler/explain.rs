//! What the scheduler would say to one pod now, node by node: the cluster is read through the API, and the core is asked.

use kelson_sched::{Pod, Waits};
use kelson_wire::kube::{ApiError, Client, Delta, Gvr, Keyed, ListParams};
use serde::Serialize;
use std::sync::Arc;

use super::Metrics;
use super::configuration::ProfileSettings;
use super::model::Model;
use super::source::{
    ATTACHMENTS, BUDGETS, CAPACITIES, CLAIMS, CSI_DRIVERS, CSI_NODES, DEVICE_CLASSES, REPLICATION_CONTROLLERS,
    RESOURCE_CLAIMS, RESOURCE_SLICES, STATEFUL_SETS, STORAGE_CLASSES, VOLUMES,
};
use super::spreading::OwnerKind;
use super::view::PodView;

/// Objects per page of a list.
const PAGE: usize = 500;

/// Why a pod is, or would be put, where it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub namespace: String,
    pub name: String,
    pub scheduler_name: String,
    /// Where it is bound. What follows is then as if it were to be placed anew, with itself taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What keeps it from being placed at all, whatever the nodes say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The sentence for the condition `PodScheduled` if no node takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Nodes that take it, the best first, then those that do not, by name.
    pub nodes: Vec<NodeVerdict>,
}

/// What one node says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeVerdict {
    pub node: String,
    /// The filter that rejects and its reasons; `None` where the node takes the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejection>,
    /// One for each scoring plugin that has a weight; empty where the node is rejected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Score>,
    /// Their weighted sum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
}

/// Why a node rejects.
#[derive(Debug, Serialize)]
pub struct Rejection {
    pub filter: String,
    pub reasons: Vec<String>,
}

/// What one plugin says of a node.
#[derive(Debug, Serialize)]
pub struct Score {
    pub plugin: &'static str,
    /// From 0 to 100.
    pub score: i64,
    pub weight: i64,
}

/// Explains a pod from the live state.
///
/// # Errors
/// The API's; 404 if there is no such pod.
pub async fn explain(client: &Client, namespace: &str, name: &str) -> Result<Explanation, ApiError> {
    let pod: PodView = client.get(&Gvr::PODS, namespace, name).await?;
    let mut model = Model::new(vec![ProfileSettings::default()], 1, 0, Waits::default(), Metrics::new(""));
    let no = 0;
    for view in all(client, &Gvr::NAMESPACES).await? {
        model.namespace_changed(&view, no);
    }
    all(client, &BUDGETS).await?.iter().for_each(|delta| model.budget_changed(delta));
    all(client, &Gvr::SERVICES).await?.iter().for_each(|delta| model.spreading.service_changed(delta));
    for delta in all(client, &REPLICATION_CONTROLLERS).await? {
        model.spreading.pairs_owner_changed(OwnerKind::ReplicationController, &delta);
    }
    for (kind, gvr) in [(OwnerKind::ReplicaSet, Gvr::REPLICA_SETS), (OwnerKind::StatefulSet, STATEFUL_SETS)] {
        all(client, &gvr).await?.iter().for_each(|delta| model.spreading.selector_owner_changed(kind, delta));
    }
    all(client, &Gvr::NODES).await?.iter().for_each(|delta| model.node_changed(delta, no));
    all(client, &STORAGE_CLASSES).await?.iter().for_each(|delta| model.class_changed(delta, no));
    all(client, &CSI_DRIVERS).await?.iter().for_each(|delta| model.driver_changed(delta, no));
    all(client, &CSI_NODES).await?.iter().for_each(|delta| model.limits_changed(delta, no));
    all(client, &CAPACITIES).await?.iter().for_each(|delta| model.capacity_changed(delta, no));
    all(client, &ATTACHMENTS).await?.iter().for_each(|delta| model.attachment_changed(delta, no));
    all(client, &VOLUMES).await?.iter().for_each(|delta| model.volume_changed(delta, no));
    all(client, &CLAIMS).await?.iter().for_each(|delta| model.claim_changed(delta, no));
    all(client, &RESOURCE_SLICES).await?.iter().for_each(|delta| model.resource_slice_changed(delta, no));
    all(client, &DEVICE_CLASSES).await?.iter().for_each(|delta| model.device_class_changed(delta, no));
    all(client, &RESOURCE_CLAIMS).await?.iter().for_each(|delta| model.resource_claim_changed(delta, no));
    for delta in all::<PodView>(client, &Gvr::PODS).await? {
        if delta.latest().meta().uid != pod.meta().uid {
            model.pod_changed(&delta, no);
        }
    }
    Ok(model.explain(&pod))
}

/// Every object of a kind, as a change from nothing; nothing where the server lacks the kind or keeps it to itself.
async fn all<T: Keyed>(client: &Client, gvr: &Gvr) -> Result<Vec<Delta<T>>, ApiError> {
    let mut params = ListParams { limit: PAGE, ..ListParams::default() };
    let mut listed = Vec::new();
    loop {
        let page = match client.list::<T>(gvr, "", &params).await {
            Err(error) if error.is_not_found() => return Ok(listed),
            page => page?,
        };
        listed.extend(page.items.into_iter().map(|item| Delta { old: None, new: Some(Arc::new(item)) }));
        if page.metadata.continue_token.is_empty() {
            return Ok(listed);
        }
        params.continue_token = page.metadata.continue_token;
    }
}

impl Model {
    /// What every node says to a pod that is not in the model.
    fn explain(&mut self, pod: &PodView) -> Explanation {
        let template = self.completed(pod).unwrap_or_else(|| pod.template.clone());
        let class = self.cluster.class(&template);
        let asked = Pod { id: self.new_id(), class: class.clone(), priority: pod.priority };
        let mut nodes: Vec<NodeVerdict> = Vec::with_capacity(self.cluster.nodes());
        for found in self.cluster.explain_pod(&asked).nodes {
            let node = self.cluster.node_name(found.node).to_string();
            let first = found.filters.iter().find(|(_, reasons)| !reasons.is_empty());
            let rejected = first.map(|(filter, reasons)| Rejection {
                filter: filter.name().to_string(),
                reasons: reasons.iter().map(ToString::to_string).collect(),
            });
            let (lines, total) = found.scores.unzip();
            let score = |line: kelson_sched::ScoreLine| Score {
                plugin: line.plugin,
                score: line.normalized,
                weight: line.weight,
            };
            let scores = lines.into_iter().flatten().map(score).collect();
            nodes.push(NodeVerdict { node, rejected, scores, total });
        }
        nodes.sort_by(|a, b| (b.total, &a.node).cmp(&(a.total, &b.node)));
        let feasible = nodes.first().is_some_and(|node| node.total.is_some());
        let meta = pod.meta();
        Explanation {
            namespace: meta.namespace.to_string(),
            name: meta.name.to_string(),
            scheduler_name: pod.scheduler_name.to_string(),
            node: Some(&*pod.node_name).filter(|node| !node.is_empty()).map(String::from),
            held: held(pod),
            message: (!feasible).then(|| self.cluster.diagnose(&class).to_string()),
            nodes,
        }
    }
}

fn held(pod: &PodView) -> Option<String> {
    if pod.gated {
        return Some("its scheduling gates hold it back".into());
    }
    if pod.ended {
        return Some("it has ended".into());
    }
    if pod.meta().is_terminating() {
        return Some("it is being deleted".into());
    }
    None
}
