//! Nobody is told of an older state than anybody was told of before he asked.

/// An acknowledged answer that names a revision. Times are of a clock that all clients share.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub start: u64,
    pub end: u64,
    pub revision: i64,
    /// Whether it made the revision, so that nobody else's answer may name it before.
    pub wrote: bool,
}

/// The first answer that is older than one that had come before it was asked for.
pub fn check(answers: &[Answer]) -> Option<String> {
    let mut by_start: Vec<&Answer> = answers.iter().collect();
    by_start.sort_unstable_by_key(|answer| answer.start);
    let mut by_end: Vec<&Answer> = answers.iter().collect();
    by_end.sort_unstable_by_key(|answer| answer.end);
    let mut ended = by_end.into_iter().peekable();
    let mut newest = 0;
    by_start.into_iter().find_map(|answer| {
        while let Some(before) = ended.next_if(|before| before.end < answer.start) {
            newest = newest.max(before.revision);
        }
        let is_older = answer.revision < newest + i64::from(answer.wrote);
        is_older.then(|| format!("{answer:?} came after revision {newest} had been told"))
    })
}
