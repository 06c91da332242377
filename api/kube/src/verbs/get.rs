//! Reading one object.

use http::{Response, StatusCode};
use kelson_wire::kube::Body;

use super::encode;
use crate::gateway::Call;
use crate::query::resource_version;
use crate::status::{Answer, Failure};

/// `GET` of an object: from the store, or with a resource version from the cache.
pub async fn get(call: &Call<'_>) -> Answer<Response<Body>> {
    let target = &call.target;
    let missing = || Failure::not_found(target.row, &target.name);
    let key = target.key();
    if let Some(version) = resource_version(call.query.get("resourceVersion"))? {
        let store = &*call.gateway.store;
        call.cache().wait_for(store, version).await?;
        let entry = call.cache().get(&key).ok_or_else(missing)?;
        return encode::entry(call, StatusCode::OK, &entry);
    }
    let object = call.gateway.store.get(key).await?.object.ok_or_else(missing)?;
    encode::stored(call, StatusCode::OK, &object.value, object.mod_revision)
}
