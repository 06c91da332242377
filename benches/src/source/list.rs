//! Reads of many keys.

use std::time::Instant;

use bytes::Bytes;
use kelson_wire::pb::etcdserverpb::{RangeRequest, RangeResponse};
use prost::Message;

use crate::connection::Method;
use crate::data::{key, range};
use crate::drive::{Call, Source};
use crate::error::Error;
use crate::frame::{Keep, frame};
use crate::source::decode;

/// More than the fields behind the keys of an answer take: `more` and `count`.
const TAIL: usize = 64;

/// Whether a range answer that ends with these bytes tells of `count` keys: its last field is the count.
fn ends_with_count(tail: &[u8], count: u64) -> bool {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let end = RangeResponse { count, ..RangeResponse::default() }.encode_to_vec();
    tail.ends_with(&end)
}

/// The whole of a folder in one answer.
#[derive(Clone)]
pub struct List {
    /// Where.
    pub folder: &'static str,
    /// Keys there.
    pub keys: u64,
}

impl Source for List {
    fn next(&mut self, _number: u64, _due: Instant) -> Call {
        let (key, range_end) = range(self.folder);
        let request = RangeRequest { key, range_end, ..RangeRequest::default() };
        Call { method: Method::Range, framed: frame(&request), keep: Keep::Tail(TAIL) }
    }

    fn answered(&mut self, message: Bytes) -> Result<(), Error> {
        match ends_with_count(&message, self.keys) {
            true => Ok(()),
            false => Err(Error::Answer(format!("a list of {} keys was answered otherwise", self.keys))),
        }
    }
}

/// A folder in pages, one request each, all at the revision of the first one; then again from the start.
#[derive(Clone)]
pub struct Pages {
    folder: &'static str,
    keys: u64,
    limit: u64,
    /// Number of the next page's first key.
    next: u64,
    /// Revision of the first page; 0 before it.
    revision: i64,
}

impl Pages {
    /// Of a folder with `keys` keys, numbered from 0, `limit` on a page (at least one).
    pub fn new(folder: &'static str, keys: u64, limit: u64) -> Pages {
        Pages { folder, keys, limit: limit.max(1), next: 0, revision: 0 }
    }
}

impl Source for Pages {
    fn next(&mut self, _number: u64, _due: Instant) -> Call {
        let (_, range_end) = range(self.folder);
        let request = RangeRequest {
            key: key(self.folder, self.next),
            range_end,
            limit: i64::try_from(self.limit).unwrap_or(i64::MAX),
            revision: self.revision,
            ..RangeRequest::default()
        };
        Call { method: Method::Range, framed: frame(&request), keep: Keep::Whole }
    }

    fn answered(&mut self, message: Bytes) -> Result<(), Error> {
        let answer: RangeResponse = decode(message)?;
        let left = self.keys - self.next;
        let expected = self.limit.min(left);
        if answer.kvs.len() as u64 != expected
            || answer.count.unsigned_abs() != left
            || answer.more != (left > expected)
        {
            return Err(Error::Answer(format!(
                "a page of {expected} of {left} keys was answered with {} of {}",
                answer.kvs.len(),
                answer.count
            )));
        }
        self.next += expected;
        if self.revision == 0 {
            self.revision = answer.header.map_or(0, |header| header.revision);
        }
        if self.next >= self.keys {
            (self.next, self.revision) = (0, 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kelson_wire::pb::etcdserverpb::ResponseHeader;
    use kelson_wire::pb::mvccpb::KeyValue;

    use super::*;

    fn answer(first: u64, last: u64, count: i64, more: bool) -> Bytes {
        let kvs = (first..last).map(|number| KeyValue { key: key("list", number), ..KeyValue::default() });
        let header = Some(ResponseHeader { revision: 9, ..ResponseHeader::default() });
        RangeResponse { header, kvs: kvs.collect(), more, count }.encode_to_vec().into()
    }

    #[test]
    fn a_whole_list_is_known_by_its_count() {
        let mut list = List { folder: "list", keys: 300 };
        assert!(list.answered(answer(0, 3, 300, false)).is_ok());
        for wrong in [answer(0, 3, 299, false), answer(0, 3, 301, false), answer(0, 0, 0, false), Bytes::new()] {
            assert!(list.answered(wrong).is_err());
        }
    }

    #[test]
    fn pages_follow_each_other_at_one_revision_and_begin_again() {
        let mut pages = Pages::new("list", 5, 2);
        for (next, last, more, revision) in [(0, 2, true, 0), (2, 4, true, 9), (4, 5, false, 9), (0, 2, true, 0)] {
            assert_eq!((pages.next, pages.revision), (next, revision));
            let count = i64::try_from(5 - next).unwrap();
            pages.answered(answer(next, last, count, more)).unwrap();
        }
        assert!(pages.answered(answer(2, 3, 3, true)).is_err(), "one key is missing");
    }
}
