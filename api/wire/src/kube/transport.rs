//! How a request reaches an API server.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A response body: bytes that may arrive over hours (a watch).
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// One way to reach an API server as one identity. The gateway is one (in process), HTTPS is another.
#[async_trait::async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends one request whose path and query are absolute (`/api/v1/pods?watch=true`).
    ///
    /// # Errors
    /// Only what kept a response from arriving; a Kubernetes `Status` failure is a response.
    async fn call(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BoxError>;
}

/// A body that is already whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
