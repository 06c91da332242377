//! A hash of what clients can see, to compare members and replays.

use crate::lease::LeaseTime;
use crate::snapshot::{FETCH_CHUNK, Records, Shared};
use crate::tree::Span;
use crate::{Error, Revision};

fn mix(hash: u64, with: u64) -> u64 {
    // The finaliser of MurmurHash3: every bit of the input moves every bit of the result.
    let mut hash = (hash.rotate_left(5) ^ with).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

pub(crate) fn state(shared: &Shared) -> Result<u64, Error> {
    let snapshot = shared.snapshot.load_full();
    let mut hash = mix(mix(0, snapshot.revision as u64), snapshot.compacted as u64);
    let mut kept: Vec<Revision> = Vec::new();
    snapshot.tree.visit(Span::Range(b"", None), &mut |_, entry| {
        kept.extend(entry.kept(snapshot.compacted).map(|version| version.at));
        true
    });
    kept.sort_unstable();
    for chunk in kept.chunks(FETCH_CHUNK) {
        for (at, record) in chunk.iter().zip(shared.records(chunk)?) {
            let record = record.ok_or_else(|| Error::Storage(format!("the record of {at:?} is missing")))?;
            hash = mix(mix(hash, at.main as u64), u64::from(at.sub));
            hash = mix(hash, u64::from(crc32fast::hash(&record)) << 32 | record.len() as u64);
        }
    }
    for LeaseTime { id, ttl, remaining } in shared.leases.each() {
        hash = mix(mix(mix(hash, id as u64), ttl as u64), remaining as u64);
        for key in shared.leases.get(id).map(|lease| lease.keys).unwrap_or_default() {
            hash = mix(hash, u64::from(crc32fast::hash(&key)));
        }
    }
    for alarm in &*snapshot.alarms {
        hash = mix(mix(hash, alarm.kind.number().into()), alarm.member);
    }
    Ok(hash)
}
