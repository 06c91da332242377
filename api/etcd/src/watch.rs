//! etcd's Watch service.
//!
//! A stream of answers is polled by the connection that it goes to and by nothing else: there is no task for a stream
//! or a watch and no queue between them and the client. A slow client is simply not polled, and falls back to reading
//! history when it is again.

mod answers;
mod ready;
mod session;

use std::sync::Arc;

use futures_util::stream;
use kelson_wire::pb::etcdserverpb::watch_server::Watch;
use kelson_wire::pb::etcdserverpb::{WatchRequest, WatchResponse};
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::Caller;
use crate::body::OwnBody;
use crate::context::Context;
use session::Session;

#[derive(Clone)]
pub(crate) struct WatchService {
    context: Arc<Context>,
}

impl WatchService {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    /// The answers are the session's own body.
    type WatchStream = stream::Empty<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let lost = self.context.leader_lost(request.metadata())?;
        let caller = Caller::of(&request);
        // Waits for a token that is known elsewhere already; whether it is good is told of each watch.
        _ = self.context.identify(&caller).await;
        let session = Session::new(self.context.clone(), caller, request.into_inner(), lost);
        let mut response = Response::new(stream::empty());
        OwnBody::attach(&mut response, Body::new(session));
        Ok(response)
    }
}
