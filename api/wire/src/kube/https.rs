//! The transport over TLS: one pool of HTTP/2 (or 1.1) connections to one API server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::kubeconfig::Kubeconfig;
use super::tls::TlsConnector;
use super::transport::{Body, BoxError, Transport};

/// Flow-control windows: large, because one connection carries every watch of a component.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// A dead peer is noticed after interval plus timeout.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// HTTPS to one API server as one identity.
pub struct Https {
    client: HttpClient<TlsConnector, Full<Bytes>>,
    authority: Authority,
    authorization: Option<http::HeaderValue>,
}

impl Https {
    /// A transport as the kubeconfig says. Connects when first used.
    ///
    /// # Errors
    /// If the server is not an `https://` URL, or a certificate or key cannot be read.
    pub fn new(config: &Kubeconfig) -> Result<Https, BoxError> {
        let uri: http::Uri = config.server.parse()?;
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(format!("server {} is not an https:// URL", config.server).into());
        }
        let authority = uri.authority().ok_or("the server URL has no host")?.clone();
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&config.certificate_authority) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut tls = if config.client_certificate.is_empty() {
            builder.with_no_client_auth()
        } else {
            let chain = CertificateDer::pem_slice_iter(&config.client_certificate).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&config.client_key)?)?
        };
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let authorization = match config.token.as_str() {
            "" => None,
            token => {
                let mut value = http::HeaderValue::from_str(&format!("Bearer {token}"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(Duration::from_secs(5)));
        let client = HttpClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(TlsConnector::new(tcp, tls));
        Ok(Https { client, authority, authorization })
    }
}

#[async_trait::async_trait]
impl Transport for Https {
    async fn call(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BoxError> {
        let (mut parts, body) = request.into_parts();
        let mut uri = parts.uri.into_parts();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(self.authority.clone());
        parts.uri = http::Uri::from_parts(uri)?;
        if let Some(value) = &self.authorization {
            parts.headers.insert(http::header::AUTHORIZATION, value.clone());
        }
        let response = self.client.request(http::Request::from_parts(parts, Full::new(body))).await?;
        Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
    }
}
