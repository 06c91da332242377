//! Whether this member can serve: over gRPC, and for the HTTP endpoints.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use kelson_engine::AlarmKind;
use kelson_engine::command::{KeyRange, RangeRequest};
use kelson_wire::pb::health::health_check_response::ServingStatus;
use kelson_wire::pb::health::health_server::Health;
use kelson_wire::pb::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::refusal;

/// One thing that may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Members agree on what they hold: no alarm says otherwise.
    DataCorruption,
    /// This member's own state can be read.
    SerializableRead,
    /// The cluster agrees: a read that sees every acknowledged write is possible.
    LinearizableRead,
    /// This member votes, and so serves everything.
    NonLearner,
}

impl Check {
    /// The checks of `/livez` and `/readyz`, in the order that they are reported in.
    pub(crate) const LIVE: &[Check] = &[Check::SerializableRead];
    pub(crate) const READY: &[Check] =
        &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

    /// Its place among the counters: those of `/livez` come first.
    pub(crate) fn place(self, live: bool) -> usize {
        let kind = if live { Check::LIVE } else { Check::READY };
        let before = if live { 0 } else { Check::LIVE.len() };
        before + kind.iter().position(|check| *check == self).unwrap_or(0)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    /// Runs it; the error says what is wrong.
    pub(crate) async fn run(self, context: &Context) -> Result<(), String> {
        match self {
            Check::DataCorruption => {
                let alarms = context.node.reader().alarms();
                let corrupt = alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
                if corrupt { Err("alarm activated: CORRUPT".into()) } else { Ok(()) }
            }
            Check::SerializableRead => read(context, true).await,
            Check::LinearizableRead => read(context, false).await,
            Check::NonLearner if context.node.status().is_learner => Err("not supported for learner".into()),
            Check::NonLearner => Ok(()),
        }
    }
}

/// A read of one key.
pub(crate) async fn read(context: &Context, serializable: bool) -> Result<(), String> {
    if let Some(failure) = context.node.status().failure {
        return Err(failure);
    }
    let request = RangeRequest {
        range: KeyRange { start: "health".into(), end: Default::default() },
        limit: 1,
        revision: 0,
        sort_order: Default::default(),
        sort_target: Default::default(),
        keys_only: true,
        count_only: false,
        min_mod_revision: 0,
        max_mod_revision: 0,
        min_create_revision: 0,
        max_create_revision: 0,
    };
    let reads = &context.reads;
    let answer = if serializable { reads.local(request).await } else { reads.linearizable(request).await };
    answer.map(|_| ()).map_err(|error| error.to_string())
}

/// The standard gRPC health service; it knows the server as a whole, by the empty name.
#[derive(Clone)]
pub(crate) struct HealthService {
    context: Arc<Context>,
}

impl HealthService {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    fn serving(&self) -> HealthCheckResponse {
        let stopped = self.context.shutdown.is_cancelled() || self.context.node.status().failure.is_some();
        let status = if stopped { ServingStatus::NotServing } else { ServingStatus::Serving };
        HealthCheckResponse { status: status.into() }
    }

    async fn do_check(&self, request: HealthCheckRequest) -> Result<HealthCheckResponse, Status> {
        if request.service.is_empty() { Ok(self.serving()) } else { Err(Status::not_found("unknown service")) }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.do_check(request.into_inner()).await.map(Response::new)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Says how it is, and that it is over when the server stops.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let first = if request.into_inner().service.is_empty() {
            self.serving()
        } else {
            HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() }
        };
        let shutdown = self.context.shutdown.clone();
        let end = stream::once(async move {
            shutdown.cancelled().await;
            Err(Status::unavailable(refusal::STOPPED))
        });
        Ok(Response::new(Box::pin(stream::iter([Ok(first)]).chain(end))))
    }
}
