//! Replacing an object, or its status.

use http::{Response, StatusCode};
use kelson_wire::kube::Body;

use super::write::{self, Decoded};
use super::{create, encode};
use crate::gateway::Call;
use crate::status::{Answer, Failure};

/// `PUT` of an object or of its status or finalizers.
pub async fn replace(call: &Call<'_>) -> Answer<Response<Body>> {
    let Decoded { value, warnings } = write::decode(call)?;
    let target = &call.target;
    if write::text(&value, "name").is_empty() {
        return Err(Failure::bad_request(format!(
            "the name of the object (based on URL) was undeterminable: name must be provided for {}",
            target.row.kind
        )));
    }
    let version = write::text(&value, "resourceVersion");
    let conditional = !version.is_empty() && version != "0";
    if target.row.create_on_update && target.subresource.is_none() && !conditional {
        let exists = call.gateway.store.get(target.key()).await?.object.is_some();
        if !exists {
            return create::insert(call, Decoded { value, warnings }).await;
        }
    }
    let mut body = value;
    let outcome = write::modify(call, target.subresource, |_| {
        // A conditional update gets one attempt, so the body need not survive it.
        Ok(if conditional { std::mem::take(&mut body) } else { body.clone() })
    })
    .await?;
    let response = encode::stored(call, StatusCode::OK, &outcome.bytes, outcome.revision)?;
    Ok(create::warn(response, &warnings))
}
