//! Which service a request is for.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use kelson_wire::pb::etcdserverpb::cluster_server::ClusterServer;
use kelson_wire::pb::etcdserverpb::kv_server::KvServer;
use kelson_wire::pb::etcdserverpb::lease_server::LeaseServer;
use kelson_wire::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use kelson_wire::pb::etcdserverpb::watch_server::WatchServer;
use kelson_wire::pb::health::health_server::HealthServer;
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use crate::context::Context;
use crate::health::HealthService;
use crate::http as plain;
use crate::kv::KvService;
use crate::lease::LeaseService;
use crate::listener::Serves;
use crate::maintenance::MaintenanceService;
use crate::member::ClusterService;
use crate::peers;
use crate::watch::WatchService;

/// All services of the port.
pub(crate) struct Router {
    context: Arc<Context>,
    kv: KvServer<KvService>,
    watch: WatchServer<WatchService>,
    lease: LeaseServer<LeaseService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
    health: HealthServer<HealthService>,
}

impl Router {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let most = context.options.max_message_bytes();
        // What is sent is as large as what was asked for.
        Self {
            kv: KvServer::new(KvService::new(context.clone()))
                .max_decoding_message_size(most)
                .max_encoding_message_size(usize::MAX),
            watch: WatchServer::new(WatchService::new(context.clone()))
                .max_decoding_message_size(most)
                .max_encoding_message_size(usize::MAX),
            lease: LeaseServer::new(LeaseService::new(context.clone())).max_encoding_message_size(usize::MAX),
            cluster: ClusterServer::new(ClusterService::new(context.clone())),
            maintenance: MaintenanceServer::new(MaintenanceService::new(context.clone())),
            health: HealthServer::new(HealthService::new(context.clone())),
            context,
        }
    }

    /// Answers one request of a listener that serves `serves`; what goes wrong is in the answer.
    pub(crate) async fn route(&self, serves: Serves, request: Request<Incoming>) -> Response<Body> {
        match serves {
            Serves::Everything => {}
            Serves::Grpc if is_grpc(request.headers().get(CONTENT_TYPE)) => {}
            Serves::Grpc => return plain::not_grpc(),
            Serves::Http => return plain::serve(&self.context, &request).await,
            Serves::Metrics => return plain::metrics(&self.context, &request).await,
            Serves::Peers => return peers::serve(&self.context, &request),
        }
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        let response = match service {
            "etcdserverpb.KV" => return sized(self.kv.clone().call(request).await),
            "etcdserverpb.Watch" => self.watch.clone().call(request).await,
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            "grpc.health.v1.Health" => self.health.clone().call(request).await,
            _ if is_grpc(request.headers().get(CONTENT_TYPE)) => {
                return Status::unimplemented(format!("unknown service {service}")).into_http();
            }
            _ => return plain::serve(&self.context, &request).await,
        };
        response.unwrap_or_else(|never| match never {})
    }
}

fn is_grpc(kind: Option<&HeaderValue>) -> bool {
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// A message that is too large to be read is told as Go's gRPC library tells it.
fn sized(response: Result<Response<Body>, std::convert::Infallible>) -> Response<Body> {
    let response = response.unwrap_or_else(|never| match never {});
    let refused = Status::from_header_map(response.headers());
    match refused {
        Some(status) if status.code() == Code::OutOfRange && status.message().contains("message length too large") => {
            Status::resource_exhausted("grpc: received message larger than max").into_http()
        }
        _ => response,
    }
}
