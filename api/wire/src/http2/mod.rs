//! HTTP/2 as far as both of its ends need it (RFC 9113, RFC 7541): frames, and headers packed and unpacked. Connections
//! and streams are theirs who use it.

pub mod frame;
pub mod hpack;
mod huffman;
mod table;

pub use frame::{Head, Reason};
pub use hpack::{Decoder, Malformed};

/// What a client's side of a connection begins with. No request of HTTP/1 does.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that either side may send on a stream, and on the connection, before it is told more, where nothing else is said.
pub const DEFAULT_WINDOW: u32 = 65_535;
/// The largest payload of a frame where nothing else is said; no end may want less.
pub const DEFAULT_FRAME: usize = 16 << 10;
/// The largest window that there is.
pub const MAX_WINDOW: u32 = (1 << 31) - 1;
