//! Reads and writes together.

use std::time::Instant;

use bytes::Bytes;

use crate::drive::{Call, Source};
use crate::error::Error;
use crate::source::{Get, Put};

/// Of each ten requests three are puts and seven are linearizable gets, on the same keys.
#[derive(Clone)]
pub struct Mixed {
    put: Put,
    get: Get,
    reading: bool,
}

impl Mixed {
    /// In a folder that holds `keys` values of `length` bytes.
    pub fn new(folder: &'static str, keys: u64, length: usize) -> Mixed {
        let get = Get { folder, keys, length, serializable: false };
        Mixed { put: Put { folder, keys, length }, get, reading: false }
    }

    /// Whether the request with this number is a read.
    pub fn reads(number: u64) -> bool {
        number % 10 >= 3
    }
}

impl Source for Mixed {
    fn next(&mut self, number: u64, due: Instant) -> Call {
        self.reading = Mixed::reads(number);
        match self.reading {
            true => self.get.next(number, due),
            false => self.put.next(number, due),
        }
    }

    fn answered(&mut self, message: Bytes) -> Result<(), Error> {
        match self.reading {
            true => self.get.answered(message),
            false => self.put.answered(message),
        }
    }
}
