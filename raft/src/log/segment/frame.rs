//! Frames: what one write puts into a file of the log, and how one that a crash has torn is told from a damaged one.
//!
//! A disk writes sectors of 512 bytes whole or not at all, in any order. So every sector ends with a tag, a number that
//! follows from the frame's, and a sector that does not carry it has not arrived. A frame is
//! `magic (4) | crc of what follows up to the body (4) | crc of the body (4) | length of the body (4) | number (8) | body`,
//! little endian, zeros up to the end of its last sector, and the tag in the last four bytes of each. Numbers grow by one.

use aligned_vec::{AVec, ConstAlign};

use super::direct::ALIGNMENT;

pub(super) const SECTOR: usize = 512;
/// Bytes of a sector in front of its tag.
pub(super) const DATA: usize = SECTOR - 4;
const MAGIC: [u8; 4] = *b"klg1";
pub(super) const HEAD: usize = 24;
/// Tags go round after this many frames, none of them being 0: that is what was never written.
const TAGS: u64 = u32::MAX as u64;

fn tag(number: u64) -> u32 {
    (number % TAGS) as u32 + 1
}

/// Whether a tag is that of an earlier frame, or of none. Files that were in use before are full of them.
fn is_old(found: u32, number: u64) -> bool {
    let Some(found) = found.checked_sub(1) else { return true };
    let behind = (number % TAGS + TAGS - u64::from(found)) % TAGS;
    behind > 0 && behind < number.min(TAGS / 2)
}

/// Sectors of a frame with a body of `length` bytes.
fn sectors(length: usize) -> usize {
    (HEAD + length).div_ceil(DATA)
}

/// A frame being filled. The memory is used again for the next one.
#[derive(Debug)]
pub(super) struct Frame {
    raw: AVec<u8, ConstAlign<ALIGNMENT>>,
    tag: [u8; 4],
    number: u64,
    length: usize,
}

impl Default for Frame {
    fn default() -> Self {
        Frame { raw: AVec::new(ALIGNMENT), tag: [0; 4], number: 0, length: 0 }
    }
}

impl Frame {
    pub(super) fn begin(&mut self, number: u64) {
        self.raw.clear();
        self.tag = tag(number).to_le_bytes();
        self.number = number;
        self.length = 0;
        self.raw.extend_from_slice(&[0; HEAD]);
    }

    /// Appends to the body.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        self.raw.reserve(bytes.len() / DATA * SECTOR + SECTOR);
        loop {
            let room = DATA - self.raw.len() % SECTOR;
            let Some((fits, rest)) = bytes.split_at_checked(room) else { break };
            self.raw.extend_from_slice(fits);
            self.raw.extend_from_slice(&self.tag);
            bytes = rest;
        }
        self.raw.extend_from_slice(bytes);
    }

    /// Where the next byte of the body will lie, counted from the frame's start in bytes that are not tags.
    pub(super) fn position(&self) -> usize {
        HEAD + self.length
    }

    /// Bytes of the file that the frame will take if `more` follow.
    pub(super) fn size_with(&self, more: usize) -> usize {
        sectors(self.length + more) * SECTOR
    }

    /// The bytes to write. `None` when the body is too long for its length to be written down.
    pub(super) fn finish(&mut self) -> Option<&[u8]> {
        let length = u32::try_from(self.length).ok()?;
        if !self.raw.len().is_multiple_of(SECTOR) {
            let padding = DATA - self.raw.len() % SECTOR;
            self.raw.resize(self.raw.len() + padding, 0);
            self.raw.extend_from_slice(&self.tag);
        }
        let body = body_crc(&self.raw);
        let head = &mut self.raw[..HEAD];
        head[..4].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&body.to_le_bytes());
        head[12..16].copy_from_slice(&length.to_le_bytes());
        head[16..].copy_from_slice(&self.number.to_le_bytes());
        let crc = crc32c::crc32c(&head[8..]);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        Some(&self.raw)
    }
}

/// Checksum of everything behind the head that is not a tag, zeros at the end included.
fn body_crc(raw: &[u8]) -> u32 {
    let mut from = HEAD;
    raw.chunks_exact(SECTOR).fold(0, |crc, sector| {
        let data = &sector[std::mem::take(&mut from)..DATA];
        crc32c::crc32c_append(crc, data)
    })
}

/// Bytes `from..from + length` of a file whose sectors are `raw`, tags left out. `None` where the file ends before.
pub(super) fn data(raw: &[u8], from: usize, length: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(length);
    let mut at = from;
    while out.len() < length {
        let start = at / DATA * SECTOR + at % DATA;
        let take = (DATA - at % DATA).min(length - out.len());
        out.extend_from_slice(raw.get(start..start + take)?);
        at += take;
    }
    Some(out)
}

/// Where byte `at` of a file lies in it, when tags are not counted in `at`.
pub(super) fn offset(at: u64) -> u64 {
    at / DATA as u64 * SECTOR as u64 + at % DATA as u64
}

/// What begins at a place in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The frame that was expected there: its body and the bytes that it takes.
    Frame { body: Vec<u8>, size: usize },
    /// The end: the frame never arrived as a whole. `torn` bytes hold what did.
    End { torn: usize },
}

struct Head {
    crc: u32,
    length: usize,
    number: u64,
}

fn head(raw: &[u8]) -> Option<Head> {
    let (head, _) = raw.split_first_chunk::<HEAD>()?;
    let (words, _) = head.as_chunks::<4>();
    let word = |at: usize| u32::from_le_bytes(words[at]);
    if words[0] != MAGIC || word(1) != crc32c::crc32c(&head[8..]) {
        return None;
    }
    let number = u64::from(word(4)) | u64::from(word(5)) << 32;
    Some(Head { crc: word(2), length: word(3) as usize, number })
}

fn tag_of(sector: &[u8]) -> u32 {
    sector.last_chunk::<4>().map_or(0, |tag| u32::from_le_bytes(*tag))
}

/// The number of a frame that begins here, if one does.
pub(super) fn first_number(raw: &[u8]) -> Option<u64> {
    head(raw).map(|head| head.number)
}

/// Looks for the frame `number` at the start of `raw`, the rest of a file. Only that one may have been under way when a
/// crash came, so whatever else is not whole was acknowledged.
///
/// # Errors
/// What no crash leaves behind: a sector that arrived and is not what was written, a sign of a later frame.
pub(super) fn next(raw: &[u8], number: u64) -> Result<Found, String> {
    let own = tag(number);
    let arrived = |sector: &[u8]| tag_of(sector) == own;
    match head(raw) {
        Some(head) if head.number == number => {
            let size = sectors(head.length) * SECTOR;
            let there = raw.get(..size);
            if let Some(body) = there.filter(|there| body_crc(there) == head.crc) {
                let body = data(body, HEAD, head.length).ok_or("a frame ends early")?;
                return Ok(Found::Frame { body, size });
            }
            if there.is_some_and(|there| there.chunks_exact(SECTOR).all(arrived)) {
                return Err(format!("frame {number} is damaged"));
            }
        }
        Some(head) if head.number > number => return Err(format!("frame {} is where {number} belongs", head.number)),
        None if raw.len() >= SECTOR && arrived(&raw[..SECTOR]) => {
            return Err(format!("the head of frame {number} is damaged"));
        }
        _ => {}
    }
    let (mut torn, mut at) = (0, 0);
    for sector in raw.chunks(SECTOR) {
        at += sector.len();
        if sector.len() < SECTOR {
            // A file that grew is cut anywhere.
            torn = at;
        } else if arrived(sector) {
            torn = at;
        } else if !is_old(tag_of(sector), number) {
            return Err(format!("frame {number} is missing and later ones are there"));
        }
    }
    Ok(Found::End { torn })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(number: u64, body: &[u8]) -> Vec<u8> {
        let mut frame = Frame::default();
        frame.begin(number);
        // In pieces, to meet the ends of sectors in all ways.
        for piece in body.chunks(37) {
            frame.push(piece);
        }
        assert_eq!(frame.position(), HEAD + body.len());
        frame.finish().unwrap().to_vec()
    }

    fn body(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn a_frame_reads_back_whatever_its_length() {
        for length in [0, 1, DATA - HEAD - 1, DATA - HEAD, DATA - HEAD + 1, 2 * DATA - HEAD, 5000] {
            let raw = frame(9, &body(length));
            assert_eq!(raw.len(), sectors(length) * SECTOR);
            assert_eq!(next(&raw, 9), Ok(Found::Frame { body: body(length), size: raw.len() }), "{length}");
            assert_eq!(first_number(&raw), Some(9));
        }
    }

    #[test]
    fn tags_go_round_and_know_their_age() {
        for number in [1, 2, 1000, TAGS - 1, TAGS, TAGS + 1, u64::MAX] {
            assert!(tag(number) != 0 && is_old(0, number) && !is_old(tag(number), number));
            assert!(!is_old(tag(number + u64::from(number < u64::MAX)), number));
        }
        assert!(is_old(tag(TAGS - 1), TAGS + 5) && !is_old(tag(TAGS + 5), TAGS - 1));
        assert!(!is_old(77, 5), "there were no so early ones");
    }

    #[test]
    fn a_later_frame_behind_one_that_is_missing_is_damage() {
        let raw = [vec![0; SECTOR], frame(6, &body(700))].concat();
        assert!(next(&raw, 5).unwrap_err().contains("missing"));
        assert!(next(&frame(6, b"x"), 5).unwrap_err().contains("where 5 belongs"));
        let stale = [frame(3, &body(700)), frame(4, b"x")].concat();
        assert_eq!(next(&stale, 5), Ok(Found::End { torn: 0 }));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        /// Some sectors have arrived, the others hold zeros or an earlier frame.
        #[test]
        fn a_torn_frame_is_the_end(length in 0..4000_usize, there in prop::collection::vec(any::<bool>(), 9), stale in any::<bool>()) {
            let whole = frame(7, &body(length));
            let mut raw = if stale { frame(3, &vec![9; 4000]) } else { vec![0; 9 * SECTOR] };
            for (at, _) in there.iter().enumerate().filter(|(at, there)| **there && (at + 1) * SECTOR <= whole.len()) {
                raw[at * SECTOR..][..SECTOR].copy_from_slice(&whole[at * SECTOR..][..SECTOR]);
            }
            let last = (0..raw.len() / SECTOR).rev().find(|at| tag_of(&raw[at * SECTOR..][..SECTOR]) == tag(7));
            match next(&raw, 7) {
                // All of it, or all that was not there already.
                Ok(Found::Frame { body: found, .. }) => prop_assert_eq!(found, body(length)),
                Ok(Found::End { torn }) => prop_assert_eq!(torn, last.map_or(0, |at| (at + 1) * SECTOR)),
                Err(error) => prop_assert!(false, "{}", error),
            }
        }

        #[test]
        fn a_flipped_bit_loses_nothing(length in 0..2000_usize, at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let mut raw = frame(7, &body(length));
            let at = at.index(raw.len());
            raw[at] ^= 1_u8 << bit;
            let found = next(&raw, 7);
            if at % SECTOR >= DATA {
                prop_assert_eq!(found, Ok(Found::Frame { body: body(length), size: raw.len() }));
            } else {
                prop_assert!(found.is_err(), "{:?}", found);
            }
        }

        #[test]
        fn any_bytes_are_an_end_or_an_error(raw in prop::collection::vec(any::<u8>(), 0..2000)) {
            if let Ok(Found::Frame { .. }) = next(&raw, 1) {
                prop_assert!(false);
            }
        }
    }
}
