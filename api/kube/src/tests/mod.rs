//! The gateway as its clients see it, on the model store.

mod crud;
mod deletion;
mod lists;
mod serving;
mod watches;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use kelson_wire::kube::Body;
use kelson_wire::model::ModelStore;
use kelson_wire::store::Store;
use serde_json::{Value, json};

use crate::{Config, Gateway, User};

/// How long anything in these tests may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// A gateway on an empty model store.
struct Cluster {
    store: ModelStore,
    gateway: Gateway,
}

/// An answer, read whole.
#[derive(Debug)]
struct Reply {
    code: StatusCode,
    headers: HeaderMap,
    body: Value,
    text: Bytes,
}

impl Reply {
    #[track_caller]
    fn ok(self) -> Value {
        assert!(self.code.is_success(), "{} {}", self.code, self.body);
        self.body
    }

    #[track_caller]
    fn fails(self, code: u16, message: &str) -> Value {
        assert_eq!((self.code.as_u16(), self.body["message"].as_str().unwrap_or("")), (code, message), "{}", self.body);
        assert_eq!(self.body["kind"], "Status");
        assert_eq!(self.body["code"], code);
        self.body
    }
}

impl Cluster {
    async fn new() -> Cluster {
        Cluster::with(Config::default()).await
    }

    async fn with(config: Config) -> Cluster {
        let store = ModelStore::new();
        let gateway = Gateway::start(Arc::new(store.clone()), config).await.unwrap();
        Cluster { store, gateway }
    }

    async fn call(&self, request: Request<Bytes>) -> Reply {
        let user = User::new("admin", &["system:masters", "system:authenticated"]);
        let response = tokio::time::timeout(DEADLINE, self.gateway.handle(&user, request)).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = tokio::time::timeout(DEADLINE, body.collect()).await.unwrap().unwrap().to_bytes();
        let body = serde_json::from_slice(&text).unwrap_or(Value::Null);
        Reply { code: parts.status, headers: parts.headers, body, text }
    }

    async fn send(&self, method: Method, path: &str, media: &str, body: impl Into<Bytes>) -> Reply {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        self.call(request.body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, "", "").await
    }

    async fn get_as(&self, path: &str, accept: &str) -> Reply {
        let request = Request::get(path).header("accept", accept);
        self.call(request.body(Bytes::new()).unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(Method::POST, path, "application/json", body.to_string()).await
    }

    async fn put(&self, path: &str, body: Value) -> Reply {
        self.send(Method::PUT, path, "application/json", body.to_string()).await
    }

    async fn merge(&self, path: &str, body: Value) -> Reply {
        self.send(Method::PATCH, path, "application/merge-patch+json", body.to_string()).await
    }

    async fn delete(&self, path: &str, body: Value) -> Reply {
        self.send(Method::DELETE, path, "application/json", body.to_string()).await
    }

    async fn watch(&self, path: &str) -> Events {
        let user = User::new("admin", &["system:masters"]);
        let request = Request::get(path).body(Bytes::new()).unwrap();
        let response = self.gateway.handle(&user, request).await;
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), buffer: BytesMut::new() }
    }

    /// What the store holds under a key.
    async fn stored(&self, key: &str) -> Option<Value> {
        let object = self.store.get(Bytes::copy_from_slice(key.as_bytes())).await.unwrap().object?;
        Some(serde_json::from_slice(&object.value).unwrap())
    }
}

/// An open watch.
struct Events {
    body: Body,
    buffer: BytesMut,
}

impl Events {
    /// The next event, `None` at the end of the watch.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("an event in time")?;
            self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// Type, name and resource version of the next event.
    async fn brief(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |value: &Value| value.as_str().unwrap_or("").to_string();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]},
    })
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
