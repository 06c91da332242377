//! Bodies of answers that a service makes itself, past tonic's encoder.

use std::sync::Arc;

use parking_lot::Mutex;
use tonic::Response;
use tonic::body::Body;

/// An answer's own body: the extension of an empty answer on its way from the service to the port, where it takes the
/// place of the body.
#[derive(Clone)]
pub(crate) struct OwnBody(Arc<Mutex<Option<Body>>>);

impl OwnBody {
    /// Has `answer` sent with this body. The body ends with gRPC's trailers.
    pub(crate) fn attach<T>(answer: &mut Response<T>, body: Body) {
        answer.extensions_mut().insert(Self(Arc::new(Mutex::new(Some(body)))));
    }

    /// Takes the body that `answer` was given, if any.
    pub(crate) fn detach<T>(answer: &mut http::Response<T>) -> Option<Body> {
        answer.extensions_mut().remove::<Self>()?.0.lock().take()
    }
}
