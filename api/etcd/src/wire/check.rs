//! What must hold for the body of any call.

use bytes::Bytes;
use kelson_wire::http2::Decoder;
use kelson_wire::pb::etcdserverpb::RangeResponse;
use prost::Message;
use tonic::Status;

use super::head::{Head, Hot};
use super::message::Gather;
use super::reply::{self, Reply};
use super::request::Fields;
use crate::call::PREFIX;
use crate::deadline;

/// Most bytes of a message here.
const MOST: usize = 1 << 10;

/// Of a body, the first byte says in what pieces it comes. It is read the same in any, and as one reads it who has all of
/// it before him; no more is held than has come; and an answer made of it is sent as it would be by others. The rest is a
/// time too, or none.
pub(crate) fn check(data: &[u8]) {
    let Some((&piece, body)) = data.split_first() else { return };
    // Whatever is said ends after some time, or is refused.
    let _ = deadline::parse(&body[..body.len().min(12)]).map(deadline::after);
    // As a block of headers it is read or refused, and nothing it may be is kept beyond the bounds.
    let mut fields = Fields::default();
    if Decoder::default().decode(body, |name, value| fields.push(name, value)).is_ok()
        && let Ok(target) = fields.target()
    {
        let _ = (Hot::of(&target), Head::read(&fields, None), fields.parts(&target));
    }
    let whole = gather(body, body.len().max(1));
    let pieces = gather(body, usize::from(piece) + 1);
    assert_eq!(told(&pieces), told(&whole));
    assert_eq!(whole.as_ref().ok(), first(body).as_ref());
    if let Some(answer) = whole.ok().and_then(|message| RangeResponse::decode(message).ok()) {
        let sent = match reply::range(answer.clone()) {
            Reply::Whole(bytes) => bytes,
            Reply::Pieces(pieces) => pieces.concat().into(),
            Reply::Body(_) => panic!("made at once"),
        };
        assert_eq!(first(&sent), Some(answer.encode_to_vec().into()));
    }
}

fn gather(body: &[u8], size: usize) -> Result<Bytes, Status> {
    let mut gather = Gather::default();
    let mut came = 0;
    for piece in body.chunks(size) {
        gather.push(Bytes::copy_from_slice(piece), MOST)?;
        came += piece.len();
        assert!(gather.held() <= came);
    }
    let (messages, bytes) = gather.counted();
    let message = gather.end()?;
    assert_eq!(messages * PREFIX as u64 + bytes, body.len() as u64);
    Ok(message)
}

fn told(read: &Result<Bytes, Status>) -> Result<&Bytes, (tonic::Code, &str)> {
    read.as_ref().map_err(|status| (status.code(), status.message()))
}

/// The first message of a body in which nothing is wrong.
fn first(body: &[u8]) -> Option<Bytes> {
    let (mut first, mut rest) = (None, body);
    while !rest.is_empty() {
        let (prefix, behind) = rest.split_first_chunk::<PREFIX>()?;
        let [0, length @ ..] = prefix else { return None };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MOST {
            return None;
        }
        let (message, behind) = behind.split_at_checked(length)?;
        first.get_or_insert_with(|| Bytes::copy_from_slice(message));
        rest = behind;
    }
    first
}
