//! Nobody is told of an older state than anybody was told of before he asked.

use crate::client::{Answer, Told};

pub fn check(told: &Told, found: &mut Vec<String>) {
    let mut by_start: Vec<&Answer> = told.answers.iter().collect();
    by_start.sort_unstable_by_key(|answer| answer.start);
    let mut by_end: Vec<&Answer> = told.answers.iter().collect();
    by_end.sort_unstable_by_key(|answer| answer.end);
    let mut ended = by_end.into_iter().peekable();
    let mut newest = 0;
    for answer in by_start {
        while let Some(before) = ended.next_if(|before| before.end < answer.start) {
            newest = newest.max(before.revision);
        }
        if answer.revision < newest + i64::from(answer.wrote) {
            found.push(format!("{answer:?} came after revision {newest} had been told"));
            return;
        }
    }
}
