//! Which service a request is for.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use kelson_wire::pb::etcdserverpb::auth_server::AuthServer;
use kelson_wire::pb::etcdserverpb::cluster_server::ClusterServer;
use kelson_wire::pb::etcdserverpb::kv_server::KvServer;
use kelson_wire::pb::etcdserverpb::lease_server::LeaseServer;
use kelson_wire::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use kelson_wire::pb::etcdserverpb::watch_server::WatchServer;
use kelson_wire::pb::health::health_server::HealthServer;
use kelson_wire::pb::v3electionpb::election_server::ElectionServer;
use kelson_wire::pb::v3lockpb::lock_server::LockServer;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use crate::Error;
use crate::asker::Services;
use crate::auth::AuthService;
use crate::body::OwnBody;
use crate::call::{Received, Sent, Source};
use crate::context::Context;
use crate::deadline;
use crate::election::ElectionService;
use crate::gateway::Gateway;
use crate::health::HealthService;
use crate::http as plain;
use crate::kv::KvService;
use crate::lease::LeaseService;
use crate::listener::Serves;
use crate::lock::LockService;
use crate::maintenance::MaintenanceService;
use crate::member::ClusterService;
use crate::metrics;
use crate::peers;
use crate::refusal;
use crate::tls::PeerCertificates;
use crate::watch::WatchService;

/// All services of the port.
pub(crate) struct Router {
    context: Arc<Context>,
    gateway: Gateway,
    /// The KV service for who does without tonic.
    pub(crate) direct: KvService,
    kv: KvServer<KvService>,
    watch: WatchServer<WatchService>,
    lease: LeaseServer<LeaseService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
    auth: AuthServer<AuthService>,
    health: HealthServer<HealthService>,
    lock: LockServer<LockService>,
    election: ElectionServer<ElectionService>,
}

impl Router {
    /// # Errors
    /// [`Error::Gateway`] for a defect of this program.
    pub(crate) fn new(context: Arc<Context>) -> Result<Self, Error> {
        let most = context.options.max_message_bytes();
        let services = Services::new(context.clone());
        // What is sent is as large as what was asked for.
        Ok(Self {
            gateway: Gateway::new(most).map_err(Error::Gateway)?,
            direct: KvService::new(context.clone()),
            kv: KvServer::new(KvService::new(context.clone()))
                .max_decoding_message_size(most)
                .max_encoding_message_size(usize::MAX),
            watch: WatchServer::new(WatchService::new(context.clone()))
                .max_decoding_message_size(most)
                .max_encoding_message_size(usize::MAX),
            lease: LeaseServer::new(LeaseService::new(context.clone()))
                .max_decoding_message_size(most)
                .max_encoding_message_size(usize::MAX),
            cluster: ClusterServer::new(ClusterService::new(context.clone())).max_decoding_message_size(most),
            maintenance: MaintenanceServer::new(MaintenanceService::new(context.clone()))
                .max_decoding_message_size(most),
            auth: AuthServer::new(AuthService::new(context.clone())).max_decoding_message_size(most),
            health: HealthServer::new(HealthService::new(context.clone())).max_decoding_message_size(most),
            lock: LockServer::new(LockService::new(services.clone())).max_decoding_message_size(most),
            election: ElectionServer::new(ElectionService::new(services))
                .max_decoding_message_size(most)
                .max_encoding_message_size(usize::MAX),
            context,
        })
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// Answers one request of a listener that serves `serves`; what goes wrong is in the answer.
    pub(crate) async fn route(&self, serves: Serves, request: Request<Source>) -> Response<Body> {
        match serves {
            Serves::Everything => {}
            Serves::Grpc if is_grpc(request.headers().get(CONTENT_TYPE)) => {}
            Serves::Grpc => return plain::not_grpc(),
            Serves::Http => return self.plain(request).await,
            Serves::Metrics => return plain::metrics(&self.context, &request.map(drop)).await,
            Serves::Peers => return peers::serve(&self.context, &request.map(drop)),
        }
        let method = metrics::place(request.uri().path());
        if method.is_some() || is_grpc(request.headers().get(CONTENT_TYPE)) {
            return self.call(method, request).await;
        }
        self.plain(request).await
    }

    /// Whether a client names itself by a certificate that the gateway does not look at.
    pub(crate) fn ignores_certificate<B>(&self, request: &Request<B>) -> bool {
        let peer = request.extensions().get::<PeerCertificates>();
        let named = peer.is_some_and(|peer| peer.common_name().is_some_and(|name| !name.is_empty()));
        named && self.context.node.reader().auth_enabled()
    }

    /// Answers what is not gRPC.
    async fn plain(&self, request: Request<Source>) -> Response<Body> {
        let path = request.uri().path();
        let is_gateways = self.context.options.gateway && (path.starts_with("/v3/") || path.starts_with("/v3beta/"));
        plain::allow_origins(if request.method() == Method::OPTIONS {
            Response::default()
        } else if is_gateways {
            self.gateway.serve(self, request).await
        } else {
            plain::serve(&self.context, &request.map(drop)).await
        })
    }

    /// Answers a gRPC request of the method at this place of [`metrics::METHODS`]; without one, says that there is none.
    pub(crate) async fn call(&self, method: Option<usize>, request: Request<Source>) -> Response<Body> {
        let mut path = request.uri().path().splitn(3, '/').skip(1);
        let (service, name) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
        let Some(method) = method else {
            return Status::unimplemented(match metrics::is_service(service) {
                true => format!("unknown method {name} for service {service}"),
                false => format!("unknown service {service}"),
            })
            .into_http();
        };
        if !matches!(
            (service, name),
            ("etcdserverpb.KV", "Range") | ("etcdserverpb.Maintenance", "Status" | "Snapshot")
        ) && service.starts_with("etcdserverpb.")
            && let Err(refused) = self.context.check_learner()
        {
            return refused.into_http();
        }
        let deadline = match deadline::of(request.headers()) {
            Ok(deadline) => deadline,
            Err(refused) => return *refused,
        };
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return deadline::exceeded().into_http();
        }
        let (service, ..) = metrics::METHODS[method];
        let call = Arc::new(self.context.metrics.call(method));
        let unknown = || Status::unimplemented(format!("unknown service {service}")).into_http();
        let request_of = |request: Request<Source>| request.map(|source| Received::new(source, call.clone()));
        let answering = async {
            match service {
                "etcdserverpb.KV" => self.kv.clone().call(request_of(request)).await,
                "etcdserverpb.Watch" => self.watch.clone().call(request_of(request)).await,
                "etcdserverpb.Lease" => self.lease.clone().call(request_of(request)).await,
                "etcdserverpb.Cluster" => self.cluster.clone().call(request_of(request)).await,
                "etcdserverpb.Maintenance" => self.maintenance.clone().call(request_of(request)).await,
                "etcdserverpb.Auth" => self.auth.clone().call(request_of(request)).await,
                "v3lockpb.Lock" => self.lock.clone().call(request_of(request)).await,
                "v3electionpb.Election" => self.election.clone().call(request_of(request)).await,
                "grpc.health.v1.Health" => self.health.clone().call(request_of(request)).await,
                _ => Ok(unknown()),
            }
        };
        let response = match deadline {
            None => answering.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, answering).await {
                Ok(response) => response,
                Err(_) => Ok(deadline::exceeded().into_http()),
            },
        };
        let mut response = told(response.unwrap_or_else(|never| match never {}));
        if let Some(body) = OwnBody::detach(&mut response) {
            *response.body_mut() = body;
        }
        call.ended(response.headers());
        response.map(|body| Body::new(Sent::new(body, call, deadline)))
    }
}

fn is_grpc(kind: Option<&HeaderValue>) -> bool {
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// A message that could not be read is told as Go's gRPC library tells it.
fn told(response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if matches!(status.code(), Code::OutOfRange | Code::Internal) => {
            refusal::of_wire(status).into_http()
        }
        _ => response,
    }
}
