//! One HTTP/2 connection to a store, and gRPC calls on it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request};
use tokio::net::TcpStream;

use crate::error::Error;
use crate::frame::{Assembly, Cutter, Keep};

/// Bytes that the server may send on a stream, and on a connection, before it is told to go on. Large, so that a list
/// of a hundred megabytes is measured and not the round trips of its flow control.
const STREAM_WINDOW: u32 = 64 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Largest frame that the server may send.
const FRAME: u32 = 1 << 20;
/// Streams that may be opened before the server has told its limit.
const STREAMS: usize = 100_000;

/// The calls that are driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
    Watch,
    LeaseGrant,
    LeaseRevoke,
    LeaseKeepAlive,
    Status,
}

impl Method {
    /// Every one, in the order of declaration.
    const ALL: [Method; 10] = [
        Method::Range,
        Method::Put,
        Method::DeleteRange,
        Method::Txn,
        Method::Compact,
        Method::Watch,
        Method::LeaseGrant,
        Method::LeaseRevoke,
        Method::LeaseKeepAlive,
        Method::Status,
    ];

    /// The path of the call.
    pub fn path(self) -> &'static str {
        match self {
            Method::Range => "/etcdserverpb.KV/Range",
            Method::Put => "/etcdserverpb.KV/Put",
            Method::DeleteRange => "/etcdserverpb.KV/DeleteRange",
            Method::Txn => "/etcdserverpb.KV/Txn",
            Method::Compact => "/etcdserverpb.KV/Compact",
            Method::Watch => "/etcdserverpb.Watch/Watch",
            Method::LeaseGrant => "/etcdserverpb.Lease/LeaseGrant",
            Method::LeaseRevoke => "/etcdserverpb.Lease/LeaseRevoke",
            Method::LeaseKeepAlive => "/etcdserverpb.Lease/LeaseKeepAlive",
            Method::Status => "/etcdserverpb.Maintenance/Status",
        }
    }
}

/// A connection. Clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    /// The head of each call, made once.
    heads: Arc<[Request<()>]>,
}

impl Connection {
    /// Connects to `http://HOST:PORT`; the connection is driven by the runtime that this is called on.
    ///
    /// # Errors
    /// If the URL is of another form, nobody listens there, or it is no HTTP/2 server.
    pub async fn open(url: &str) -> Result<Connection, Error> {
        let wrong = || Error::Url(url.to_owned());
        let address = url.strip_prefix("http://").ok_or_else(wrong)?.trim_end_matches('/');
        let heads: Result<Vec<_>, _> = Method::ALL
            .iter()
            .map(|method| {
                Request::post(format!("http://{address}{}", method.path()))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(())
            })
            .collect();
        let heads = heads.map_err(|_| wrong())?.into();
        let connecting = async {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            Ok(socket)
        };
        let socket = connecting.await.map_err(|source| Error::Connect { address: address.to_owned(), source })?;
        let (sender, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .initial_max_send_streams(STREAMS)
            .max_send_buffer_size(usize::try_from(STREAM_WINDOW).unwrap_or(usize::MAX))
            // Thousands of small answers in flight are what is measured here, not an attack.
            .data_frame_budget(usize::try_from(CONNECTION_WINDOW).unwrap_or(usize::MAX))
            .enable_push(false)
            .handshake(socket)
            .await?;
        // Its end, whatever the reason, reaches every call on it as that call's error.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Connection { sender, heads })
    }

    /// The same connection, for calls that the server is to give up after `limit`.
    ///
    /// # Errors
    /// None: a limit of any length can be told.
    pub fn with_timeout(&self, limit: Duration) -> Result<Connection, Error> {
        // gRPC allows eight digits.
        let text = format!("{}m", limit.as_millis().clamp(1, 99_999_999));
        let value = HeaderValue::try_from(text).map_err(|error| Error::Answer(error.to_string()))?;
        let mut heads = self.heads.to_vec();
        for head in &mut heads {
            head.headers_mut().insert("grpc-timeout", value.clone());
        }
        Ok(Connection { sender: self.sender.clone(), heads: heads.into() })
    }

    fn head(&self, method: Method) -> Request<()> {
        self.heads[method as usize].clone()
    }

    /// A call of one request, which is framed already, and one answer.
    ///
    /// # Errors
    /// [`Error::Status`] if the server refuses, [`Error::Http`] if the connection breaks.
    pub async fn unary(&mut self, method: Method, framed: Bytes, keep: Keep) -> Result<Bytes, Error> {
        poll_fn(|context| self.sender.poll_ready(context)).await?;
        let (response, mut stream) = self.sender.send_request(self.head(method), false)?;
        stream.send_data(framed, true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut message = Assembly::new(keep);
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            message.push(part);
        }
        let trailers = body.trailers().await?;
        check(method, trailers.as_ref().unwrap_or(&head.headers))?;
        Ok(message.finish())
    }

    /// A call of many requests and many answers.
    ///
    /// # Errors
    /// [`Error::Http`] if the connection breaks.
    pub async fn stream(&mut self, method: Method, first: Bytes) -> Result<(Sending, Receiving), Error> {
        poll_fn(|context| self.sender.poll_ready(context)).await?;
        let (response, mut stream) = self.sender.send_request(self.head(method), false)?;
        stream.send_data(first, false)?;
        Ok((Sending { stream }, Receiving { method, state: State::Head(response), cutter: Cutter::default() }))
    }
}

/// Fails unless the headers say that all went well.
fn check(method: Method, headers: &HeaderMap) -> Result<(), Error> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        code => Err(Error::Status {
            method: method.path(),
            code: code.and_then(|code| code.parse().ok()).unwrap_or(2),
            message: text("grpc-message").unwrap_or("no gRPC status in the answer").to_owned(),
        }),
    }
}

/// The client's side of a stream; the stream is half closed when it is dropped with [`Sending::finish`], reset otherwise.
pub struct Sending {
    stream: SendStream<Bytes>,
}

impl Sending {
    /// Sends one message, which is framed already. What the server's window does not take yet waits in memory.
    ///
    /// # Errors
    /// If the stream is over.
    pub fn send(&mut self, framed: Bytes) -> Result<(), Error> {
        Ok(self.stream.send_data(framed, false)?)
    }

    /// Tells the server that there is no more.
    ///
    /// # Errors
    /// If the stream is over.
    pub fn finish(&mut self) -> Result<(), Error> {
        Ok(self.stream.send_data(Bytes::new(), true)?)
    }
}

enum State {
    Head(h2::client::ResponseFuture),
    Body(RecvStream),
}

/// The server's side of a stream.
pub struct Receiving {
    method: Method,
    state: State,
    cutter: Cutter,
}

impl Receiving {
    /// The next message, if it is here already.
    pub fn here(&mut self) -> Option<Bytes> {
        self.cutter.next()
    }

    /// The next message; `None` when the server has ended the stream well.
    ///
    /// # Errors
    /// [`Error::Status`] if the server ended it otherwise, [`Error::Http`] if it broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(message) = self.cutter.next() {
                return Ok(Some(message));
            }
            match &mut self.state {
                State::Head(response) => {
                    let (head, body) = response.await?.into_parts();
                    if head.headers.contains_key("grpc-status") {
                        check(self.method, &head.headers)?;
                    }
                    self.state = State::Body(body);
                }
                State::Body(body) => match body.data().await {
                    Some(part) => {
                        let part = part?;
                        body.flow_control().release_capacity(part.len())?;
                        self.cutter.push(part);
                    }
                    None => {
                        if let Some(trailers) = body.trailers().await? {
                            check(self.method, &trailers)?;
                        }
                        return Ok(None);
                    }
                },
            }
        }
    }
}
