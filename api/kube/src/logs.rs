//! `pods/log`: what a container has written, fetched from its node's kubelet and passed through.

use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kelson_wire::kube::{Body, full};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::gateway::Call;
use crate::kubelet::Endpoint;
use crate::registry;
use crate::status::{Answer, Cause, Failure};
use crate::verbs;

/// Longest error message that is taken over from a kubelet, in bytes.
const MAX_MESSAGE: usize = 64 << 10;
/// The kubelet's usual port, for nodes that do not say.
const KUBELET_PORT: u16 = 10_250;

/// `GET` of `pods/<name>/log`.
pub(crate) async fn get(call: &Call<'_>) -> Answer<Response<Body>> {
    let target = &call.target;
    let pod = verbs::load(call.gateway, target.row, &target.namespace, &target.name).await?.value;
    let container = container(call, &pod)?;
    let options = options(call)?;
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("");
    if node.is_empty() {
        return Ok(text(full("")));
    }
    let Some(client) = &call.gateway.config.kubelet_client else {
        return Err(Failure::internal("this server has no credentials for kubelets"));
    };
    let (host, port) = endpoint(call, node).await?;
    let path = format!("/containerLogs/{}/{}/{container}{options}", target.namespace, target.name);
    let url = format!("https://{host}:{port}{path}");
    let endpoint = Endpoint { node, host: &host, port };
    let answer = client.get(&endpoint, &path).await;
    let answer = answer.map_err(|error| Failure::internal(format!("Get \"{url}\": {error}")))?;
    if answer.status().is_success() {
        return Ok(text(answer.into_body().map_err(Into::into).boxed_unsync()));
    }
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_MESSAGE).collect().await;
    let message = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_string()).unwrap_or_default();
    Err(match status {
        StatusCode::BAD_REQUEST => Failure::bad_request(message),
        StatusCode::NOT_FOUND => {
            let message =
                format!("the server could not find the requested resource ( pods/log {}): {message}", target.name);
            Failure::new(StatusCode::NOT_FOUND, "NotFound", message)
        }
        _ => Failure::internal(format!("kubelet on {node} answered {status}: {message}")),
    })
}

fn text(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = pod.pointer(list).and_then(Value::as_array).into_iter().flatten();
    containers.filter_map(|one| one.get("name").and_then(Value::as_str)).map(String::from).collect()
}

/// The container asked for, or the one there is.
fn container(call: &Call<'_>, pod: &Value) -> Answer<String> {
    let name = call.target.name.as_str();
    let usual = names(pod, "/spec/containers");
    let init = names(pod, "/spec/initContainers");
    let ephemeral = names(pod, "/spec/ephemeralContainers");
    let asked = call.query.get("container");
    if !asked.is_empty() {
        return if usual.iter().chain(&init).chain(&ephemeral).any(|one| one == asked) {
            Ok(asked.to_string())
        } else {
            Err(Failure::bad_request(format!("container {asked} is not valid for pod {name}")))
        };
    }
    let annotated =
        pod.pointer("/metadata/annotations/kubectl.kubernetes.io~1default-container").and_then(Value::as_str);
    if let Some(annotated) = annotated.filter(|annotated| usual.iter().any(|one| one == annotated)) {
        return Ok(annotated.to_string());
    }
    match usual.as_slice() {
        [] => Err(Failure::bad_request(format!("no containers in pod {name}"))),
        [one] => Ok(one.clone()),
        several => {
            let mut message =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", several.join(" "));
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Failure::bad_request(message))
        }
    }
}

/// The kubelet's query, checked as `PodLogOptions` are.
fn options(call: &Call<'_>) -> Answer<String> {
    let query = &call.query;
    let invalid = |field: &str, message: String| {
        let cause = Cause { reason: "FieldValueInvalid".into(), message, field: field.into() };
        Err(Failure::invalid_kind("", "PodLogOptions", &call.target.name, vec![cause]))
    };
    let mut pairs = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag) {
            pairs.push(format!("{flag}=true"));
        }
    }
    for (field, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        if let Some(number) = query.number(field)? {
            if number < least {
                let bound = if least == 0 { "greater than or equal to 0" } else { "greater than 0" };
                return invalid(field, format!("Invalid value: {number}: must be {bound}"));
            }
            pairs.push(format!("{field}={number}"));
        }
    }
    let since = query.get("sinceTime");
    if !since.is_empty() {
        if query.has("sinceSeconds") {
            return Err(Failure::invalid_kind(
                "",
                "PodLogOptions",
                &call.target.name,
                vec![Cause {
                    reason: "FieldValueForbidden".into(),
                    message: "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified".into(),
                    field: String::new(),
                }],
            ));
        }
        if kelson_wire::kube::timestamp::parse(since).is_none() {
            return Err(Failure::bad_request(format!("parsing time {since:?}: not an RFC 3339 time (sinceTime)")));
        }
        pairs.push(format!("sinceTime={}", utf8_percent_encode(since, NON_ALPHANUMERIC)));
    }
    Ok(if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) })
}

/// Where the kubelet of a node listens.
async fn endpoint(call: &Call<'_>, node: &str) -> Answer<(String, u16)> {
    let (_, row) = registry::core("nodes");
    let node = verbs::load(call.gateway, row, "", node).await?.value;
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let address = ["InternalIP", "Hostname"].iter().find_map(|kind| {
        let found = addresses.into_iter().flatten().find(|address| address["type"] == **kind);
        found.and_then(|address| address["address"].as_str())
    });
    let name = verbs::text(&node, "name");
    let address = address
        .ok_or_else(|| Failure::internal(format!("no preferred addresses found; known addresses: [] (node {name})")))?;
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(KUBELET_PORT);
    Ok((address.to_string(), port))
}
