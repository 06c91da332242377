//! How one who is about to join learns which cluster it joins.

use std::{io, time::Duration};

use tokio::time::timeout;

use super::{
    Dial, Purpose, broken,
    frame::Frame,
    hello::{self, Hello},
};
use crate::{
    Member,
    codec::{Body, put_len, put_str, put_strings, put_u64},
};

/// How long one member may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) const MEMBERS: u8 = 1;

/// A cluster as one of its members describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The cluster's id.
    pub cluster: u64,
    /// All members, started or not.
    pub members: Vec<Member>,
}

/// Asks a member by its peer URL which cluster it belongs to and who the members are.
///
/// # Errors
/// Where it cannot be reached, or is no member of ours.
pub async fn ask(dial: &dyn Dial, url: &str) -> io::Result<Found> {
    let asked = async {
        let hello = Hello { cluster: 0, from: 0, to: 0, purpose: Purpose::Ask };
        let mut frames = hello::call(dial.dial(url).await?, hello).await?;
        match frames.next().await? {
            Some((MEMBERS, body)) => decode(body).map_err(broken),
            Some((kind, _)) => Err(broken(format!("an answer of kind {kind} to who the members are"))),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    timeout(PATIENCE, asked).await?
}

/// The answer to [`ask`].
pub(super) fn answer(found: &Found) -> Frame {
    let mut out = Vec::new();
    put_u64(&mut out, found.cluster);
    put_len(&mut out, found.members.len());
    for member in &found.members {
        put_u64(&mut out, member.id);
        put_str(&mut out, &member.name);
        put_strings(&mut out, &member.peer_urls);
        put_strings(&mut out, &member.client_urls);
        out.push(u8::from(member.is_learner));
    }
    Frame::with(MEMBERS, &out)
}

fn decode(body: bytes::Bytes) -> Result<Found, String> {
    let mut body = Body::of(body);
    let cluster = body.u64()?;
    let mut members = Vec::new();
    for _ in 0..body.len()? {
        let (id, name, peer_urls) = (body.u64()?, body.string()?, body.strings()?);
        let (client_urls, is_learner) = (body.strings()?, body.u8()? == 1);
        members.push(Member { id, name, peer_urls, client_urls, is_learner });
    }
    Ok(Found { cluster, members })
}
