//! Checking objects: strict decoding, and the rules of each kind in Kubernetes' own words.
//!
//! A request body goes through [`parse_strict`], [`decode`] (which normalises it), [`crate::defaults::apply`] and then
//! [`create`] or [`update`]; the rules therefore see defaulted objects of the right types.

mod check;
mod container;
mod decode;
mod error;
mod format;
mod meta;
mod path;
mod pod;
mod read;
mod resources;
mod rules;
mod scheduling;
mod selector;
mod service;
mod small;
mod strict;
mod volume;
mod workload;

pub use decode::{DecodeError, cannot_be_handled, decode, strict_message, unknown_fields, zero_value};
pub use error::{Errors, FieldError, Reason, invalid_message, invalid_status};
pub use path::{Path, Segment};
pub use rules::{create, update};
pub use strict::{MAX_STRICT_ERRORS, parse_strict, parse_strict_yaml};

#[cfg(test)]
mod tests;
