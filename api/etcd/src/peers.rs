//! What others, and probes of charts, may ask of the peer port in plain HTTP. Members speak to each other there in a way of
//! their own: see `kelson_raft::GREETING`.

use http::{HeaderValue, Method, Request, Response, StatusCode};
use tonic::body::Body;

use crate::context::Context;
use crate::http as plain;

const JSON: &str = "application/json";

/// Answers one request. Raft messages of an etcd are refused: it cannot be a member of the same cluster.
pub(crate) fn serve<B>(context: &Context, request: &Request<B>) -> Response<Body> {
    let path = request.uri().path();
    if path == "/raft" || path.starts_with("/raft/") {
        return if request.method() == Method::POST {
            let text = "this member takes no messages of etcd's peer protocol\n";
            plain::answer(StatusCode::PRECONDITION_FAILED, "text/plain; charset=utf-8", text)
        } else {
            plain::only("POST")
        };
    }
    match path {
        "/version" | "/members" if request.method() != Method::GET => plain::only("GET"),
        "/version" => plain::answer(StatusCode::OK, JSON, plain::version()),
        "/members" => members(context),
        _ => plain::not_found(),
    }
}

fn members(context: &Context) -> Response<Body> {
    let member = |member: kelson_raft::Member| {
        serde_json::json!({
            "id": member.id,
            "peerURLs": member.peer_urls,
            "name": member.name,
            "clientURLs": member.client_urls,
        })
    };
    let members: Vec<_> = context.node.members().into_iter().map(member).collect();
    let mut response = plain::answer(StatusCode::OK, JSON, format!("{}\n", serde_json::Value::from(members)));
    let cluster = format!("{:x}", context.node.status().cluster_id);
    if let Ok(cluster) = HeaderValue::from_str(&cluster) {
        response.headers_mut().insert("x-etcd-cluster-id", cluster);
    }
    response
}
