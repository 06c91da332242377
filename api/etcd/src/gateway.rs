//! The JSON gateway: etcd's API for clients that speak HTTP and JSON. A request is translated, made of the same services
//! as any other, and its answer translated back; so all that holds for gRPC holds here.

mod json;
mod objects;
mod routes;

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, TE, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use kelson_wire::pb;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::call::{PREFIX, Source};
use crate::http as plain;
use crate::metrics;
use crate::router::Router;
use objects::Objects;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// Said to a client whose certificate would name it anywhere but here.
const IGNORED_NAME: &str =
    "CommonName of client sending a request against gateway will be ignored and not used as expected";
/// Headers that go on as metadata, under the rest of their name.
const METADATA: &str = "grpc-metadata-";

/// Where paths lead.
pub(crate) struct Gateway {
    routes: HashMap<&'static str, Route>,
    /// Most bytes of one request's JSON.
    most: usize,
}

struct Route {
    /// The gRPC path.
    path: &'static str,
    /// Place in [`metrics::METHODS`].
    method: usize,
    input: MessageDescriptor,
    output: MessageDescriptor,
    takes_stream: bool,
    gives_stream: bool,
}

impl Gateway {
    /// `most` bytes of message are taken in.
    ///
    /// # Errors
    /// A text where the descriptors, which are part of the program, lack something.
    pub(crate) fn new(most: usize) -> Result<Self, String> {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).map_err(|error| error.to_string())?;
        let route = |(from, to): &(&'static str, &'static str)| {
            let (service, method) = to[1..].split_once('/')?;
            let service = pool.get_service_by_name(service)?;
            let method = service.methods().find(|known| known.name() == method)?;
            let route = Route {
                path: to,
                method: metrics::place(to)?,
                input: method.input(),
                output: method.output(),
                takes_stream: method.is_client_streaming(),
                gives_stream: method.is_server_streaming(),
            };
            Some((*from, route))
        };
        let routes = routes::ROUTES.iter().map(|pair| route(pair).ok_or_else(|| format!("no method {}", pair.1)));
        // Base64 makes four bytes of three; names and the like have as much again.
        Ok(Self { routes: routes.collect::<Result<_, _>>()?, most: most.saturating_mul(2) })
    }

    /// Answers a request whose path begins with `/v3/` (or what it once was, `/v3beta/`).
    pub(crate) async fn serve(&self, router: &Router, request: Request<Source>) -> Response<Body> {
        let path = request.uri().path();
        let current = path.strip_prefix("/v3beta/").map(|rest| format!("/v3/{rest}"));
        let Some(route) = self.routes.get(current.as_deref().unwrap_or(path)) else {
            return refused(&Status::not_found("Not Found"));
        };
        if request.method() != Method::POST {
            return refused(&Status::unimplemented("Method Not Allowed"));
        }
        if router.ignores_certificate(&request) {
            return plain::answer(StatusCode::BAD_REQUEST, plain::TEXT, format!("{IGNORED_NAME}\n"));
        }
        match self.answer(router, route, request).await {
            Ok(response) => response,
            Err(status) => refused(&status),
        }
    }

    async fn answer(&self, router: &Router, route: &Route, request: Request<Source>) -> Result<Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let body = if route.takes_stream {
            let objects = Objects::new(body, route.input.clone(), self.most);
            Body::new(StreamBody::new(
                objects.messages().map(|message| message.map(|message| Frame::data(prefixed(&message)))),
            ))
        } else {
            let message = json::to_message(&route.input, &self.read(body).await?)?;
            Body::new(Full::new(prefixed(&message)))
        };
        let answer = router.call(Some(route.method), inside(route.path, &head.headers, body)).await;
        let mut messages = Messages::new(answer)?;
        if route.gives_stream {
            return Ok(stream_of(messages, route.output.clone()).await);
        }
        let message = messages.next().await?.unwrap_or_default();
        // How it ended comes last.
        while messages.next().await?.is_some() {}
        let text = json::of_message(&route.output, message)?;
        Ok(answered(Body::new(Full::new(Bytes::from(text)))))
    }

    /// Reads the whole body of a request that is one message.
    async fn read(&self, body: Source) -> Result<Bytes, Status> {
        if body.size_hint().lower() > self.most as u64 {
            return Err(too_large(self.most));
        }
        match Limited::new(body, self.most).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(self.most)),
            Err(error) => Err(Status::invalid_argument(error.to_string())),
        }
    }
}

fn too_large(most: usize) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max (the request's body vs. {most})"))
}

/// A message behind its length.
fn prefixed(message: &[u8]) -> Bytes {
    let mut whole = BytesMut::with_capacity(PREFIX + message.len());
    whole.put_u8(0);
    // Bodies are bounded far below what a length can say.
    whole.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    whole.extend_from_slice(message);
    whole.freeze()
}

/// The gRPC request for one of JSON. Who asks is told by the token alone: the connection's certificate is not the
/// gateway's.
fn inside(path: &'static str, from: &HeaderMap, body: Body) -> Request<Source> {
    let mut request = Request::new(Source::Inside(body));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = http::Uri::from_static(path);
    let headers = request.headers_mut();
    for (name, value) in from {
        let inner = name.as_str().strip_prefix(METADATA).and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        if let Some(inner) = inner.filter(|inner| !inner.as_str().starts_with("grpc-")) {
            headers.append(inner, value.clone());
        }
    }
    if let Some(token) = from.get(AUTHORIZATION) {
        headers.insert(AUTHORIZATION, token.clone());
    }
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(TE, HeaderValue::from_static("trailers"));
    request
}

/// An answer of gRPC, message by message.
struct Messages {
    body: Body,
    held: BytesMut,
}

impl Messages {
    /// Fails at once where there will be no message.
    fn new(answer: Response<Body>) -> Result<Self, Status> {
        match Status::from_header_map(answer.headers()) {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ => Ok(Self { body: answer.into_body(), held: BytesMut::new() }),
        }
    }

    /// The next message; `None` at an end without a failure.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(length) = self.held.get(1..PREFIX).and_then(|length| <[u8; 4]>::try_from(length).ok()) {
                let end = PREFIX + u32::from_be_bytes(length) as usize;
                if self.held.len() >= end {
                    return Ok(Some(self.held.split_to(end).split_off(PREFIX).freeze()));
                }
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            match frame?.into_data() {
                Ok(data) => self.held.extend_from_slice(&data),
                Err(frame) => match frame.trailers_ref().and_then(Status::from_header_map) {
                    Some(status) if status.code() != Code::Ok => return Err(status),
                    _ => {}
                },
            }
        }
    }
}

/// An answer that is a stream: a line for each message. Begins with the first, so that an early failure has its status.
async fn stream_of(mut messages: Messages, output: MessageDescriptor) -> Response<Body> {
    let first = match line(&mut messages, &output).await {
        Ok(Some(line)) => line,
        Ok(None) => return answered(Body::empty()),
        Err(status) => return failed(&status),
    };
    let rest = stream::unfold(Some((messages, output)), |open| async move {
        let (mut messages, output) = open?;
        match line(&mut messages, &output).await {
            Ok(Some(line)) => Some((line, Some((messages, output)))),
            Ok(None) => None,
            Err(status) => Some((error_line(&status), None)),
        }
    });
    let lines = stream::iter([first]).chain(rest).map(|line| Ok::<_, Status>(Frame::data(line)));
    answered(Body::new(StreamBody::new(lines)))
}

async fn line(messages: &mut Messages, output: &MessageDescriptor) -> Result<Option<Bytes>, Status> {
    let Some(message) = messages.next().await? else { return Ok(None) };
    let text = json::of_message(output, message)?;
    Ok(Some([b"{\"result\":", &text[..], b"}\n"].concat().into()))
}

fn error_line(status: &Status) -> Bytes {
    format!("{{\"error\":{}}}\n", error(status)).into()
}

fn error(status: &Status) -> serde_json::Value {
    serde_json::json!({ "code": status.code() as i32, "message": status.message() })
}

fn answered(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(HeaderName::from_static("grpc-metadata-content-type"), GRPC);
    response
}

/// A failure before there was an answer.
fn refused(status: &Status) -> Response<Body> {
    let mut response = told(status, error(status).to_string().into());
    if status.code() == Code::Unauthenticated
        && let Ok(message) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, message);
    }
    response
}

/// A stream's failure before its first message.
fn failed(status: &Status) -> Response<Body> {
    told(status, error_line(status))
}

fn told(status: &Status, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body)));
    *response.status_mut() = http_status(status.code());
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// The HTTP status for a code, as in the documentation of `google.rpc.Code`.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// For the fuzz target: the first byte chooses a path, the second the pieces in which a stream's body comes, the rest is
/// JSON. It is cut the same in any pieces; what is understood is written and understood as the same again.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn check(data: &[u8]) {
    static POOL: std::sync::LazyLock<DescriptorPool> =
        std::sync::LazyLock::new(|| DescriptorPool::decode(pb::DESCRIPTORS).expect("a part of the program"));
    let [route, piece, text @ ..] = data else { return };
    let whole = objects::cut(text, text.len().max(1));
    assert_eq!(objects::cut(text, usize::from(*piece) + 1), whole);
    let (_, path) = routes::ROUTES[usize::from(*route) % routes::ROUTES.len()];
    let (service, method) = path[1..].split_once('/').expect("a path of gRPC");
    let service = POOL.get_service_by_name(service).expect("a service");
    let method = service.methods().find(|known| known.name() == method).expect("a method");
    for text in std::iter::once(Bytes::copy_from_slice(text)).chain(whole.0) {
        let Ok(message) = json::to_message(&method.input(), &text) else { continue };
        let written = json::of_message(&method.input(), message.into()).expect("what was read can be written");
        let again = json::to_message(&method.input(), &written).expect("what was written can be read");
        let again = json::of_message(&method.input(), again.into()).expect("and written");
        assert_eq!(String::from_utf8(again), String::from_utf8(written));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_somewhere() {
        let gateway = Gateway::new(1000).unwrap();
        assert_eq!(gateway.routes.len(), routes::ROUTES.len());
        let watch = &gateway.routes["/v3/watch"];
        assert!(watch.takes_stream && watch.gives_stream);
        // All methods but these can be reached.
        let apart = ["RangeStream", "Check", "Watch"];
        for (place, (service, method, _)) in metrics::METHODS.iter().enumerate() {
            let reached = gateway.routes.values().any(|route| route.method == place);
            assert!(reached || apart.contains(method), "{service}/{method}");
        }
    }

    #[test]
    fn messages_are_read_wherever_pieces_are_cut() {
        let sent = [prefixed(b"one"), prefixed(b""), prefixed(b"three")].concat();
        for size in 1..sent.len() {
            let pieces: Vec<_> =
                sent.chunks(size).map(|piece| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(piece)))).collect();
            let body = Body::new(StreamBody::new(stream::iter(pieces)));
            let read = futures_executor(async {
                let mut messages = Messages::new(Response::new(body)).unwrap();
                let mut read = Vec::new();
                while let Some(message) = messages.next().await.unwrap() {
                    read.push(message);
                }
                read
            });
            assert_eq!(read, ["one", "", "three"]);
        }
    }

    fn futures_executor<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }
}
