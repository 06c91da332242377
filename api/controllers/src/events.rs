//! Events about the objects that controllers act on: what `kubectl describe` shows at its end.

use kelson_wire::kube::{Client, Gvr, ObjectMeta, ObjectReference, Recorder};

/// Events a second that one controller writes in the long run (ten times that in a burst); more are dropped.
const RATE: u32 = 10;

/// The events of one controller; best effort, recording never waits.
pub(crate) struct Events {
    recorder: Recorder,
}

impl Events {
    /// Events from `component`, such as `replicaset-controller`.
    pub(crate) fn new(client: &Client, component: &'static str) -> Events {
        Events { recorder: Recorder::new(client.clone(), component, RATE) }
    }

    /// Something went as intended.
    pub(crate) fn normal(&self, gvr: &Gvr, about: &ObjectMeta, reason: &'static str, message: &str) {
        self.recorder.event(&reference(gvr, about), "Normal", reason, message);
    }

    /// Something did not.
    pub(crate) fn warning(&self, gvr: &Gvr, about: &ObjectMeta, reason: &'static str, message: &str) {
        self.recorder.event(&reference(gvr, about), "Warning", reason, message);
    }
}

fn reference(gvr: &Gvr, about: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: gvr.api_version(),
        kind: gvr.kind.to_string(),
        namespace: about.namespace.clone(),
        name: about.name.clone(),
        uid: about.uid.clone(),
        field_path: String::new(),
    }
}
