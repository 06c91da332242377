//! Numbers and layouts of the format, for the writer and the reader alike.

/// Bytes of a page in files that are written here: what bbolt takes on nearly every machine.
pub const PAGE_SIZE: usize = 4096;
/// Longest key, in bytes (bbolt's own bound).
pub const MAX_KEY: usize = 32_768;
/// Longest value, in bytes (bbolt's own bound).
pub const MAX_VALUE: usize = (1 << 31) - 2;

pub(crate) const MAGIC: u32 = 0xED0C_DAED;
pub(crate) const VERSION: u32 = 2;

pub(crate) const BRANCH: u16 = 0x01;
pub(crate) const LEAF: u16 = 0x02;
pub(crate) const META: u16 = 0x04;
pub(crate) const FREELIST: u16 = 0x10;

/// A leaf element whose value is a bucket.
pub(crate) const BUCKET: u32 = 0x01;
/// In place of the freelist's page: there is none, whoever opens the file walks it.
pub(crate) const NO_FREELIST: u64 = u64::MAX;
/// A page's count that says "the first element is the real count" (freelists only).
pub(crate) const COUNT_OVERFLOW: u16 = u16::MAX;

/// id (8), flags (2), count (2), overflow (4).
pub(crate) const HEAD: usize = 16;
/// Leaf: flags (4), position (4), key length (4), value length (4). Branch: position (4), key length (4), page (8).
pub(crate) const ELEMENT: usize = 16;
/// Root page (8), sequence (8).
pub(crate) const BUCKET_HEAD: usize = 16;
/// magic, version, page size, flags (4 each), root (16), freelist, high water, transaction (8 each), checksum (8).
pub(crate) const META_BYTES: usize = 64;

/// The head of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub id: u64,
    pub flags: u16,
    pub count: u16,
    /// Further pages that belong to this one.
    pub overflow: u32,
}

impl Head {
    pub fn encode(&self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..10].copy_from_slice(&self.flags.to_le_bytes());
        out[10..12].copy_from_slice(&self.count.to_le_bytes());
        out[12..].copy_from_slice(&self.overflow.to_le_bytes());
        out
    }

    /// `None` where fewer bytes than a head are left.
    pub fn decode(bytes: &[u8]) -> Option<Head> {
        Some(Head {
            id: u64_at(bytes, 0)?,
            flags: u16::from_le_bytes(*bytes.get(8..)?.first_chunk()?),
            count: u16::from_le_bytes(*bytes.get(10..)?.first_chunk()?),
            overflow: u32_at(bytes, 12)?,
        })
    }
}

/// What pages 0 and 1 say about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub page_size: u32,
    /// Root page of the root bucket.
    pub root: u64,
    pub freelist: u64,
    /// No page of the file has this id or a higher one.
    pub high_water: u64,
    pub txid: u64,
}

impl Meta {
    pub fn encode(&self) -> [u8; META_BYTES] {
        let mut out = [0; META_BYTES];
        for (at, number) in [MAGIC, VERSION, self.page_size, 0].into_iter().enumerate() {
            out[at * 4..at * 4 + 4].copy_from_slice(&number.to_le_bytes());
        }
        for (at, number) in [self.root, 0, self.freelist, self.high_water, self.txid].into_iter().enumerate() {
            out[16 + at * 8..24 + at * 8].copy_from_slice(&number.to_le_bytes());
        }
        let sum = fnv(&out[..META_BYTES - 8]).to_le_bytes();
        out[META_BYTES - 8..].copy_from_slice(&sum);
        out
    }

    /// The error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Meta, &'static str> {
        let bytes: &[u8; META_BYTES] = bytes.first_chunk().ok_or("it is too short")?;
        let u32_of = |at| u32_at(bytes, at).unwrap_or_default();
        let u64_of = |at| u64_at(bytes, at).unwrap_or_default();
        if u32_of(0) != MAGIC {
            return Err("it does not begin as one");
        }
        if u32_of(4) != VERSION {
            return Err("its version of the format is unknown");
        }
        if u64_of(META_BYTES - 8) != fnv(&bytes[..META_BYTES - 8]) {
            return Err("its first pages do not match their checksums");
        }
        let page_size = u32_of(8);
        if !page_size.is_power_of_two() || !(512..=1 << 24).contains(&page_size) {
            return Err("its page size makes no sense");
        }
        Ok(Meta { page_size, root: u64_of(16), freelist: u64_of(32), high_water: u64_of(40), txid: u64_of(48) })
    }
}

/// 64-bit FNV-1a.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
