//! Bad input over the real socket: the answer that a Kubernetes user knows, and nothing changed.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use kelson_wire::kube::{Https, Kubeconfig, Transport};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// One connection as one identity.
struct Caller {
    https: Https,
    runtime: tokio::runtime::Runtime,
}

impl Caller {
    fn new(config: &Kubeconfig) -> Caller {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Caller { https: Https::new(config).expect("a transport"), runtime }
    }

    /// Sends raw bytes; returns the code and the JSON answer.
    fn send(&self, method: Method, path: &str, media_type: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", media_type);
        let request = request.body(body.into()).expect("a request");
        self.runtime.block_on(async {
            let response = self.https.call(request).await.expect("an answer");
            let code = response.status().as_u16();
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            (code, serde_json::from_slice(&body).unwrap_or(Value::String(text)))
        })
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, "application/json", "")
    }

    /// Expects a `Status` failure with this code, reason and text.
    #[track_caller]
    fn refused(&self, sent: (u16, Value), code: u16, reason: &str, text: &str) {
        let (got, status) = sent;
        assert_eq!(got, code, "{status}");
        assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Failure")), "{status}");
        assert_eq!((&status["reason"], &status["code"]), (&json!(reason), &json!(code)), "{status}");
        assert!(
            status["message"].as_str().is_some_and(|message| message.contains(text)),
            "{text:?} is not in {status}"
        );
    }
}

const JSON: &str = "application/json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[test]
fn bad_requests_are_refused_in_kubernetes_words_and_change_nothing() {
    let cluster = Cluster::dev(1, &[]);
    let config = Kubeconfig::load(&cluster.kubeconfig).expect("a kubeconfig");
    let caller = Caller::new(&config);
    let (code, kept) = caller.send(Method::POST, MAPS, JSON, map("kept", json!({"a": "1"})).to_string());
    assert_eq!(code, 201, "{kept}");
    let stale = kept["metadata"]["resourceVersion"].clone();
    let one = format!("{MAPS}/kept");
    let (code, kept) = caller.send(Method::PUT, &one, JSON, map("kept", json!({"a": "2"})).to_string());
    assert_eq!(code, 200, "{kept}");
    let listed = caller.get(MAPS).1["items"].clone();

    malformed(&caller);
    conflicting(&caller, &one, &stale);
    oversized(&caller, &one);
    unreadable_queries(&caller);
    strangers(&config);

    assert_eq!(caller.get(&one).1, kept, "nothing changed");
    assert_eq!(caller.get(MAPS).1["items"], listed, "nothing was created");
}

fn malformed(caller: &Caller) {
    let post = |body: &str| caller.send(Method::POST, MAPS, JSON, body.to_string());
    caller.refused(post("{\"apiVersion\": "), 400, "BadRequest", "");
    caller.refused(post("[]"), 400, "BadRequest", "");
    caller.refused(caller.send(Method::POST, MAPS, "application/yaml", "a: [1"), 400, "BadRequest", "yaml");
    caller.refused(caller.send(Method::POST, MAPS, "text/csv", "a,b"), 415, "UnsupportedMediaType", "");
    let strict =
        |body: Value| caller.send(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), JSON, body.to_string());
    let unknown = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dta": {}});
    caller.refused(strict(unknown), 400, "BadRequest", "strict decoding error: unknown field \"dta\"");
    let twice = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"x\"},\"data\":{\"a\":\"1\",\"a\":\"2\"}}";
    let twice = caller.send(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), JSON, twice);
    caller.refused(twice, 400, "BadRequest", "duplicate field \"data.a\"");
    caller.refused(post(&map("x", json!({"a": 1})).to_string()), 400, "BadRequest", "cannot unmarshal number");
    caller.refused(post(&map("Not A Name", json!({})).to_string()), 422, "Invalid", "metadata.name");
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}});
    caller.refused(post(&other.to_string()), 400, "BadRequest", "");
    let elsewhere = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "other"}});
    caller.refused(post(&elsewhere.to_string()), 400, "BadRequest", "namespace");
    let nowhere = "/api/v1/namespaces/nowhere/configmaps";
    caller.refused(
        caller.send(Method::POST, nowhere, JSON, map("x", json!({})).to_string()),
        404,
        "NotFound",
        "nowhere",
    );
}

fn conflicting(caller: &Caller, one: &str, stale: &Value) {
    caller.refused(
        caller.send(Method::POST, MAPS, JSON, map("kept", json!({})).to_string()),
        409,
        "AlreadyExists",
        "already exists",
    );
    let mut old = map("kept", json!({"a": "3"}));
    old["metadata"]["resourceVersion"] = stale.clone();
    let text = "the object has been modified; please apply your changes to the latest version and try again";
    caller.refused(caller.send(Method::PUT, one, JSON, old.to_string()), 409, "Conflict", text);
    let patch = json!({"metadata": {"resourceVersion": stale}, "data": {"a": "3"}}).to_string();
    caller.refused(caller.send(Method::PATCH, one, "application/merge-patch+json", patch), 409, "Conflict", text);
    let options = json!({"preconditions": {"uid": "someone-else"}}).to_string();
    caller.refused(caller.send(Method::DELETE, one, JSON, options), 409, "Conflict", "");
    let failing = json!([{"op": "test", "path": "/data/a", "value": "9"}]).to_string();
    let sent = caller.send(Method::PATCH, one, "application/json-patch+json", failing);
    caller.refused(sent, 422, "Invalid", "");
    let absent = format!("{MAPS}/absent");
    caller.refused(
        caller.send(Method::DELETE, &absent, JSON, "{}"),
        404,
        "NotFound",
        "configmaps \"absent\" not found",
    );
}

fn oversized(caller: &Caller, one: &str) {
    let large = map("kept", json!({"a": "x".repeat(4 << 20)})).to_string();
    caller.refused(caller.send(Method::PUT, one, JSON, large), 413, "RequestEntityTooLarge", "limit");
    let too_much_data = map("kept", json!({"a": "x".repeat((1 << 20) + 1)})).to_string();
    caller.refused(
        caller.send(Method::PUT, one, JSON, too_much_data),
        422,
        "Invalid",
        "Too long: may not be more than 1048576 bytes",
    );
}

fn unreadable_queries(caller: &Caller) {
    caller.refused(
        caller.get("/api/v1/pods?labelSelector=a%20in%20(b"),
        400,
        "BadRequest",
        "unable to parse requirement",
    );
    caller.refused(
        caller.get("/api/v1/pods?fieldSelector=spec.colour%3Dred"),
        400,
        "BadRequest",
        "field label not supported",
    );
    caller.refused(caller.get("/api/v1/pods?limit=few"), 400, "BadRequest", "few");
    caller.refused(caller.get("/api/v1/pods?continue=nonsense"), 400, "BadRequest", "continue");
    caller.refused(
        caller.get("/api/v1/pods?resourceVersion=soon"),
        400,
        "BadRequest",
        "invalid resource version: resourceVersion: Invalid value: \"soon\"",
    );
    caller.refused(caller.get("/api/v1/gadgets"), 404, "NotFound", "the server could not find the requested resource");
    let sent = caller.send(Method::PUT, MAPS, JSON, "{}");
    caller.refused(sent, 405, "MethodNotAllowed", "");
}

fn strangers(config: &Kubeconfig) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut wanted = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
    wanted.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes-admin");
    wanted.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let forged = wanted.self_signed(&key).expect("a certificate");
    let forged = Kubeconfig {
        client_certificate: forged.pem().into(),
        client_key: key.serialize_pem().into(),
        ..config.clone()
    };
    let anonymous = Kubeconfig { client_certificate: Vec::new(), client_key: Vec::new(), ..config.clone() };
    for config in [forged, anonymous] {
        let caller = Caller::new(&config);
        caller.refused(caller.get("/api/v1/pods"), 401, "Unauthorized", "Unauthorized");
        let sent = caller.send(Method::POST, MAPS, JSON, map("x", json!({})).to_string());
        caller.refused(sent, 401, "Unauthorized", "Unauthorized");
        assert_eq!(caller.get("/healthz").0, 200);
    }
}
