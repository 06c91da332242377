//! Records Kubernetes Events, best effort: an Event tells a person what happened; nothing may wait for one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::client::{Client, Gvr};
use super::timestamp;

/// Events that may wait to be written; further ones are dropped and counted.
const QUEUE: usize = 1_000;
/// Longest message, in bytes, that the API accepts.
const MAX_MESSAGE: usize = 1_024;

/// What an event is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    pub api_version: String,
    pub kind: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub uid: Arc<str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_path: String,
}

/// Tokens that refill over time: what bounds the rate of writes.
struct Bucket {
    tokens: f64,
    filled: SystemTime,
}

struct Entry {
    regarding: ObjectReference,
    kind: &'static str,
    reason: &'static str,
    message: String,
    host: String,
    at: SystemTime,
}

/// A handle that components keep; clones share one queue, one rate and one writer task.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    component: &'static str,
    per_second: f64,
    burst: f64,
    bucket: Mutex<Bucket>,
    queue: OnceLock<mpsc::Sender<Entry>>,
    dropped: AtomicU64,
}

impl Recorder {
    /// Events from `component`, at most `per_second` in the long run and `10 * per_second` in a burst.
    /// What comes faster is dropped: under load, work goes before reports of it.
    pub fn new(client: Client, component: &'static str, per_second: u32) -> Recorder {
        let per_second = f64::from(per_second);
        let burst = per_second * 10.0;
        Recorder {
            shared: Arc::new(Shared {
                client,
                component,
                per_second,
                burst,
                bucket: Mutex::new(Bucket { tokens: burst, filled: SystemTime::now() }),
                queue: OnceLock::new(),
                dropped: AtomicU64::new(0),
            }),
        }
    }

    /// Records an event of `kind` `Normal` or `Warning`. Never waits; must be called inside a tokio runtime.
    pub fn event(&self, regarding: &ObjectReference, kind: &'static str, reason: &'static str, message: &str) {
        self.event_from(regarding, kind, reason, message, "");
    }

    /// The same from a component that runs on `host` (a node's agent).
    pub fn event_from(
        &self,
        regarding: &ObjectReference,
        kind: &'static str,
        reason: &'static str,
        message: &str,
        host: &str,
    ) {
        let at = SystemTime::now();
        if !self.take_token(at) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let cut = message.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_MESSAGE).last().unwrap_or(0);
        let message = if message.len() <= MAX_MESSAGE { message } else { &message[..cut] };
        let entry = Entry {
            regarding: regarding.clone(),
            kind,
            reason,
            message: message.to_string(),
            host: host.to_string(),
            at,
        };
        let queue = self.shared.queue.get_or_init(|| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            tokio::spawn(write(self.shared.client.clone(), self.shared.component, receiver));
            sender
        });
        if queue.try_send(entry).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Number of events dropped so far, for metrics.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn take_token(&self, now: SystemTime) -> bool {
        let mut bucket = self.shared.bucket.lock();
        let elapsed = now.duration_since(bucket.filled).unwrap_or(Duration::ZERO).as_secs_f64();
        bucket.tokens = (bucket.tokens + elapsed * self.shared.per_second).min(self.shared.burst);
        bucket.filled = now;
        let granted = bucket.tokens >= 1.0;
        if granted {
            bucket.tokens -= 1.0;
        }
        granted
    }
}

/// Ends when every recorder handle is gone.
async fn write(client: Client, component: &'static str, mut queue: mpsc::Receiver<Entry>) {
    while let Some(entry) = queue.recv().await {
        let namespace: Arc<str> =
            if entry.regarding.namespace.is_empty() { "default".into() } else { entry.regarding.namespace.clone() };
        let event = render(component, &namespace, &entry);
        let created: Result<serde::de::IgnoredAny, _> = client.create(&Gvr::EVENTS, &namespace, &event).await;
        if let Err(error) = created {
            tracing::debug!(%error, reason = entry.reason, "event not recorded");
        }
    }
}

fn render(component: &str, namespace: &str, entry: &Entry) -> Value {
    let at = timestamp::format(entry.at);
    let nanos = entry.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos();
    let mut source = json!({ "component": component });
    if !entry.host.is_empty() {
        source["host"] = json!(entry.host);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": format!("{}.{nanos:x}", entry.regarding.name), "namespace": namespace },
        "involvedObject": entry.regarding,
        "reason": entry.reason,
        "message": entry.message,
        "type": entry.kind,
        "source": source,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
        "reportingComponent": component,
        "reportingInstance": entry.host,
        "eventTime": null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::{Body, BoxError, Transport, full};
    use bytes::Bytes;

    struct Collector(mpsc::UnboundedSender<Value>);

    #[async_trait::async_trait]
    impl Transport for Collector {
        async fn call(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BoxError> {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/shop/events");
            self.0.send(serde_json::from_slice(request.body())?)?;
            Ok(http::Response::new(full("{}")))
        }
    }

    #[tokio::test]
    async fn writes_events_and_drops_what_exceeds_the_burst() {
        let (sender, mut seen) = mpsc::unbounded_channel();
        let recorder = Recorder::new(Client::new(Arc::new(Collector(sender)), "test"), "tester", 1);
        let regarding =
            ObjectReference { kind: "Pod".into(), name: "web".into(), namespace: "shop".into(), ..Default::default() };
        for _ in 0..100 {
            recorder.event(&regarding, "Normal", "Started", &"é".repeat(2_000));
        }
        assert!((89..=90).contains(&recorder.dropped()), "{}", recorder.dropped());
        let event = seen.recv().await.unwrap();
        assert_eq!(event["involvedObject"]["name"], "web");
        assert_eq!(event["message"].as_str().unwrap().len(), 1_024);
    }
}
