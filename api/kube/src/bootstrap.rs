//! What every cluster has from its first moment: four namespaces and the `kubernetes` Service.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use kelson_wire::kube::Transport;
use serde_json::{Value, json};

use crate::gateway::{Gateway, User};
use crate::{Config, Error};

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
    let endpoints = endpoints(config);
    let path = "/api/v1/namespaces/default/endpoints/kubernetes";
    send(&transport, Method::PUT, path, endpoints, "the kubernetes Endpoints").await?;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let what = "the kubernetes EndpointSlice";
    if !send(&transport, Method::POST, slices, slice(config), what).await? {
        send(&transport, Method::PUT, &format!("{slices}/kubernetes"), slice(config), what).await?;
    }
    Ok(())
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
