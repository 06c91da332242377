//! Reading a collection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;
use kelson_wire::kube::{Body, BoxError};
use kelson_wire::store::{ListOptions, StoreError};
use serde_json::json;

use super::encode::{self, append_metadata};
use super::token::Continue;
use crate::cache::{Entry, Snapshot};
use crate::gateway::Call;
use crate::media::Form;
use crate::query::{Freshness, options_error};
use crate::selector::Selector;
use crate::shape;
use crate::status::{Answer, Failure};
use crate::table::Include;

/// Bytes of a list that are encoded at a time; a shorter list goes out in one piece, with its length known.
const CHUNK: usize = 256 << 10;

const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start \
    a new list without the continue parameter, or use the continue token in this response to retrieve the remainder \
    of the results. Continuing with the provided token results in an inconsistent list - objects that were created, \
    modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// One page of a collection.
pub struct Page {
    pub revision: i64,
    pub entries: Vec<Arc<Entry>>,
    /// Token for the next page, empty at the end.
    pub next: String,
    /// Objects after this page, where that is known.
    pub remaining: Option<usize>,
}

/// `GET` of a collection.
pub async fn list(call: &Call<'_>) -> Answer<Response<Body>> {
    let page = page(call).await?;
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if !page.next.is_empty() {
        metadata["continue"] = json!(page.next);
    }
    if let Some(remaining) = page.remaining.filter(|_| !page.next.is_empty()) {
        metadata["remainingItemCount"] = json!(remaining);
    }
    let row = call.row();
    let form = call.accept.form;
    let head = match form {
        Form::Object => {
            let version = row.api_version();
            format!("{{\"kind\":\"{}List\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":[", row.kind)
                .into_bytes()
        }
        Form::Metadata(version) => format!(
            "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
        )
        .into_bytes(),
        Form::Table(version) => encode::table_head(row, version, &metadata.to_string()),
    };
    let mut items = Items {
        entries: page.entries.into_iter(),
        head: Some(head),
        first: true,
        ended: false,
        form,
        include: encode::include(call)?,
        row,
    };
    let (chunk, more) = items.chunk()?;
    if !more || call.accept.yaml {
        let mut whole = chunk;
        while !items.ended {
            whole.extend_from_slice(&items.chunk()?.0);
        }
        return encode::finish(call, StatusCode::OK, whole.into());
    }
    let mut response = Response::new(Chunks { first: Some(chunk.into()), items }.boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The objects that a list (or a deletion of a collection) is about.
pub async fn page(call: &Call<'_>) -> Answer<Page> {
    let row = call.row();
    let query = &call.query;
    let selector = Selector::parse(row, query.get("labelSelector"), query.get("fieldSelector"))?;
    let limit = usize::try_from(query.number("limit")?.unwrap_or(0).max(0)).unwrap_or(0);
    let prefix = row.prefix(&call.target.namespace);
    let token = query.get("continue");
    if !token.is_empty() {
        if !matches!(query.get("resourceVersion"), "" | "0") {
            return Err(Failure::bad_request("specifying resource version is not allowed when using continue"));
        }
        if query.has("resourceVersionMatch") {
            let message = "Forbidden: resourceVersionMatch is forbidden when continue is provided";
            return Err(options_error("ListOptions", "FieldValueForbidden", message, "resourceVersionMatch"));
        }
        let token = Continue::decode(token)?;
        let start = format!("{prefix}{}", token.start);
        if token.rv < 0 {
            let snapshot = current(call, &prefix, start.as_bytes(), limit, &selector).await?;
            return Ok(cut(call, snapshot, &selector, &prefix, limit));
        }
        let snapshot = exact(call, token.rv, &prefix, start.as_bytes(), limit, &selector).await.map_err(|failure| {
            if failure.code() != StatusCode::GONE {
                return failure;
            }
            // What is left can be had, if the client can live with changes in between.
            let token = Continue { rv: -1, ..token };
            Failure::expired(TOO_OLD).with_continue(token.encode())
        })?;
        return Ok(cut(call, snapshot, &selector, &prefix, limit));
    }
    let store = &*call.gateway.store;
    let fetch = if selector.is_empty() { limit } else { 0 };
    let snapshot = match Freshness::of_list(query, limit > 0)? {
        Freshness::Current => current(call, &prefix, b"", limit, &selector).await?,
        Freshness::Any => call.cache().snapshot(prefix.as_bytes(), b"", fetch),
        Freshness::AtLeast(version) => {
            call.cache().wait_for(store, version).await?;
            call.cache().snapshot(prefix.as_bytes(), b"", fetch)
        }
        Freshness::Exact(version) => exact(call, version, &prefix, b"", limit, &selector).await?,
    };
    Ok(cut(call, snapshot, &selector, &prefix, limit))
}

/// The newest state: from the cache once it has caught up, from the store if it does not.
async fn current(call: &Call<'_>, prefix: &str, start: &[u8], limit: usize, selector: &Selector) -> Answer<Snapshot> {
    let fetch = if selector.is_empty() { limit } else { 0 };
    match call.cache().wait_current(&*call.gateway.store).await {
        Ok(()) => Ok(call.cache().snapshot(prefix.as_bytes(), start, fetch)),
        Err(failure) if failure.code() == StatusCode::GATEWAY_TIMEOUT => {
            from_store(call, 0, prefix, start, fetch).await
        }
        Err(failure) => Err(failure),
    }
}

/// The state at one revision.
async fn exact(
    call: &Call<'_>,
    revision: i64,
    prefix: &str,
    start: &[u8],
    limit: usize,
    selector: &Selector,
) -> Answer<Snapshot> {
    let fetch = if selector.is_empty() { limit } else { 0 };
    match call.cache().snapshot_at(revision, prefix.as_bytes(), start, fetch) {
        Some(snapshot) => Ok(snapshot),
        None => from_store(call, revision, prefix, start, fetch).await,
    }
}

async fn from_store(call: &Call<'_>, revision: i64, prefix: &str, start: &[u8], limit: usize) -> Answer<Snapshot> {
    let start_key = (!start.is_empty()).then(|| Bytes::copy_from_slice(start));
    let options = ListOptions { limit, revision, start_key };
    let listed = match call.gateway.store.list(prefix.to_string().into(), options).await {
        Ok(listed) => listed,
        Err(StoreError::Future) => return Err(Failure::too_large(revision, call.cache().revision())),
        Err(error) => return Err(error.into()),
    };
    let row = call.row();
    let remaining = usize::try_from(listed.count).unwrap_or(0).saturating_sub(listed.objects.len());
    Ok(Snapshot {
        revision: if revision > 0 { revision } else { listed.revision },
        entries: listed.objects.iter().filter_map(|object| Entry::new(row, object)).map(Arc::new).collect(),
        remaining,
    })
}

/// Applies selector and limit.
fn cut(call: &Call<'_>, snapshot: Snapshot, selector: &Selector, prefix: &str, limit: usize) -> Page {
    let row = call.row();
    let Snapshot { revision, mut entries, remaining } = snapshot;
    if selector.is_empty() {
        let next = match entries.last() {
            Some(last) if remaining > 0 => Continue::after(prefix, &last.key, revision),
            _ => String::new(),
        };
        return Page { revision, entries, next, remaining: Some(remaining) };
    }
    entries.retain(|entry| selector.matches(row, entry));
    let mut next = String::new();
    if limit > 0 && entries.len() > limit {
        entries.truncate(limit);
        if let Some(last) = entries.last() {
            next = Continue::after(prefix, &last.key, revision);
        }
    }
    // With a selector the number of what is left is unknown to kube-apiserver, so clients do not expect it.
    Page { revision, entries, next, remaining: None }
}

/// Encodes a list piece by piece.
struct Items {
    entries: std::vec::IntoIter<Arc<Entry>>,
    head: Option<Vec<u8>>,
    first: bool,
    ended: bool,
    form: Form,
    include: Include,
    row: &'static crate::registry::Resource,
}

impl Items {
    /// The next piece, and whether more follow.
    fn chunk(&mut self) -> Answer<(Vec<u8>, bool)> {
        let mut chunk = self.head.take().unwrap_or_default();
        for entry in self.entries.by_ref() {
            if !std::mem::take(&mut self.first) {
                chunk.push(b',');
            }
            match self.form {
                Form::Object => chunk.extend_from_slice(entry.object_bytes()),
                Form::Metadata(version) => append_metadata(entry.object_bytes(), version, &mut chunk),
                Form::Table(_) => shape::append_row(self.row, entry.object_bytes(), self.include, &mut chunk)?,
            }
            if chunk.len() >= CHUNK {
                return Ok((chunk, true));
            }
        }
        chunk.extend_from_slice(b"]}");
        self.ended = true;
        Ok((chunk, false))
    }
}

/// A list as a response body.
struct Chunks {
    first: Option<Bytes>,
    items: Items,
}

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if this.items.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(match this.items.chunk() {
            Ok((chunk, _)) => Ok(Frame::data(chunk.into())),
            Err(failure) => {
                this.items.ended = true;
                Err(failure.message().to_string().into())
            }
        }))
    }
}
