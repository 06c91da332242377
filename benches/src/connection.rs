//! One HTTP/2 connection to a store, and gRPC calls on it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::error::Error;
use crate::frame::{Assembly, Cutter, Keep};
use crate::transport::{End, Fields, Handle, Transport};

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
    transport: Transport,
    /// The headers of each call, made once.
    heads: [Fields; Method::ALL.len()],
}

impl Connection {
    /// Connects to `http://HOST:PORT`; the connection is driven by the runtime that this is called on.
    ///
    /// # Errors
    /// If the URL is of another form, or nobody listens there.
    pub async fn open(url: &str) -> Result<Connection, Error> {
        let address = url.strip_prefix("http://").ok_or_else(|| Error::Url(url.to_owned()))?.trim_end_matches('/');
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let heads = Method::ALL.map(|method| {
            let fields = [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", method.path()),
                (":authority", address),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            ];
            fields.iter().map(|(name, value)| (text(name), text(value))).collect()
        });
        let connecting = async {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            Ok(socket)
        };
        let socket = connecting.await.map_err(|source| Error::Connect { address: address.to_owned(), source })?;
        Ok(Connection { transport: Transport::start(socket), heads })
    }

    /// The same connection, for calls that the server is to give up after `limit`.
    pub fn with_timeout(&self, limit: Duration) -> Connection {
        // gRPC allows eight digits.
        let value = Bytes::from(format!("{}m", limit.as_millis().clamp(1, 99_999_999)));
        let timeout = (Bytes::from_static(b"grpc-timeout"), value);
        let heads = self.heads.clone().map(|head| head.iter().cloned().chain([timeout.clone()]).collect());
        Connection { transport: self.transport.clone(), heads }
    }

    async fn begin(&self, method: Method, mut framed: Bytes, finished: bool) -> Result<Handle, Error> {
        let fields = &self.heads[method as usize];
        poll_fn(|task| self.transport.poll_open(task, fields, &mut framed, finished)).await
    }

    /// A call of one request, which is framed already, and one answer.
    ///
    /// # Errors
    /// [`Error::Status`] if the server refuses, [`Error::Reset`] if it breaks off, [`Error::Http`] if the connection breaks.
    pub async fn unary(&mut self, method: Method, framed: Bytes, keep: Keep) -> Result<Bytes, Error> {
        let stream = self.begin(method, framed, true).await?;
        let mut message = Assembly::new(keep);
        loop {
            match poll_fn(|task| stream.poll_piece(task)).await? {
                Ok(part) => message.push(part),
                Err(end) => {
                    check(method, end)?;
                    return Ok(message.finish());
                }
            }
        }
    }

    /// A call of many requests and many answers.
    ///
    /// # Errors
    /// [`Error::Http`] if the connection breaks.
    pub async fn stream(&mut self, method: Method, first: Bytes) -> Result<(Sending, Receiving), Error> {
        let stream = Arc::new(self.begin(method, first, false).await?);
        let receiving = Receiving { method, stream: stream.clone(), cutter: Cutter::default() };
        Ok((Sending { stream }, receiving))
    }
}

/// Fails unless all went well.
fn check(method: Method, end: End) -> Result<(), Error> {
    match end {
        End::Status(0, _) => Ok(()),
        End::Status(code, message) => Err(Error::Status { method: method.path(), code, message }),
        End::Reset(reason) => Err(Error::Reset { method: method.path(), reason }),
    }
}

/// The client's side of a stream, which is reset when neither side of it is left.
pub struct Sending {
    stream: Arc<Handle>,
}

impl Sending {
    /// Sends one message, which is framed already. What the server's window does not take yet waits in memory.
    ///
    /// # Errors
    /// If the connection is over.
    pub fn send(&mut self, framed: Bytes) -> Result<(), Error> {
        self.stream.send(framed)
    }

    /// Tells the server that there is no more.
    pub fn finish(&mut self) {
        self.stream.finish();
    }
}

/// The server's side of a stream.
pub struct Receiving {
    method: Method,
    stream: Arc<Handle>,
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
            match poll_fn(|task| self.stream.poll_piece(task)).await? {
                Ok(part) => self.cutter.push(part),
                Err(end) => return check(self.method, end).map(|()| None),
            }
        }
    }
}
