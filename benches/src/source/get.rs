//! Reads of one key.

use std::time::Instant;

use bytes::Bytes;
use kelson_wire::pb::etcdserverpb::RangeRequest;

use crate::connection::Method;
use crate::data::{key, scatter};
use crate::drive::{Call, Source};
use crate::error::Error;
use crate::frame::{Keep, frame};

/// Reads of random keys of a folder that holds every one of them.
#[derive(Clone)]
pub struct Get {
    /// Where.
    pub folder: &'static str,
    /// Distinct keys.
    pub keys: u64,
    /// Bytes of each value.
    pub length: usize,
    /// Whether an answer may be old.
    pub serializable: bool,
}

impl Source for Get {
    fn next(&mut self, number: u64, _due: Instant) -> Call {
        let key = key(self.folder, scatter(number) % self.keys.max(1));
        let request = RangeRequest { key, serializable: self.serializable, ..RangeRequest::default() };
        Call { method: Method::Range, framed: frame(&request), keep: Keep::Whole }
    }

    fn answered(&mut self, message: Bytes) -> Result<(), Error> {
        // Anything without the value is shorter than it; to decode each answer would cost more than to send it.
        match message.len() > self.length {
            true => Ok(()),
            false => Err(Error::Answer("a key that was written is not there".into())),
        }
    }
}
