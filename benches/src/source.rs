//! What clients ask for.

mod get;
mod list;
mod mixed;
mod put;
mod txn;

pub use get::Get;
pub use list::{List, Pages};
pub use mixed::Mixed;
pub use put::{Fill, Put};
pub use txn::Guarded;

use bytes::Bytes;
use prost::Message;

use crate::error::Error;

/// Decodes an answer.
///
/// # Errors
/// If it is no such message.
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Error> {
    M::decode(message).map_err(|error| Error::Answer(format!("an answer that cannot be read: {error}")))
}
