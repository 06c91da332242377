//! Writes.

use std::time::Instant;

use bytes::Bytes;
use kelson_wire::pb::etcdserverpb::PutRequest;

use crate::connection::Method;
use crate::data::{key, scatter, stamped, value};
use crate::drive::{Call, Source};
use crate::error::Error;
use crate::frame::{Keep, frame};

fn put(folder: &str, number: u64, value: Bytes) -> Call {
    let request = PutRequest { key: key(folder, number), value, ..PutRequest::default() };
    Call { method: Method::Put, framed: frame(&request), keep: Keep::Whole }
}

fn acknowledged(message: &Bytes) -> Result<(), Error> {
    match message.is_empty() {
        true => Err(Error::Answer("a put was answered without a header".into())),
        false => Ok(()),
    }
}

/// Puts to random keys of a folder; each value tells watchers when it was due.
#[derive(Clone)]
pub struct Put {
    /// Where.
    pub folder: &'static str,
    /// Distinct keys.
    pub keys: u64,
    /// Bytes of a value, at least [`STAMP`](crate::data::STAMP).
    pub length: usize,
}

impl Source for Put {
    fn next(&mut self, number: u64, due: Instant) -> Call {
        put(self.folder, scatter(number) % self.keys.max(1), stamped(number, self.length, due))
    }

    fn answered(&mut self, message: Bytes) -> Result<(), Error> {
        acknowledged(&message)
    }
}

/// Puts request `n` to key `n` of a folder.
#[derive(Clone)]
pub struct Fill {
    /// Where.
    pub folder: &'static str,
    /// Bytes of a value.
    pub length: usize,
}

impl Source for Fill {
    fn next(&mut self, number: u64, _due: Instant) -> Call {
        put(self.folder, number, value(number, self.length))
    }

    fn answered(&mut self, message: Bytes) -> Result<(), Error> {
        acknowledged(&message)
    }
}
