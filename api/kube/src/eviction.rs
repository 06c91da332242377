//! `pods/eviction`: a deletion that asks first. No disruption budgets are served, so nothing says no.

use http::{Response, StatusCode};
use kelson_wire::kube::Body;
use serde_json::{Value, json};

use crate::gateway::Call;
use crate::media;
use crate::shape;
use crate::status::{Answer, Failure};
use crate::verbs::{DeleteOptions, delete_one};

/// `POST` to `pods/<name>/eviction`.
pub(crate) async fn create(call: &Call<'_>) -> Answer<Response<Body>> {
    let mut body = media::decode(&call.parts.headers, call.body)?;
    shape::normalise_kind("policy", "v1", "Eviction", &mut body)?;
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    if !matches!(text("/kind"), "" | "Eviction") {
        return Err(Failure::bad_request(format!(
            "{} in version \"v1\" cannot be handled as an Eviction",
            text("/kind")
        )));
    }
    let name = text("/metadata/name");
    if !name.is_empty() && name != call.target.name {
        return Err(Failure::bad_request(format!(
            "name in URL does not match name in Eviction object: {} != {name}",
            call.target.name
        )));
    }
    let options = match body.get_mut("deleteOptions").map(Value::take) {
        None | Some(Value::Null) => DeleteOptions::default(),
        Some(value) => DeleteOptions::from_value(value)?,
    };
    let dry_run = call.query.dry_run()? | options.is_dry_run()?;
    let target = &call.target;
    delete_one(call.gateway, target.row, &target.namespace, &target.name, &options, dry_run).await?;
    let mut response = crate::gateway::json(json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    }));
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}
