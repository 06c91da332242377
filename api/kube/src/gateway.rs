//! The gateway itself: from a request to its handler.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use kelson_wire::kube::{Body, BoxError, Transport, full};
use kelson_wire::store::Store;
use tokio_util::task::AbortOnDropHandle;

use crate::cache::{self, Cache};
use crate::limit::Limits;
use crate::media::{self, Accept};
use crate::metrics::Metrics;
use crate::query::Query;
use crate::registry::{RESOURCES, Resource};
use crate::route::{Route, Target, route};
use crate::status::{Answer, Failure};
use crate::{Config, Error, bootstrap, discovery, health, verbs};

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The common name of a client certificate, for example.
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    /// A user.
    pub fn new(name: &str, groups: &[&str]) -> User {
        User { name: name.to_string(), groups: groups.iter().map(|group| (*group).to_string()).collect() }
    }

    /// Whoever shows no credentials. May ask for health and version, nothing else.
    pub fn anonymous() -> User {
        User::new("system:anonymous", &["system:unauthenticated"])
    }

    fn is_authenticated(&self) -> bool {
        !self.groups.iter().any(|group| group == "system:unauthenticated")
    }
}

/// A running gateway. Clones share it; the watch caches stop with the last one.
#[derive(Clone)]
pub struct Gateway(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub store: Arc<dyn Store>,
    pub config: Config,
    pub caches: Vec<Arc<Cache>>,
    pub metrics: Metrics,
    pub limits: Limits,
    pub events: crate::expiry::Leases,
    _feeds: Vec<AbortOnDropHandle<()>>,
}

/// One request on its way through a handler.
pub(crate) struct Call<'a> {
    pub gateway: &'a Inner,
    pub target: Target,
    pub query: Query,
    pub accept: Accept,
    pub parts: &'a http::request::Parts,
    pub body: &'a Bytes,
    /// Whether the caller is a part of the same process, whose objects need no strict decoding.
    pub internal: bool,
}

impl Call<'_> {
    pub fn row(&self) -> &'static Resource {
        self.target.row
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.gateway.caches[self.target.number]
    }
}

impl Gateway {
    /// Opens the gateway on a store: starts the watch caches, waits until they are complete, and creates what every
    /// cluster has (the four namespaces, the `kubernetes` Service).
    ///
    /// # Errors
    /// If the store fails, or the configuration's service range is of no use.
    pub async fn start(store: Arc<dyn Store>, config: Config) -> Result<Gateway, Error> {
        let caches: Vec<_> = RESOURCES.iter().map(|row| Arc::new(Cache::new(row))).collect();
        let feeds = caches
            .iter()
            .map(|cache| AbortOnDropHandle::new(tokio::spawn(cache::run(cache.clone(), store.clone()))))
            .collect();
        // A store that cannot be read is an error here, not a wait without end.
        store.get(Bytes::from_static(b"/registry/.revision")).await?;
        for cache in &caches {
            cache.wait_ready().await;
        }
        if let Some(client) = &config.kubelet_client {
            client.check()?;
        }
        let gateway = Gateway(Arc::new(Inner {
            store,
            caches,
            metrics: Metrics::default(),
            limits: Limits::new(&config),
            events: crate::expiry::Leases::default(),
            config,
            _feeds: feeds,
        }));
        bootstrap::run(&gateway).await?;
        // It holds the gateway weakly and ends with it.
        tokio::spawn(bootstrap::keep(Arc::downgrade(&gateway.0)));
        Ok(gateway)
    }

    /// A way to call the gateway in process as `user`: the same handlers, without TLS and HTTP framing.
    pub fn transport(&self, user: User) -> Arc<dyn Transport> {
        Arc::new(Local { gateway: self.clone(), user })
    }

    /// Answers one request. Never fails: refusals are `Status` objects.
    pub async fn handle(&self, user: &User, request: Request<Bytes>) -> Response<Body> {
        self.answer(user, request, false).await
    }

    async fn answer(&self, user: &User, request: Request<Bytes>, internal: bool) -> Response<Body> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let route = route(parts.uri.path());
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let label = Label::of(&parts.method, &route, &query);
        let answered = self.dispatch(user, &parts, &body, route, query, internal).await;
        let mut response = answered.unwrap_or_else(|failure| failure.response());
        let headers = response.headers_mut();
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        self.0.metrics.observe(&label, response.status(), started.elapsed());
        if parts.method == Method::HEAD {
            *response.body_mut() = full(Bytes::new());
        }
        response
    }

    async fn dispatch(
        &self,
        user: &User,
        parts: &http::request::Parts,
        body: &Bytes,
        route: Route,
        query: Query,
        internal: bool,
    ) -> Answer<Response<Body>> {
        let gateway = &*self.0;
        let open = matches!(route, Route::Health | Route::Version);
        if !open && !user.is_authenticated() {
            return Err(Failure::unauthorized());
        }
        let target = match route {
            Route::Resource(target) => target,
            Route::Bindings(namespace) => {
                let (number, row) = crate::registry::core("pods");
                let subresource = Some(crate::registry::Subresource::Binding);
                Target { number, row, namespace, name: String::new(), subresource }
            }
            other => {
                if !matches!(parts.method, Method::GET | Method::HEAD) {
                    return Err(if matches!(other, Route::Unknown) {
                        Failure::no_such_path()
                    } else {
                        Failure::method_not_allowed()
                    });
                }
                return match other {
                    Route::Health => health::answer(gateway, parts.uri.path(), &query).await,
                    Route::Version => Ok(json(health::version())),
                    Route::Metrics => Ok(gateway.metrics.response(gateway)),
                    other => discovery::answer(other, parts),
                };
            }
        };
        if body.len() > gateway.config.max_body {
            return Err(Failure::too_large_body(gateway.config.max_body));
        }
        let accept = media::accept(&parts.headers)?;
        let call = Call { gateway, target, query, accept, parts, body, internal };
        if verbs::is_long_running(&call) {
            return verbs::run(&call).await;
        }
        let limited = async {
            let _place = gateway.limits.enter(&parts.method).await?;
            verbs::run(&call).await
        };
        match tokio::time::timeout(gateway.config.request_timeout, limited).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::timeout()),
        }
    }
}

/// A 200 response with a JSON body.
pub(crate) fn json(value: serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// How metrics name a request.
pub(crate) struct Label {
    pub verb: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub resource: &'static str,
    pub subresource: &'static str,
}

impl Label {
    fn of(method: &Method, route: &Route, query: &Query) -> Label {
        let Route::Resource(target) = route else {
            let resource = if matches!(route, Route::Bindings(_)) { "bindings" } else { "" };
            return Label { verb: verb_name(method), group: "", version: "", resource, subresource: "" };
        };
        let verb = match *method {
            Method::GET | Method::HEAD if query.flag("watch") && target.subresource.is_none() => "WATCH",
            Method::GET | Method::HEAD if target.name.is_empty() => "LIST",
            Method::DELETE if target.name.is_empty() => "DELETECOLLECTION",
            _ => verb_name(method),
        };
        Label {
            verb,
            group: target.row.group,
            version: target.row.version,
            resource: target.row.plural,
            subresource: target.subresource.map_or("", |sub| sub.name()),
        }
    }
}

fn verb_name(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

struct Local {
    gateway: Gateway,
    user: User,
}

#[async_trait::async_trait]
impl Transport for Local {
    async fn call(&self, request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
        Ok(self.gateway.answer(&self.user, request, true).await)
    }
}
