//! Creating an object.

use http::{HeaderValue, Response, StatusCode};
use kelson_wire::kube::Body;
use rand::Rng;
use serde_json::Value;

use super::encode;
use super::write::{self, Decoded, Outcome};
use crate::gateway::Call;
use crate::status::{Answer, Cause, Failure};
use crate::{admission, service, shape};

/// Letters of generated suffixes: no vowels, so no words.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Longest name that a suffix is added to; a longer one is cut.
const MAX_GENERATED: usize = 63 - SUFFIX_LENGTH;
/// Names tried for one `generateName`.
const MAX_NAMES: usize = 8;

/// `POST` to a collection.
pub async fn create(call: &Call<'_>) -> Answer<Response<Body>> {
    let decoded = write::decode(call)?;
    if !write::text(&decoded.value, "resourceVersion").is_empty() {
        return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
    }
    insert(call, decoded).await
}

/// Creates the object that a body holds; also for an update of what does not exist.
pub async fn insert(call: &Call<'_>, decoded: Decoded) -> Answer<Response<Body>> {
    let Decoded { mut value, warnings } = decoded;
    let row = call.row();
    let namespace = call.target.namespace.as_str();
    let dry_run = call.query.dry_run()?;
    let base = write::text(&value, "generateName").to_string();
    let given = write::text(&value, "name").to_string();
    let generated = given.is_empty() && !base.is_empty();
    if row.namespaced {
        admission::namespace_accepts(call, if generated { "" } else { &given }).await?;
    }
    write::stamp(row, namespace, &mut value)?;
    for attempt in 1.. {
        let name = if generated { generate(&base) } else { given.clone() };
        write::metadata(&mut value)?.insert("name".into(), name.as_str().into());
        if attempt == 1 {
            admission::create(call, &mut value)?;
            shape::create(row, &mut value)?;
            check_name(row, &name)?;
        }
        let claims = service::claim(call, &mut value, None, dry_run).await?;
        if dry_run {
            claims.undo(call.gateway).await;
            let taken = call.gateway.store.get(row.key(namespace, &name).into()).await?.object.is_some();
            if taken {
                return Err(Failure::already_exists(row, &name));
            }
            return encode::created(call, StatusCode::CREATED, &value).map(|response| warn(response, &warnings));
        }
        match write::write_new(call.gateway, row, row.key(namespace, &name).into(), &value).await {
            Ok(Some(Outcome { bytes, revision, .. })) => {
                claims.keep(call.gateway, &Value::Null, Some(&value)).await;
                let response = encode::stored(call, StatusCode::CREATED, &bytes, revision)?;
                return Ok(warn(response, &warnings));
            }
            Ok(None) => {
                claims.undo(call.gateway).await;
                if !generated || attempt >= MAX_NAMES {
                    return Err(Failure::already_exists(row, &name));
                }
            }
            // Whether the write took place may be unknown: its claims stay until they prove abandoned.
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::internal("no name could be generated"))
}

/// Adds `Warning` headers.
pub fn warn(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
    response
}

fn generate(base: &str) -> String {
    let mut cut = base.len().min(MAX_GENERATED);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = base[..cut].to_string();
    let mut random = rand::rng();
    name.extend((0..SUFFIX_LENGTH).map(|_| char::from(SUFFIX[random.random_range(0..SUFFIX.len())])));
    name
}

/// A name must be one path segment, whatever else its kind asks of it.
fn check_name(row: &crate::registry::Resource, name: &str) -> Answer<()> {
    let why = match name {
        "" => "Required value: name or generateName is required".to_string(),
        "." | ".." => format!("Invalid value: {name:?}: may not be '{name}'"),
        _ if name.contains('/') => format!("Invalid value: {name:?}: may not contain '/'"),
        _ if name.contains('%') => format!("Invalid value: {name:?}: may not contain '%'"),
        _ => return Ok(()),
    };
    let reason = if name.is_empty() { "FieldValueRequired" } else { "FieldValueInvalid" };
    let cause = Cause { reason: reason.into(), message: why, field: "metadata.name".into() };
    Err(Failure::invalid(row, name, vec![cause]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_and_keep_their_base() {
        let name = generate("web-");
        assert!(name.starts_with("web-") && name.len() == 9);
        assert_eq!(generate(&"ä".repeat(60)).len(), 58 + 5);
        assert_eq!(generate(&"a".repeat(300)).len(), 63);
    }
}
