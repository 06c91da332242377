//! What every cluster has from its first moment: four namespaces and the `kubernetes` Service.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use kelson_wire::kube::Transport;
use kelson_wire::store::Written;
use serde_json::{Value, json};

use crate::gateway::{Gateway, Inner, User};
use crate::registry::{self, Resource};
use crate::status::Failure;
use crate::{Config, Error, shape, verbs};

/// The namespaces that are always there.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates what is absent, and brings the endpoint of the `kubernetes` Service up to date.
pub async fn run(gateway: &Gateway) -> Result<(), Error> {
    let transport = gateway.transport(User::new("system:apiserver", &["system:masters", "system:authenticated"]));
    for name in NAMESPACES {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        send(&transport, Method::POST, "/api/v1/namespaces", namespace, "namespace").await?;
    }
    let config = &gateway.0.config;
    kubernetes_service(gateway, &transport).await?;
    let (_, row) = registry::core("endpoints");
    publish(gateway, row, endpoints(config), "the kubernetes Endpoints").await?;
    if let Some((_, row)) = registry::find("discovery.k8s.io", "v1", "endpointslices") {
        publish(gateway, row, slice(config), "the kubernetes EndpointSlice").await?;
    }
    Ok(())
}

/// Brings back what somebody deleted, for as long as the gateway lives.
pub async fn keep(gateway: Weak<Inner>) {
    loop {
        let Some(inner) = gateway.upgrade() else { return };
        let pause = inner.config.keep_interval;
        let gateway_alive = Gateway(inner);
        if is_incomplete(&gateway_alive)
            && let Err(error) = run(&gateway_alive).await
        {
            tracing::warn!(%error, "what every cluster has could not be restored");
        }
        // Nothing of the gateway is held during the pause, so that it can end.
        drop(gateway_alive);
        tokio::time::sleep(pause).await;
    }
}

/// Whether the caches miss something; they are right soon enough.
fn is_incomplete(gateway: &Gateway) -> bool {
    let missing = |(number, row): (usize, &Resource), namespace: &str, name: &str| {
        gateway.0.caches[number].get(row.key(namespace, name).as_bytes()).is_none()
    };
    let slices = registry::find("discovery.k8s.io", "v1", "endpointslices");
    NAMESPACES.iter().any(|name| missing(registry::core("namespaces"), "", name))
        || missing(registry::core("services"), "default", "kubernetes")
        || missing(registry::core("endpoints"), "default", "kubernetes")
        || slices.is_some_and(|slices| missing(slices, "default", "kubernetes"))
}

/// Attempts against another gateway that starts on the same store.
const MAX_ATTEMPTS: usize = 16;

/// Writes an endpoint of the `kubernetes` Service. It goes past validation, which would refuse a loopback address: on one
/// machine that is where the gateway is.
async fn publish(gateway: &Gateway, row: &Resource, mut value: Value, what: &str) -> Result<(), Error> {
    let failed = |failure: Failure| Error::Bootstrap { what: what.to_string(), message: failure.message().to_string() };
    let inner = &gateway.0;
    verbs::stamp(row, "default", &mut value).map_err(failed)?;
    shape::complete(row, &mut value).map_err(failed)?;
    let key = Bytes::from(row.key("default", "kubernetes"));
    for _ in 0..MAX_ATTEMPTS {
        let current = inner.store.get(key.clone()).await?.object;
        let expected = current.as_ref().map_or(0, |object| object.mod_revision);
        if let Some(old) = current.and_then(|object| serde_json::from_slice::<Value>(&object.value).ok()) {
            for field in ["uid", "creationTimestamp", "generation"] {
                if let Some(kept) = old["metadata"].get(field) {
                    value["metadata"][field] = kept.clone();
                }
            }
            if old == value {
                return Ok(());
            }
        }
        let written = inner.store.put(key.clone(), value.to_string().into(), expected, 0).await?;
        if matches!(written, Written::Done { .. }) {
            return Ok(());
        }
    }
    Err(Error::Bootstrap { what: what.to_string(), message: "others keep writing it".into() })
}

/// Creates the `kubernetes` Service if it is absent. Its address may be claimed already by a start that was cut short.
async fn kubernetes_service(gateway: &Gateway, transport: &Arc<dyn Transport>) -> Result<(), Error> {
    let inner = &gateway.0;
    let key = Bytes::from_static(b"/registry/services/specs/default/kubernetes");
    if inner.store.get(key).await?.object.is_some() {
        return Ok(());
    }
    let claim = Bytes::from(crate::service::address_key(inner.config.first_service_ip()));
    if let Some(object) = inner.store.get(claim.clone()).await?.object {
        // Nobody else asks for the first address, so a claim without its Service is a leftover.
        inner.store.delete(claim, object.mod_revision).await?;
    }
    let path = "/api/v1/namespaces/default/services";
    send(transport, Method::POST, path, service(&inner.config), "the kubernetes Service").await?;
    Ok(())
}

/// Sends one object; false if it is there already.
async fn send(
    transport: &Arc<dyn Transport>,
    method: Method,
    path: &str,
    body: Value,
    what: &str,
) -> Result<bool, Error> {
    let failed = |message: String| Error::Bootstrap { what: what.to_string(), message };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Bytes::from(body.to_string()))
        .map_err(|error| failed(error.to_string()))?;
    let response = transport.call(request).await.map_err(|error| failed(error.to_string()))?;
    let status = response.status();
    if status.is_success() {
        return Ok(true);
    }
    if status == StatusCode::CONFLICT {
        return Ok(false);
    }
    let body = response.into_body().collect().await.map_err(|error| failed(error.to_string()))?.to_bytes();
    let status: Value = serde_json::from_slice(&body).unwrap_or_default();
    Err(failed(status["message"].as_str().unwrap_or("no answer").to_string()))
}

fn service(config: &Config) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": config.first_service_ip().to_string(),
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.advertise.port()}],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
    })
}

fn endpoints(config: &Config) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": config.advertise.ip().to_string()}],
            "ports": [{"name": "https", "port": config.advertise.port(), "protocol": "TCP"}],
        }],
    })
}

fn slice(config: &Config) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if config.advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [config.advertise.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": config.advertise.port(), "protocol": "TCP"}],
    })
}
