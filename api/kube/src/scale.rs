//! The `scale` subresource: replicas, and nothing else, of whatever has them.

use http::{Method, Response, StatusCode};
use kelson_wire::kube::Body;
use kelson_wire::kube::meta::LabelSelector;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::gateway::Call;
use crate::media;
use crate::registry::Subresource;
use crate::shape;
use crate::status::{Answer, Cause, Failure};
use crate::verbs::{self, Current, PatchKind};

/// `GET`, `PUT` or `PATCH` of a scale.
pub(crate) async fn answer(call: &Call<'_>) -> Answer<Response<Body>> {
    let target = &call.target;
    let row = target.row;
    let scale = match call.parts.method {
        Method::GET | Method::HEAD => {
            let current = verbs::load(call.gateway, row, &target.namespace, &target.name).await?;
            of(&current.value, current.object.mod_revision)
        }
        Method::PATCH => {
            let kind = PatchKind::of(call)?;
            let patch: Value = serde_json::from_slice(call.body)
                .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
            write(call, |scale| {
                *scale = shape::patched(("autoscaling", "v1", "Scale"), kind, scale.take(), patch.clone())?;
                Ok(())
            })
            .await?
        }
        _ => {
            let body = media::decode(&call.parts.headers, call.body)?;
            let kind = body.get("kind").and_then(Value::as_str).unwrap_or("Scale");
            if kind != "Scale" {
                return Err(Failure::bad_request(format!("{kind} cannot be handled as a Scale")));
            }
            write(call, |scale| {
                *scale = body.clone();
                Ok(())
            })
            .await?
        }
    };
    verbs::created(call, StatusCode::OK, &scale)
}

async fn write(call: &Call<'_>, change: impl Fn(&mut Value) -> Answer<()> + Send + Sync) -> Answer<Value> {
    let name = call.target.name.as_str();
    let outcome = verbs::modify(call, Some(Subresource::Scale), |current: &Current| {
        // Version 0 is no condition: only what the client sets itself is one.
        let mut scale = of(&current.value, 0);
        change(&mut scale)?;
        shape::normalise_kind("autoscaling", "v1", "Scale", &mut scale)?;
        let text = |field: &str| verbs::text(&scale, field).to_string();
        if !matches!(text("name").as_str(), "") && text("name") != name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                text("name")
            )));
        }
        let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        if replicas < 0 {
            let cause = Cause {
                reason: "FieldValueInvalid".into(),
                message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
                field: "spec.replicas".into(),
            };
            return Err(Failure::invalid_kind("autoscaling", "Scale", name, vec![cause]));
        }
        let mut value = current.value.clone();
        value["spec"]["replicas"] = json!(replicas);
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            // The guards that the client set on the scale hold for the object.
            metadata.insert("resourceVersion".into(), text("resourceVersion").into());
            if !text("uid").is_empty() {
                metadata.insert("uid".into(), text("uid").into());
            }
        }
        Ok(value)
    })
    .await?;
    let value: Value = serde_json::from_slice(&outcome.bytes).map_err(Failure::internal)?;
    Ok(of(&value, outcome.revision))
}

/// The scale of an object.
fn of(object: &Value, revision: i64) -> Value {
    let metadata = object.get("metadata");
    let part = |field: &str| metadata.and_then(|metadata| metadata.get(field)).cloned().unwrap_or(Value::Null);
    let count = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let selector = object.pointer("/spec/selector").and_then(|selector| LabelSelector::deserialize(selector).ok());
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": part("name"),
            "namespace": part("namespace"),
            "uid": part("uid"),
            "resourceVersion": revision.to_string(),
            "creationTimestamp": part("creationTimestamp"),
        },
        "spec": {"replicas": count("/spec/replicas")},
        "status": {
            "replicas": count("/status/replicas"),
            "selector": selector.map(|selector| selector_text(&selector)).unwrap_or_default(),
        },
    })
}

/// A selector in the form that queries take.
fn selector_text(selector: &LabelSelector) -> String {
    let mut terms: Vec<String> = selector.match_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    for requirement in &selector.match_expressions {
        let mut values = requirement.values.clone();
        values.sort();
        let values = values.join(",");
        let key = &requirement.key;
        terms.push(match requirement.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        });
    }
    terms.sort();
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_replicas_and_the_selector() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"b": "2", "a": "1"},
                "matchExpressions": [{"key": "t", "operator": "In", "values": ["y", "x"]}]}},
            "status": {"replicas": 2},
        });
        let scale = of(&object, 9);
        assert_eq!(scale["status"]["selector"], "a=1,b=2,t in (x,y)");
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["metadata"]["resourceVersion"], "9");
    }
}
