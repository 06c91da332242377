//! VMs from outside: created, deleted, made to fail.

use std::sync::Arc;

use crate::Millis;
use crate::agents::Agents;
use crate::config::MAX_NODES;
use crate::node::{Mode, Node};
use crate::provider::{ProviderError, Vm, VmRequest};
use crate::queue::Slot;
use crate::size;
use crate::view;

impl Agents {
    /// Lets an agent fail, or come back.
    ///
    /// # Errors
    /// If there is no VM of this name.
    pub fn set_mode(&mut self, name: &str, mode: Mode, now: Millis) -> Result<(), ProviderError> {
        let slot = *self.names.get(name).ok_or_else(|| ProviderError::NotFound(name.into()))?;
        let Some(node) = self.nodes.get_mut(slot) else { return Ok(()) };
        let before = std::mem::replace(&mut node.mode, mode);
        if mode != Mode::Up || before == Mode::Up {
            return Ok(());
        }
        node.stale = true;
        // What the API says by now may differ from what was last seen.
        node.lease.version = "".into();
        self.want_node(slot);
        self.want_lease(slot);
        let pods: Vec<Slot> =
            self.pods.iter().filter(|(_, pod)| pod.node == slot.index).map(|(slot, _)| slot).collect();
        for pod in pods {
            let key = self.pods.get(pod).map(|pod| pod.key.clone());
            match key.as_ref().and_then(|key| self.parked.remove(key)) {
                Some(Some(news)) => self.pod(now, news),
                Some(None) => self.forget(pod),
                None => self.attend(pod, now),
            }
        }
        let bound = |pod: &Option<Box<view::Pod>>| pod.as_ref().is_some_and(|pod| pod.spec.node_name == name);
        let keys: Vec<Arc<str>> =
            self.parked.iter().filter(|(_, pod)| bound(pod)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Some(Some(news)) = self.parked.remove(&key) {
                self.pod(now, news);
            }
        }
        Ok(())
    }

    /// Creates a VM.
    ///
    /// # Errors
    /// As [`crate::Provider::create`].
    pub fn create_vm(&mut self, request: &VmRequest, now: Millis) -> Result<Vm, ProviderError> {
        let name = request.name.as_str();
        let valid = !name.is_empty()
            && name.len() <= 63
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !valid {
            return Err(ProviderError::InvalidName(name.into()));
        }
        let size = size::find(&request.size).ok_or_else(|| ProviderError::UnknownSize(request.size.clone()))?;
        if self.names.contains_key(name) {
            return Err(ProviderError::Exists(name.into()));
        }
        if self.names.len() >= MAX_NODES {
            return Err(ProviderError::Quota(MAX_NODES));
        }
        let slot = self.add(name, size, request.pool.as_str().into(), request.zone.as_str().into(), now);
        if self.started {
            self.boot(slot, now);
        }
        self.nodes.get(slot).map(vm).ok_or_else(|| ProviderError::NotFound(name.into()))
    }

    /// Deletes a VM with everything on it.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn delete_vm(&mut self, name: &str) -> Result<(), ProviderError> {
        let slot = self.names.remove(name).ok_or_else(|| ProviderError::NotFound(name.into()))?;
        let pods: Vec<Slot> =
            self.pods.iter().filter(|(_, pod)| pod.node == slot.index).map(|(slot, _)| slot).collect();
        for pod in pods {
            self.forget(pod);
        }
        self.parked.retain(|_, pod| pod.as_ref().is_none_or(|pod| pod.spec.node_name != name));
        self.counted(slot, |agents| {
            agents.nodes.remove(slot);
        });
        Ok(())
    }

    /// All VMs, in order of their names.
    pub fn vms(&self) -> Vec<Vm> {
        let mut vms: Vec<Vm> = self.nodes().map(vm).collect();
        vms.sort_by(|a, b| a.name.cmp(&b.name));
        vms
    }
}

fn vm(node: &Node) -> Vm {
    Vm {
        name: node.name.to_string(),
        size: node.size,
        pool: node.pool.to_string(),
        zone: node.zone.to_string(),
        up: node.mode == Mode::Up,
    }
}
