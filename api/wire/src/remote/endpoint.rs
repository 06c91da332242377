//! Where the cluster is, and which of its members is asked.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, ConnectError, Status};

use crate::store::StoreError;

/// HTTP/2 flow control windows in bytes: lists of many megabytes must not wait for window updates.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;

/// How to reach an etcd cluster.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// `http://host:port` or `https://host:port`, one or more; tried in turn.
    pub endpoints: Vec<String>,
    /// Needed for `https://`.
    pub tls: Option<ClientTls>,
    /// Bound on the making of a connection.
    pub connect_timeout: Duration,
    /// Bound on each request and each page of a list.
    pub request_timeout: Duration,
}

impl RemoteOptions {
    /// Options with the usual timeouts (2 s to connect, 10 s a request) and without TLS.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// Trust and identity for `https://` endpoints, all in PEM.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    /// Certificates of the authorities that the server's certificate may come from.
    pub ca: Vec<u8>,
    /// Our certificate chain and its private key, where the server asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Name that the server's certificate must carry, where it is not the endpoint's host.
    pub server_name: Option<String>,
}

/// One lazily connected channel for each endpoint, and which of them is in use.
pub(super) struct Endpoints {
    channels: Vec<Channel>,
    current: AtomicUsize,
}

impl Endpoints {
    pub(super) fn new(options: RemoteOptions) -> Result<Self, StoreError> {
        if options.endpoints.is_empty() {
            return Err(StoreError::Rejected("no etcd endpoints are given".into()));
        }
        let channels = options.endpoints.iter().map(|url| channel(url, &options)).collect::<Result<_, _>>()?;
        Ok(Self { channels, current: AtomicUsize::new(0) })
    }

    pub(super) fn len(&self) -> usize {
        self.channels.len()
    }

    /// The channel in use, and a token for [`Self::move_on`].
    pub(super) fn current(&self) -> (usize, Channel) {
        let at = self.current.load(Ordering::Relaxed);
        (at, self.channels[at % self.channels.len()].clone())
    }

    /// Goes to the next endpoint, unless somebody else did since `at` was taken.
    pub(super) fn move_on(&self, at: usize) {
        let _ = self.current.compare_exchange(at, at.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }
}

pub(super) fn channel(url: &str, options: &RemoteOptions) -> Result<Channel, StoreError> {
    let refused = |why: &dyn std::fmt::Display| StoreError::Rejected(format!("etcd endpoint {url:?}: {why}"));
    let secure = match url.split_once("://") {
        Some(("http", _)) => false,
        Some(("https", _)) => true,
        _ => return Err(refused(&"it must begin with http:// or https://")),
    };
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| refused(&error))?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // A peer that vanished without a word ends its watches.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5));
    if secure {
        let Some(tls) = &options.tls else {
            return Err(refused(&"https:// needs the certificate of an authority to trust"));
        };
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
        if let Some((chain, key)) = &tls.identity {
            config = config.identity(Identity::from_pem(chain, key));
        }
        if let Some(name) = &tls.server_name {
            config = config.domain_name(name);
        }
        endpoint = endpoint.tls_config(config).map_err(|error| refused(&describe(&error)))?;
    }
    Ok(endpoint.connect_lazy())
}

/// An error with its causes: tonic's own text alone says only "transport error".
pub(super) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = match error.downcast_ref::<Status>() {
        // Its own text has the code in front, which says nothing more to people.
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Whether another endpoint may fare better.
pub(super) fn is_unavailable(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown | Code::Internal
    )
}

/// Whether the request certainly reached no server.
pub(super) fn was_never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
