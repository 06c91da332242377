//! A compacted revision is an error, and no other is.

use crate::client::Told;

pub fn check(told: &Told, found: &mut Vec<String>) {
    for old in &told.old {
        if old.refused != (old.revision < old.compacted) {
            found.push(format!("a read of an old revision: {old:?}"));
            return;
        }
        if old.compacted > told.compacted.max(1) {
            found.push(format!("{old:?}, but nobody has asked for more than {}", told.compacted));
            return;
        }
    }
}
