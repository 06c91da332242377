//! `/healthz`, `/livez`, `/readyz`, `/version`: open to everybody.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use kelson_wire::kube::{Body, full};
use serde_json::{Value, json};

use crate::gateway::Inner;
use crate::query::Query;
use crate::status::{Answer, Failure};

/// The Kubernetes release whose API is served.
pub const GIT_VERSION: &str = "v1.36.3";

/// How long the store gets to answer a health check.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// What `/version` says.
pub fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": format!("{GIT_VERSION}+kelson"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
    })
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Runs the checks that a health path asks for.
///
/// # Errors
/// 404 for a check that does not exist.
pub async fn answer(gateway: &Inner, path: &str, query: &Query) -> Answer<Response<Body>> {
    let mut segments = path.trim_matches('/').split('/');
    let endpoint = segments.next().unwrap_or("").to_string();
    let single = segments.next();
    let mut checks = vec![("ping", true)];
    let read = gateway.store.get(Bytes::from_static(b"/registry/.revision"));
    let store = matches!(tokio::time::timeout(STORE_PATIENCE, read).await, Ok(Ok(_)));
    checks.push(("etcd", store));
    if endpoint == "readyz" {
        checks.push(("informer-sync", gateway.caches.iter().all(|cache| cache.revision() > 0)));
    }
    if let Some(single) = single {
        checks.retain(|(name, _)| *name == single);
        if checks.is_empty() || segments.next().is_some() {
            return Err(Failure::no_such_path());
        }
    }
    checks.retain(|(name, _)| query.get("exclude") != *name);
    let healthy = checks.iter().all(|(_, passed)| *passed);
    let body = if query.has("verbose") || !healthy {
        let mut body = String::new();
        for (name, passed) in &checks {
            let _ = if *passed {
                writeln!(body, "[+]{name} ok")
            } else {
                writeln!(body, "[-]{name} failed: reason withheld")
            };
        }
        body.push_str(&format!("{endpoint} check {}\n", if healthy { "passed" } else { "failed" }));
        body
    } else {
        "ok".to_string()
    };
    let mut response = Response::new(full(body));
    if !healthy {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}
