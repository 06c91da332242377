//! The verbs, written once for every resource.

mod create;
mod delete;
mod encode;
mod get;
mod list;
mod patch;
mod token;
mod update;
mod watch;
mod write;

use http::{Method, Response};
use kelson_wire::kube::Body;

use crate::gateway::Call;
use crate::registry::Subresource;
use crate::status::{Answer, Failure};
use crate::{binding, eviction, logs, scale};

pub(crate) use crate::table::Include;
pub(crate) use delete::{DeleteOptions, one as delete_one};
pub(crate) use encode::created;
pub(crate) use patch::Kind as PatchKind;
pub(crate) use write::{Current, load, modify, stamp, text};

/// Whether a request may stay open for long, so that neither the limits nor the timeout count it.
pub(crate) fn is_long_running(call: &Call<'_>) -> bool {
    let read = matches!(call.parts.method, Method::GET | Method::HEAD);
    read && match call.target.subresource {
        None => call.query.flag("watch"),
        Some(sub) => sub == Subresource::Log,
    }
}

/// Runs the verb that method and path ask for.
pub(crate) async fn run(call: &Call<'_>) -> Answer<Response<Body>> {
    let target = &call.target;
    let method = &call.parts.method;
    if let Some(subresource) = target.subresource {
        if !subresource.allows(method) {
            return Err(Failure::method_not_allowed());
        }
        return match (subresource, method) {
            (Subresource::Scale, _) => scale::answer(call).await,
            (Subresource::Binding, _) => binding::create(call).await,
            (Subresource::Eviction, _) => eviction::create(call).await,
            (Subresource::Log, _) => logs::get(call).await,
            (Subresource::Status, &Method::GET | &Method::HEAD) => get::get(call).await,
            (Subresource::Status, &Method::PATCH) => patch::patch(call).await,
            (Subresource::Status | Subresource::Finalize, _) => update::replace(call).await,
        };
    }
    match (method, target.name.is_empty()) {
        (&Method::GET | &Method::HEAD, _) if call.query.flag("watch") => watch::watch(call).await,
        (&Method::GET | &Method::HEAD, true) => list::list(call).await,
        (&Method::GET | &Method::HEAD, false) => get::get(call).await,
        (&Method::POST, true) if !target.row.namespaced || !target.namespace.is_empty() => create::create(call).await,
        (&Method::PUT, false) => update::replace(call).await,
        (&Method::PATCH, false) => patch::patch(call).await,
        (&Method::DELETE, false) => delete::delete(call).await,
        (&Method::DELETE, true) if !target.row.namespaced || !target.namespace.is_empty() => {
            delete::delete_collection(call).await
        }
        _ => Err(Failure::method_not_allowed()),
    }
}
