//! A whole state, from a leader whose log does not reach back far enough to a member that is too far behind.
//!
//! When that member answers the state is read, from a pinned backend while writes go on, sent in pieces at a bounded rate, and
//! put in a place of its own. When it is whole the receiving node stops, and starts again from it: see [`super::staging`]. The
//! receiver says which pieces it has stored, and the sender keeps the others, so that a new stream goes on where one broke; a
//! sender that did not hear that its state was taken hears so from the member that has started from it.
//!
//! Sent are a beginning, then pieces, then an end with their checksum. Answered are how many pieces are here, at the beginning
//! and with each piece, and that it is taken once this member has what is in it. One that has kept it and is about to start
//! from it closes the stream instead.

mod piece;
mod receiver;
mod sender;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub(crate) use receiver::{Receiving, receive};
pub(crate) use sender::{open, send};

/// How long a receiver may take to store a piece, or a sender until the next one; and how long both keep what they have for
/// another stream after one broke.
const PATIENCE: Duration = Duration::from_secs(30);

const BEGIN: u8 = 1;
const PIECE: u8 = 2;
const END: u8 = 3;
const TAKEN: u8 = 4;
const REFUSED: u8 = 5;
const READY: u8 = 6;
const STORED: u8 = 7;
