//! Devices in the model: what the API tells of claims, slices and classes, and what is written before a pod is bound.
//!
//! A pod that was placed keeps what its claims were promised; so does whoever writes about them, until the API has said
//! what became of it. A claim is then what that answer says, whatever the watch still shows of it.

mod cel;
mod prebind;
mod raw;
mod view;

use std::sync::Arc;

use kelson_sched::{
    Allocation, ClaimUse, DeviceHold, DeviceRequest, Diagnosis, Events, Filter, NodeSelectorTerm, Operator, Pod, PodId,
    Reason, Requirement,
};
use kelson_wire::kube::{Delta, Keyed};
use rustc_hash::FxHashMap;
use serde_json::{Value, json};

pub use cel::Cel;
pub use prebind::{Written, deallocate, release, write};
pub use view::{DeviceClassView, ResourceClaimView, ResourceSliceView, complete};

use super::model::{Binding, Model};
use prebind::{Consumer, Given, Writes};

/// Namespace and name of a claim.
type Key = (Arc<str>, Arc<str>);

/// Claims and classes as they were seen last.
#[derive(Debug, Default)]
pub struct Devices {
    claims: FxHashMap<Key, Arc<ResourceClaimView>>,
    classes: FxHashMap<Arc<str>, Arc<DeviceClassView>>,
}

/// The name of a claim that is there, or is to be.
fn name_of(used: &ClaimUse) -> Option<&Arc<str>> {
    match used {
        ClaimUse::Named(name) | ClaimUse::Generated { claim: name, .. } => Some(name),
        ClaimUse::Awaited { .. } => None,
    }
}

impl Model {
    /// Takes in a change of a ResourceClaim.
    pub fn resource_claim_changed(&mut self, delta: &Delta<ResourceClaimView>, now: u64) {
        let uid = |side: &Option<Arc<ResourceClaimView>>| side.as_ref().map(|view| view.meta().uid.clone());
        if let Some(old) = delta.old.as_ref().filter(|_| uid(&delta.old) != uid(&delta.new)) {
            // Gone, or replaced by another claim of the same name.
            let key = (old.meta().namespace.clone(), old.meta().name.clone());
            if self.devices.claims.get(&key).is_some_and(|known| known.meta().uid == old.meta().uid) {
                self.devices.claims.remove(&key);
                let events = self.cluster.set_resource_claim(&key.0, &key.1, None);
                self.notice("ResourceClaimDelete", events, now);
            }
        }
        if let Some(view) = &delta.new {
            self.put_claim(view, now);
        }
    }

    /// Takes in what the API answered about claims. The watch may have shown more already.
    pub fn claims_answered(&mut self, claims: &[Arc<ResourceClaimView>], now: u64) {
        for view in claims {
            let key = (view.meta().namespace.clone(), view.meta().name.clone());
            if self.devices.claims.get(&key).is_some_and(|known| known.meta().uid == view.meta().uid) {
                self.put_claim(view, now);
            }
        }
    }

    fn put_claim(&mut self, view: &Arc<ResourceClaimView>, now: u64) {
        let meta = view.meta();
        let key = (meta.namespace.clone(), meta.name.clone());
        let known = self.devices.claims.get(&key);
        if known.is_some_and(|known| known.meta().uid == meta.uid && known.meta().revision() > meta.revision()) {
            return;
        }
        let what = if known.is_some() { "ResourceClaimUpdate" } else { "ResourceClaimAdd" };
        self.devices.claims.insert(key.clone(), view.clone());
        let events = self.cluster.set_resource_claim(&key.0, &key.1, Some(view.claim.clone()));
        self.notice(what, events, now);
    }

    /// Takes in a change of a DeviceClass.
    pub fn device_class_changed(&mut self, delta: &Delta<DeviceClassView>, now: u64) {
        let name = &delta.latest().meta().name;
        match &delta.new {
            Some(view) => self.devices.classes.insert(name.clone(), view.clone()),
            None => self.devices.classes.remove(name),
        };
        let class = delta.new.as_ref().map(|view| view.class.clone());
        let events = self.cluster.set_device_class(name, class);
        let what = if delta.old.is_none() { "DeviceClassAdd" } else { "DeviceClassUpdate" };
        self.notice(what, events, now);
    }

    /// Takes in a change of a ResourceSlice.
    pub fn resource_slice_changed(&mut self, delta: &Delta<ResourceSliceView>, now: u64) {
        let slice = delta.new.as_ref().map(|view| view.slice.clone());
        let events = self.cluster.set_resource_slice(&delta.latest().meta().name, slice);
        let what = if delta.old.is_none() { "ResourceSliceAdd" } else { "ResourceSliceUpdate" };
        self.notice(what, events, now);
    }

    /// What a pod's going changes for pods that wait for devices.
    pub(super) fn devices_of(&self, id: PodId) -> Events {
        let promised = self.cluster.device_plan(id).is_some_and(|plan| !plan.is_empty());
        if promised { Events::DEVICES } else { Events::default() }
    }

    /// The claims of a pod, where its profile looks at them.
    fn claims_of(&self, binding: &Binding) -> Vec<(Arc<str>, Option<Arc<ResourceClaimView>>)> {
        let on =
            self.profiles.get(binding.profile).is_none_or(|one| one.core.filters.contains(Filter::DynamicResources));
        let mut claims: Vec<(Arc<str>, Option<Arc<ResourceClaimView>>)> = Vec::new();
        for name in binding.view.template.claims.iter().filter(|_| on).filter_map(name_of) {
            if claims.iter().all(|(have, _)| have != name) {
                let key = (binding.view.meta().namespace.clone(), name.clone());
                claims.push((name.clone(), self.devices.claims.get(&key).cloned()));
            }
        }
        claims
    }

    /// What has to be written about claims before a pod is bound, `None` where nothing has to; and what has to be held
    /// until it is.
    ///
    /// # Errors
    /// Why it cannot be: the pod has to be placed anew.
    pub fn device_writes(&mut self, binding: &Binding) -> Option<Result<(Writes, Option<DeviceHold>), String>> {
        let meta = binding.view.meta();
        let pod = Consumer { name: meta.name.clone(), uid: meta.uid.clone() };
        let plan = self.cluster.device_plan(binding.id).cloned().unwrap_or_default();
        let mut claims = Vec::new();
        for (name, view) in self.claims_of(binding) {
            let Some(view) = view else {
                return Some(Err(format!("could not find ResourceClaim \"{}/{name}\"", meta.namespace)));
            };
            let planned = plan.iter().find(|(claim, _)| *claim == name).filter(|_| view.claim.allocation.is_none());
            let given = planned.map(|(_, allocation)| Given {
                devices: allocation.devices.clone(),
                allocation: self.allocation(&view, allocation),
            });
            if given.is_some() || !view.is_reserved_for(&pod.uid) {
                claims.push((view, given));
            }
        }
        if claims.is_empty() {
            return None;
        }
        let hold = self.cluster.hold_devices(binding.id);
        Some(Ok((Writes { pod, claims }, hold)))
    }

    /// Claims that are reserved for a pod: where its binding is refused, they are so no more.
    pub fn reserved(&self, binding: &Binding) -> Vec<Arc<ResourceClaimView>> {
        let claims = self.claims_of(binding).into_iter().filter_map(|(_, view)| view);
        claims.filter(|view| view.is_reserved_for(&binding.view.meta().uid)).collect()
    }

    /// Ends a hold on devices.
    pub fn release_devices(&mut self, hold: Option<DeviceHold>, now: u64) {
        if let Some(hold) = hold {
            let events = self.cluster.release_devices(hold);
            self.notice("ResourceClaimUpdate", events, now);
        }
    }

    /// For a pod that no node takes: a claim whose devices may be freed because they are where the pod cannot be; and
    /// what kube-scheduler says of that.
    pub(super) fn deallocation(
        &self,
        pod: &Pod,
        diagnosis: &Diagnosis,
    ) -> (Option<Arc<ResourceClaimView>>, Option<&'static str>) {
        let template = pod.class.template();
        let profile = self.profiles.get(template.profile);
        let on = profile.is_none_or(|one| one.core.filters.contains(Filter::DynamicResources));
        let Some(known) = self.pods.get(&pod.id).filter(|_| on && !template.claims.is_empty()) else {
            return (None, None);
        };
        match &diagnosis.refusal {
            Some(refusal) if refusal.filter() == Filter::DynamicResources => {
                return (None, Some("no new claims to deallocate"));
            }
            Some(_) => return (None, None),
            None => {}
        }
        let uid = &known.view.meta().uid;
        let unused = |view: &&Arc<ResourceClaimView>| {
            let bound = view.claim.allocation.as_ref().is_some_and(|allocation| allocation.nodes.is_some());
            bound && view.reserved_for.iter().all(|one| one["uid"] == **uid)
        };
        let names = template.claims.iter().filter_map(name_of);
        let found = names
            .filter_map(|name| self.devices.claims.get(&(template.namespace.clone(), name.clone())))
            .find(unused)
            .filter(|_| diagnosis.reasons.contains_key(&Reason::ClaimElsewhere));
        let said = if found.is_some() { "deallocation of ResourceClaim completed" } else { "still not schedulable" };
        (found.cloned(), Some(said))
    }

    /// `status.allocation` of a claim.
    fn allocation(&self, view: &ResourceClaimView, allocation: &Allocation) -> Value {
        let results: Vec<Value> = allocation
            .devices
            .iter()
            .map(|one| {
                let mut result = json!({
                    "request": &*one.request, "driver": &*one.driver, "pool": &*one.pool, "device": &*one.device,
                });
                if one.admin {
                    result["adminAccess"] = json!(true);
                }
                if let Some((_, tolerations)) = view.tolerations.iter().find(|(name, _)| *name == one.request) {
                    result["tolerations"] = json!(tolerations);
                }
                result
            })
            .collect();
        let mut value = json!({"devices": {"results": results}});
        let config = self.config(view, allocation);
        if !config.is_empty() {
            value["devices"]["config"] = json!(config);
        }
        if let Some(terms) = &allocation.nodes {
            value["nodeSelector"] = json!({"nodeSelectorTerms": terms.iter().map(selector_term).collect::<Vec<_>>()});
        }
        value
    }

    /// The configuration that comes with devices: of their classes, then of the claim, as far as it concerns the
    /// choices that were made.
    fn config(&self, view: &ResourceClaimView, allocation: &Allocation) -> Vec<Value> {
        let requests = &view.claim.requests;
        let given = |name: &str| allocation.devices.iter().any(|one| *one.request == *name);
        let chosen = |request: &DeviceRequest| {
            let choice = request.choices.iter().find(|choice| given(&request.full_name(choice)))?;
            Some((request.full_name(choice), choice.class.clone()))
        };
        let mut of_classes: Vec<(Arc<str>, Vec<Arc<str>>)> = Vec::new();
        for (name, class) in requests.iter().filter_map(chosen) {
            match of_classes.iter_mut().find(|(have, _)| *have == class) {
                Some((_, names)) => names.push(name),
                None => of_classes.push((class, vec![name])),
            }
        }
        let mut config = Vec::new();
        let mut add = |source: &str, names: &[&str], one: &Value| {
            let mut entry = one.clone();
            entry["source"] = json!(source);
            // None stands for all.
            if names.is_empty() || names.len() == requests.len() {
                entry.as_object_mut().map(|entry| entry.remove("requests"));
            } else {
                entry["requests"] = json!(names);
            }
            config.push(entry);
        };
        for (class, names) in &of_classes {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            for one in self.devices.classes.get(class).iter().flat_map(|view| &view.config) {
                add("FromClass", &names, one);
            }
        }
        for one in &view.config {
            let names: Vec<&str> = one["requests"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let concerns = |request: &DeviceRequest| {
                names.contains(&&*request.name) || chosen(request).is_some_and(|(name, _)| names.contains(&&*name))
            };
            if names.is_empty() || requests.iter().any(concerns) {
                add("FromClaim", &names, one);
            }
        }
        config
    }
}

fn operator(operator: Operator) -> &'static str {
    match operator {
        Operator::In => "In",
        Operator::NotIn => "NotIn",
        Operator::Exists => "Exists",
        Operator::DoesNotExist => "DoesNotExist",
        Operator::Gt => "Gt",
        Operator::Lt => "Lt",
    }
}

fn selector_term(term: &NodeSelectorTerm) -> Value {
    let requirement = |one: &Requirement| {
        let values: Vec<&str> = one.values.iter().map(|value| &**value).collect();
        let mut requirement = json!({"key": &*one.key, "operator": operator(one.operator)});
        if !values.is_empty() {
            requirement["values"] = json!(values);
        }
        requirement
    };
    let mut value = json!({});
    for (name, list) in [("matchExpressions", &term.expressions), ("matchFields", &term.fields)] {
        if !list.is_empty() {
            value[name] = json!(list.iter().map(requirement).collect::<Vec<_>>());
        }
    }
    value
}

#[cfg(test)]
mod tests;
