//! What is served in plain HTTP beside gRPC: health, version and metrics, in etcd's formats.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONTENT_TYPE,
    HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use kelson_engine::{Alarm, AlarmKind};
use tonic::body::Body;

use crate::context::{CLUSTER_VERSION, Context, ETCD_VERSION};
use crate::exposition;
use crate::health::{self, Check};
use crate::refusal;

pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// Answers one request.
pub(crate) async fn serve(context: &Context, request: &Request<()>) -> Response<Body> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let checks = match path {
        "/health" | "/version" | "/metrics" | "/debug/vars" => None,
        _ => match checks(path) {
            Some(checks) => Some(checks),
            None => return not_found(),
        },
    };
    if request.method() != Method::GET {
        return only("GET");
    }
    match (path, checks) {
        (_, Some(checks)) => probe(context, path.starts_with("/livez"), query, &checks).await,
        ("/debug/vars", _) => answer(StatusCode::OK, "application/json; charset=utf-8", variables(context)),
        ("/version", _) => answer(StatusCode::OK, "application/json", version()),
        ("/metrics", _) => answer(StatusCode::OK, exposition::CONTENT_TYPE, exposition::render(context)),
        _ => health(context, query).await,
    }
}

/// Answers one request of a listener for metrics: what says how the server is, and nothing else.
pub(crate) async fn metrics(context: &Context, request: &Request<()>) -> Response<Body> {
    let path = request.uri().path();
    if matches!(path, "/health" | "/metrics") || checks(path).is_some() {
        serve(context, request).await
    } else {
        not_found()
    }
}

/// The answer to what is not gRPC on a port that serves gRPC alone.
pub(crate) fn not_grpc() -> Response<Body> {
    answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, TEXT, "this port serves gRPC alone; see --listen-client-http-urls\n")
}

/// What Go's library answers where there is nothing.
pub(crate) fn not_found() -> Response<Body> {
    answer(StatusCode::NOT_FOUND, TEXT, "404 page not found\n")
}

/// Refuses a method; the one that there is goes into the answer.
pub(crate) fn only(method: &'static str) -> Response<Body> {
    let mut refused = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n");
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    refused
}

/// The checks behind a path: all of a kind, or one by its name.
fn checks(path: &str) -> Option<Vec<Check>> {
    let mut parts = path.strip_prefix('/')?.splitn(2, '/');
    let all = match parts.next()? {
        "livez" => Check::LIVE,
        "readyz" => Check::READY,
        _ => return None,
    };
    match parts.next() {
        None => Some(all.to_vec()),
        Some(name) => all.iter().find(|check| check.name() == name).map(|check| vec![*check]),
    }
}

pub(crate) fn version() -> String {
    format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{CLUSTER_VERSION}","storage":"{CLUSTER_VERSION}"}}"#)
}

/// What Go programs publish of themselves, as far as it has a meaning here.
fn variables(context: &Context) -> String {
    let status = context.node.status();
    let state = if status.is_leader { "StateLeader" } else { "StateFollower" };
    let variables = serde_json::json!({
        "cmdline": std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "file_descriptor_limit": exposition::file_limit(),
        "raft.status": {
            "id": format!("{:x}", status.member_id),
            "term": status.term,
            "commit": status.committed,
            "lead": format!("{:x}", status.leader),
            "raftState": state,
            "applied": status.applied,
            "leadtransferee": "0",
        },
    });
    format!("{variables:#}\n")
}

fn alarm_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}

/// Says that pages of every origin may ask, as etcd does unless it is told otherwise.
pub(crate) fn allow_origins(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
    response
}

async fn health(context: &Context, query: &str) -> Response<Body> {
    let serializable = values(query, "serializable").next() == Some("true");
    let excluded = |alarm: &&Alarm| values(query, "exclude").any(|name| name == alarm_name(alarm.kind));
    let alarms = context.node.reader().alarms();
    let reason = if let Some(alarm) = alarms.iter().find(|alarm| !excluded(alarm)) {
        Err(format!("ALARM {}", alarm_name(alarm.kind)))
    } else if !serializable && context.node.status().leader == 0 {
        Err("RAFT NO LEADER".to_owned())
    } else {
        health::read(context, serializable).await.map_err(|error| format!("RANGE ERROR:{error}"))
    };
    let counters = context.metrics.counters();
    match reason {
        Ok(()) => {
            counters.health_successes.fetch_add(1, Relaxed);
            answer(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#)
        }
        Err(reason) => {
            counters.health_failures.fetch_add(1, Relaxed);
            let body = serde_json::json!({ "health": "false", "reason": reason });
            answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{body}\n"))
        }
    }
}

async fn probe(context: &Context, live: bool, query: &str, checks: &[Check]) -> Response<Body> {
    let mut report = String::new();
    let mut failed = context.shutdown.is_cancelled();
    if failed {
        report.push_str(&format!("[-]shutdown failed: {}\n", refusal::STOPPED));
    }
    for check in checks {
        let name = check.name();
        if checks.len() > 1 && values(query, "exclude").any(|excluded| excluded == name) {
            continue;
        }
        let found = check.run(context).await;
        let (successes, errors, fine) = &context.metrics.counters().checks[check.place(live)];
        fine.store(found.is_ok(), Relaxed);
        if found.is_ok() { successes } else { errors }.fetch_add(1, Relaxed);
        match found {
            Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
            Err(reason) => {
                failed = true;
                report.push_str(&format!("[-]{name} failed: {reason}\n"));
            }
        }
    }
    if failed {
        return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, report + "\n");
    }
    let verbose = values(query, "verbose").next().is_some();
    answer(StatusCode::OK, TEXT, if verbose { report + "ok\n" } else { "ok\n".to_owned() })
}

/// Values of a query's parameter. None that is used here needs escapes.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter_map(move |(key, value)| (key == name).then_some(value))
}

pub(crate) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_with_and_without_values() {
        assert_eq!(values("verbose&exclude=a&exclude=b", "exclude").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(values("verbose", "verbose").collect::<Vec<_>>(), [""]);
        assert_eq!(values("", "verbose").next(), None);
    }

    #[test]
    fn checks_are_found_by_path() {
        assert_eq!(checks("/livez"), Some(vec![Check::SerializableRead]));
        assert_eq!(checks("/readyz").map(|checks| checks.len()), Some(4));
        assert_eq!(checks("/readyz/linearizable_read"), Some(vec![Check::LinearizableRead]));
        assert_eq!(checks("/livez/linearizable_read"), None);
        assert_eq!(checks("/other"), None);
    }
}
