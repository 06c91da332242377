//! Whether the log-structured files of a RocksDB end torn, or damaged.
//!
//! RocksDB's write-ahead logs and manifests are blocks of 32 KiB filled with records, each behind a header of
//! `crc32c of type and payload, masked (4) | length of the payload (2) | type (1)`, little endian. A record in the last
//! block whose length leads beyond the end of the file is taken for one that a crash has cut off: RocksDB drops it, and
//! all that follows it. A damaged length looks the same, and would drop what was synced. The two are told apart here: of
//! a record that was cut off, no part has the checksum of the whole.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

const BLOCK: u64 = 32 << 10;
const HEADER: usize = 7;
/// Records of a reused file carry the file's number behind the type, covered by the checksum.
const RECYCLED: std::ops::RangeInclusive<u8> = 5..=8;

/// What the records of a manifest are: whole, or one of several parts.
const PLAIN: std::ops::RangeInclusive<u8> = 0..=4;

/// Looks at the end of every write-ahead log, and at every manifest, in the directory of a RocksDB that is not open.
///
/// # Errors
/// A text that names the file whose last records RocksDB would wrongly drop, whose types are damaged, or that cannot be read.
pub fn check_tails(dir: &Path) -> Result<(), String> {
    let files = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files.map_err(|error| format!("{}: {error}", dir.display()))?,
    };
    for file in files {
        let path = file.map_err(|error| format!("{}: {error}", dir.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.ends_with(".log") && !name.starts_with("MANIFEST-") {
            continue;
        }
        if name.starts_with("MANIFEST-")
            && let Some(at) = strange_record(&path).map_err(|error| format!("{}: {error}", path.display()))?
        {
            return Err(format!("{} is corrupted: the record at byte {at} has a damaged type", path.display()));
        }
        let block = last_block(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if let Some(offset) = damaged_tail(&block) {
            let length = path.metadata().map_or(0, |meta| meta.len());
            let at = length / BLOCK * BLOCK + offset as u64;
            return Err(format!("{} is corrupted: the record at byte {at} has a damaged length", path.display()));
        }
    }
    Ok(())
}

/// Where a manifest has a record of another type. With that of a reused file, which no manifest is, RocksDB reads it for ever.
fn strange_record(path: &Path) -> io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    let (mut block, mut start) = (Vec::new(), 0);
    loop {
        block.clear();
        if file.by_ref().take(BLOCK).read_to_end(&mut block)? == 0 {
            return Ok(None);
        }
        let mut at = 0;
        while let Some(&[_, _, _, _, l0, l1, kind]) = block.get(at..).and_then(|rest| rest.first_chunk::<HEADER>()) {
            if !PLAIN.contains(&kind) {
                return Ok(Some(start + at as u64));
            }
            at += HEADER + usize::from(u16::from_le_bytes([l0, l1]));
        }
        start += block.len() as u64;
    }
}

fn last_block(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length / BLOCK * BLOCK))?;
    let mut block = Vec::new();
    file.take(BLOCK).read_to_end(&mut block)?;
    Ok(block)
}

/// Offset in the block of a record whose length is damaged.
fn damaged_tail(block: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let (header, rest) = block.get(at..)?.split_first_chunk::<HEADER>()?;
        let [c0, c1, c2, c3, l0, l1, kind] = *header;
        let stored = unmask(u32::from_le_bytes([c0, c1, c2, c3]));
        let length = usize::from(u16::from_le_bytes([l0, l1])) + if RECYCLED.contains(&kind) { 4 } else { 0 };
        if kind == 0 && length == 0 {
            // Space that was set aside and not used.
            return None;
        }
        if length <= rest.len() {
            at += HEADER + length;
            continue;
        }
        let mut crc = crc32c::crc32c(&[kind]);
        let whole = rest.iter().any(|&byte| {
            let found = crc == stored;
            crc = crc32c::crc32c_append(crc, &[byte]);
            found
        });
        return (whole || crc == stored).then_some(at);
    }
}

/// Stored checksums are masked, so that the checksum of data that holds checksums stays a good one.
fn unmask(masked: u32) -> u32 {
    masked.wrapping_sub(0xa282_ead8).rotate_left(15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let masked = crc32c::crc32c(&[&[1], payload].concat()).rotate_right(15).wrapping_add(0xa282_ead8);
        let mut out = masked.to_le_bytes().to_vec();
        out.extend_from_slice(&(payload.len() as u16).to_le_bytes());
        out.push(1);
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn a_manifest_with_a_record_of_a_reused_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("MANIFEST-000005");
        let mut whole: Vec<u8> = (0..2000).flat_map(|_| record(b"twenty bytes of edits")).collect();
        // Blocks of 32 KiB would not divide these: one is enough for them all.
        whole.truncate(28 * 1000);
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(check_tails(dir.path()), Ok(()));
        whole[28 * 700 + 6] ^= 1 << 2;
        std::fs::write(&path, &whole).unwrap();
        let refused = check_tails(dir.path()).unwrap_err();
        assert!(refused.contains("MANIFEST-000005") && refused.contains("byte 19600 has a damaged type"), "{refused}");
        std::fs::rename(&path, dir.path().join("000005.log")).unwrap();
        assert_eq!(check_tails(dir.path()), Ok(()), "a log may be a reused file");
    }

    #[test]
    fn masks_come_off() {
        assert_eq!(unmask(0x1234_5678_u32.rotate_right(15).wrapping_add(0xa282_ead8)), 0x1234_5678);
    }

    #[test]
    fn torn_ends_pass_and_damaged_lengths_do_not() {
        let whole = [record(b"first record"), record(b""), record(b"the last of them")].concat();
        assert_eq!(damaged_tail(&whole), None);
        assert_eq!(damaged_tail(&[&whole[..], &[0; 100]].concat()), None);
        for length in 0..whole.len() {
            assert_eq!(damaged_tail(&whole[..length]), None, "cut to {length}");
        }
        for (at, offset) in [(4, 0), (5, 0), (HEADER + 12 + 5, HEADER + 12), (2 * HEADER + 12 + 5, 2 * HEADER + 12)] {
            let mut damaged = whole.clone();
            damaged[at] |= 0xc0;
            assert_eq!(damaged_tail(&damaged), Some(offset), "length at {at}");
        }
    }

    #[test]
    fn the_file_is_named_and_a_missing_directory_is_none_of_its_business() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_tails(&dir.path().join("absent")), Ok(()));
        let mut bytes = vec![7; BLOCK as usize];
        bytes.extend(record(b"acknowledged"));
        bytes[BLOCK as usize + 5] = 1;
        let file = dir.path().join("000012.log");
        std::fs::write(&file, &bytes).unwrap();
        let error = check_tails(dir.path()).unwrap_err();
        assert!(error.starts_with(&file.display().to_string()) && error.contains("byte 32768"), "{error}");
    }
}
