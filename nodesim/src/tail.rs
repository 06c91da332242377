//! The part of a log that a request asks for.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use kelson_wire::kube::timestamp;

use crate::Millis;
use crate::logs::{LogNext, LogReader};

/// Most lines that `tailLines` holds back.
const MAX_TAIL: usize = 100_000;

/// The query of a log request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub since: Option<Millis>,
    pub tail: Option<usize>,
    pub limit: Option<usize>,
}

impl Options {
    /// Reads a query; unknown names are left alone.
    ///
    /// # Errors
    /// What is wrong with a value.
    pub fn parse(query: &str, now: Millis) -> Result<Options, String> {
        let mut options = Options::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
            let bad = || format!("invalid value {value:?} for {name}");
            let flag = || value.parse::<bool>().map_err(|_| bad());
            let number = || value.parse::<u64>().map_err(|_| bad());
            match name {
                "follow" => options.follow = flag()?,
                "previous" => options.previous = flag()?,
                "timestamps" => options.timestamps = flag()?,
                "sinceSeconds" => options.since = Some(now.saturating_sub(number()?.saturating_mul(1000))),
                "sinceTime" => {
                    let at = timestamp::parse(&value).ok_or_else(bad)?.duration_since(UNIX_EPOCH).map_err(|_| bad())?;
                    options.since = Some(u64::try_from(at.as_millis()).map_err(|_| bad())?);
                }
                "tailLines" => options.tail = Some(usize::try_from(number()?).map_err(|_| bad())?),
                "limitBytes" => options.limit = Some(usize::try_from(number()?).map_err(|_| bad())?),
                _ => {}
            }
        }
        Ok(options)
    }
}

/// A log reader that leaves out what was not asked for.
pub(crate) struct Tail {
    reader: LogReader,
    options: Options,
    /// The last lines so far, until all that is already there has been read.
    held: Option<VecDeque<(Millis, String)>>,
    released: VecDeque<(Millis, String)>,
    sent: usize,
}

impl Tail {
    pub fn new(reader: LogReader, options: Options) -> Tail {
        let held = options.tail.map(|_| VecDeque::new());
        Tail { reader, options, held, released: VecDeque::new(), sent: 0 }
    }

    pub fn end(&self) -> Option<Millis> {
        self.reader.end
    }

    pub fn set_end(&mut self, end: Option<Millis>) {
        self.reader.end = end;
    }

    /// Whether `limitBytes` have been sent.
    pub fn is_full(&self) -> bool {
        self.options.limit.is_some_and(|limit| self.sent >= limit)
    }

    /// The next line of what was asked for.
    pub fn next(&mut self, now: Millis) -> LogNext {
        if self.is_full() {
            return LogNext::End;
        }
        loop {
            if let Some((at, line)) = self.released.pop_front() {
                return LogNext::Line(at, line);
            }
            let next = self.reader.next(now);
            match (next, &mut self.held) {
                (LogNext::Line(at, _), _) if self.options.since.is_some_and(|since| at < since) => {}
                (LogNext::Line(at, line), Some(held)) => {
                    held.push_back((at, line));
                    if held.len() > self.options.tail.unwrap_or(0).min(MAX_TAIL) {
                        held.pop_front();
                    }
                }
                (next @ LogNext::Line(..), None) => return next,
                (next, _) => match self.held.take() {
                    Some(held) if !held.is_empty() => self.released = held,
                    _ => return next,
                },
            }
        }
    }

    /// Appends a line as it is sent, cut where the limit is reached.
    pub fn render(&mut self, at: Millis, line: &str, out: &mut String) {
        let start = out.len();
        if self.options.timestamps {
            let stamp = timestamp::format_micro(UNIX_EPOCH + Duration::from_millis(at));
            // Writing to a String cannot fail.
            let _ = write!(out, "{stamp} ");
        }
        out.push_str(line);
        out.push('\n');
        let left = self.options.limit.map_or(usize::MAX, |limit| limit - self.sent.min(limit));
        if out.len() - start > left {
            let cut = (start..=start + left).rev().find(|at| out.is_char_boundary(*at)).unwrap_or(start);
            out.truncate(cut);
            self.sent += left;
        } else {
            self.sent += out.len() - start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_and_bad_values_named() {
        let options = Options::parse("follow=true&tailLines=5&sinceSeconds=10&x=y", 60_000).unwrap();
        assert_eq!(options, Options { follow: true, tail: Some(5), since: Some(50_000), ..Options::default() });
        let since = Options::parse("sinceTime=1970-01-01T00%3A00%3A07Z", 0).unwrap().since;
        assert_eq!(since, Some(7_000));
        assert_eq!(Options::parse("tailLines=many", 0), Err("invalid value \"many\" for tailLines".into()));
        assert!(Options::parse("follow=perhaps", 0).is_err());
    }
}
