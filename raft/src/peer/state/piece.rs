//! A state in pieces.

use bytes::{Bytes, BytesMut};
use kelson_engine::{
    Backend,
    backend::{Batch, Space},
    plant::{Bug, planted},
};

use crate::codec::Body;

/// Bytes of a piece, unless a single value is larger. Few, so that neither end is busy for long with one.
pub(super) const PIECE_SIZE: usize = if cfg!(feature = "sim") { 1 << 10 } else { 64 << 10 };

/// Reads everything as it is at one moment; `send` says whether anybody still takes it.
pub(super) fn read(backend: &dyn Backend, send: &mut dyn FnMut(Bytes) -> bool) -> Result<(), kelson_engine::Error> {
    let gone = || kelson_engine::Error::Storage("nobody takes the state any more".to_owned());
    backend.pinned(&mut |view| {
        let mut piece = BytesMut::with_capacity(PIECE_SIZE);
        for space in Space::ALL {
            if space == Space::Leases && planted(Bug::StateWithoutLeases) {
                continue;
            }
            view.scan(space, &[], None, &mut |key, value| {
                piece.extend_from_slice(&[space_byte(space)]);
                for part in [key, value] {
                    piece.extend_from_slice(&(part.len() as u32).to_le_bytes());
                    piece.extend_from_slice(part);
                }
                if piece.len() >= PIECE_SIZE && !send(piece.split().freeze()) {
                    return Err(gone());
                }
                Ok(true)
            })?;
        }
        if piece.is_empty() || send(piece.freeze()) { Ok(()) } else { Err(gone()) }
    })
}

fn space_byte(space: Space) -> u8 {
    Space::ALL.iter().position(|other| *other == space).map_or(u8::MAX, |at| at as u8)
}

/// What is in a piece.
pub(super) fn batch(piece: Bytes) -> Result<Batch, String> {
    let mut batch = Batch::default();
    let mut body = Body::of(piece);
    while body.end().is_err() {
        let space = body.u8()?;
        let space = *Space::ALL.get(usize::from(space)).ok_or_else(|| format!("unknown keyspace {space}"))?;
        let length = body.len()?;
        let key = body.take(length)?;
        let length = body.len()?;
        batch.put(space, &key, body.take(length)?);
    }
    Ok(batch)
}
