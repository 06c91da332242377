//! Calls to kubelets.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Error;
use crate::pki::{Identity, kubelet_client};

/// How long a kubelet gets to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a kubelet gets to begin its answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How the gateway shows itself to kubelets, and whom it believes to be one.
#[derive(Clone, Debug)]
pub struct KubeletClient {
    pub identity: Identity,
    /// CA certificate of the kubelets' serving certificates, PEM.
    pub authority: String,
}

/// Where one kubelet is.
pub(crate) struct Endpoint<'a> {
    pub node: &'a str,
    /// An IP address or a name.
    pub host: &'a str,
    pub port: u16,
}

impl KubeletClient {
    /// Fails early if the identity is of no use.
    pub(crate) fn check(&self) -> Result<(), Error> {
        kubelet_client(&self.identity, &self.authority, "").map(drop)
    }

    /// Sends one `GET`; the answer's body may go on for as long as the caller reads it. One connection each: logs are
    /// rare, and a connection that ends with its reader needs no bookkeeping.
    pub(crate) async fn get(&self, endpoint: &Endpoint<'_>, path: &str) -> Result<Response<Incoming>, String> {
        let config =
            kubelet_client(&self.identity, &self.authority, endpoint.node).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(endpoint.host.to_string()).map_err(|error| error.to_string())?;
        let address = (endpoint.host.trim_matches(['[', ']']), endpoint.port);
        let connect = async {
            let stream = TcpStream::connect(address).await.map_err(|error| format!("dial tcp: {error}"))?;
            let connector = TlsConnector::from(Arc::new(config));
            connector.connect(name, stream).await.map_err(|error| format!("tls: {error}"))
        };
        let stream = tokio::time::timeout(CONNECT_PATIENCE, connect).await.map_err(|_| "dial tcp: i/o timeout")??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            // It ends with the answer, or when the reader goes away; either is no news to anybody.
            let _ = connection.await;
        });
        let request = Request::get(path)
            .header(header::HOST, format!("{}:{}", endpoint.host, endpoint.port))
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(ANSWER_PATIENCE, sender.send_request(request)).await;
        answer.map_err(|_| "net/http: timeout awaiting response headers")?.map_err(|error| error.to_string())
    }
}
