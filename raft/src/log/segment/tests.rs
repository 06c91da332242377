//! The log on disk against a log in memory, and what of it survives a power cut.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::*;
use crate::log::{disk::Record, memory::Content};

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<usize>),
    Truncate(u64),
    Purge(u64),
    Note(u8),
    Compact,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(prop_oneof![0..600_usize, 4_000..30_000_usize], 1..4).prop_map(Step::Put),
        1 => (0..4_u64).prop_map(Step::Truncate),
        2 => (0..6_u64).prop_map(Step::Purge),
        1 => any::<u8>().prop_map(Step::Note),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

fn record(index: u64, seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + seed * 31 + index as usize) as u8).collect()
}

fn halves(mut record: Vec<u8>) -> Record {
    let payload = record.split_off(record.len() / 2);
    Record { head: record, payload: payload.into() }
}

/// A log in a directory, and what should be in it.
struct Pair {
    disk: SegmentDisk,
    model: Content,
    next: u64,
    first: u64,
}

impl Pair {
    fn new(dir: &Path) -> Pair {
        Pair { disk: SegmentDisk::open(dir).unwrap().with_fsync(false), model: Content::default(), next: 1, first: 1 }
    }

    fn write(&mut self, changes: &[Change], sync: bool) {
        self.disk.write(changes, sync).unwrap();
        changes.iter().for_each(|change| self.model.apply(change));
    }

    fn step(&mut self, step: &Step, seed: usize, dir: &Path) {
        match step {
            Step::Put(lengths) => {
                let puts: Vec<_> = (self.next..)
                    .zip(lengths)
                    .map(|(index, length)| Change::Put { index, record: halves(record(index, seed, *length)) })
                    .collect();
                self.next += puts.len() as u64;
                self.write(&puts, true);
            }
            Step::Truncate(back) => {
                self.next = self.next.saturating_sub(*back).max(self.first);
                self.write(&[Change::Truncate { from: self.next }], true);
            }
            Step::Purge(count) => {
                let upto = (self.first + count).min(self.next) - 1;
                self.first = upto + 1;
                let note = Change::Meta { name: Meta::Purged, record: upto.to_le_bytes().to_vec() };
                self.write(&[Change::Purge { upto }, note], false);
            }
            Step::Note(byte) => {
                self.write(&[Change::Meta { name: Meta::Vote, record: vec![*byte; 17] }], true);
            }
            Step::Compact => self.disk.compact().unwrap(),
            Step::Reopen => {
                // What waits for the next write is not lost here, so that the model need not know of it.
                self.write(&[Change::Meta { name: Meta::Committed, record: vec![1] }], true);
                self.disk = SegmentDisk::open(&dir.join("none")).unwrap();
                self.disk = SegmentDisk::open(dir).unwrap().with_fsync(false);
            }
        }
    }
}

fn content(disk: &SegmentDisk) -> Content {
    let mut content = Content::default();
    for name in METAS {
        if let Some(record) = disk.meta(name).unwrap() {
            content.apply(&Change::Meta { name, record: record.to_vec() });
        }
    }
    for (index, record) in disk.read(0..u64::MAX, usize::MAX).unwrap() {
        content.apply(&Change::Put { index, record: record.into() });
    }
    content
}

/// Copies what a log has on disk. A spare file may get its name meanwhile: then the copy begins anew.
fn copy(from: &Path, to: &Path) {
    let mut copied = Vec::new();
    while let Err(error) = copy_once(from, to, &mut copied) {
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        copied.drain(..).for_each(|file| fs::remove_file(file).unwrap());
    }
}

fn copy_once(from: &Path, to: &Path, copied: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let file = to.join(entry.file_name());
            fs::copy(entry.path(), &file)?;
            copied.push(file);
        }
    }
    Ok(())
}

/// The files of a log: name, number of the file whatever its name, content.
type Image = Vec<(OsString, u64, Vec<u8>)>;

/// What a log has on disk. A spare file may get its name meanwhile: then it is looked at anew.
fn image(dir: &Path) -> Image {
    loop {
        let read = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            let file = entry.metadata()?;
            if !file.is_file() {
                return Ok(None);
            }
            Ok(Some((entry.file_name(), file.ino(), fs::read(entry.path())?)))
        };
        let all: io::Result<Vec<_>> = fs::read_dir(dir).unwrap().map(read).collect();
        match all {
            Ok(all) => return all.into_iter().flatten().collect(),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
        }
    }
}

/// The directory `torn` becomes what a power cut leaves of the step from `before` to `after`: of each sector that
/// differs, one or the other, as `arrived` says. A spare file that was given a name held what it held then. Files of the log
/// go only when what makes them superfluous is synced: here they are still there.
fn tear(before: &Image, after: &Image, torn: &Path, arrived: &[bool]) {
    let mut number = 0;
    for (name, _, bytes) in before {
        fs::write(torn.join(name), bytes).unwrap();
    }
    for (name, file, bytes) in after {
        let was = before.iter().find(|(_, other, _)| other == file);
        if was.is_some_and(|(old, ..)| old != name && old != spare::SPARE) {
            continue;
        }
        let (mut bytes, nothing) = (bytes.clone(), Vec::new());
        let old = was.map_or(&nothing, |(_, _, old)| old);
        for (at, sector) in bytes.chunks_mut(SECTOR).enumerate() {
            let old = old.get(at * SECTOR..).map_or(&[][..], |old| &old[..old.len().min(sector.len())]);
            let keeps = *sector == *old || arrived[number % arrived.len()];
            number += usize::from(*sector != *old);
            if !keeps {
                sector.fill(0);
                sector[..old.len()].copy_from_slice(old);
            }
        }
        fs::write(torn.join(name), bytes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_a_log_in_memory_is(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut pair = Pair::new(dir.path());
        for (seed, step) in steps.iter().enumerate() {
            pair.step(step, seed, dir.path());
            prop_assert_eq!(&content(&pair.disk), &pair.model, "after {:?}", step);
        }
        let files = fs::read_dir(dir.path()).unwrap().count();
        prop_assert!(files <= pair.disk.shared.read().files.len() + 3, "{} files", files);
    }

    /// The power goes in the last write, twice: all before it is there, and of it all or nothing.
    #[test]
    fn a_power_cut_takes_the_write_under_way_or_nothing(
        steps in steps(),
        last in prop::collection::vec(0..3_000_usize, 1..3),
        arrived in prop::collection::vec(any::<bool>(), 1..12),
        arrived_again in prop::collection::vec(any::<bool>(), 1..4),
    ) {
        let [dir, torn, again] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let mut pair = Pair::new(dir.path());
        for (seed, step) in steps.iter().enumerate() {
            pair.step(step, seed, dir.path());
        }
        pair.step(&Step::Note(7), 0, dir.path());
        // Nobody makes a file meanwhile.
        let preparation = pair.disk.writer.lock().preparation.take();
        drop(preparation.and_then(Preparation::end));
        let before = image(dir.path());
        let old = pair.model.clone();
        pair.step(&Step::Put(last), 1, dir.path());
        tear(&before, &image(dir.path()), torn.path(), &arrived);

        let disk = SegmentDisk::open(torn.path()).unwrap().with_fsync(false);
        let found = content(&disk);
        prop_assert!(found == old || found == pair.model, "torn: {:?} of {:?}", arrived, steps);
        // A shorter one comes where the torn one was, and is torn in turn.
        drop(disk);
        let mut short = Pair { disk: SegmentDisk::open(torn.path()).unwrap(), model: found.clone(), ..pair };
        let before = image(torn.path());
        short.write(&[Change::Meta { name: Meta::Vote, record: vec![3; 600] }], true);
        tear(&before, &image(torn.path()), again.path(), &arrived_again);
        let disk = SegmentDisk::open(again.path()).unwrap();
        prop_assert!([&found, &short.model].contains(&&content(&disk)));
    }

    /// No flipped bit is taken for anything but what it is.
    #[test]
    fn a_flipped_bit_is_refused_or_changes_nothing(
        steps in steps(), file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0..8_u32,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut pair = Pair::new(dir.path());
        for (seed, step) in steps.iter().enumerate() {
            pair.step(step, seed, dir.path());
        }
        pair.step(&Step::Note(7), 0, dir.path());
        let (model, files) = (pair.model.clone(), pair.disk.shared.read().files.len());
        let number = pair.disk.shared.read().files[file.index(files)].number;
        drop(pair);
        let path = dir.path().join(spare::file_name(number));
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(&path, bytes).unwrap();
        match SegmentDisk::open(dir.path()) {
            Ok(disk) => prop_assert_eq!(content(&disk), model, "byte {} of {}", at, path.display()),
            Err(error) => prop_assert!(error.to_string().contains(&path.display().to_string()), "{}", error),
        }
    }
}

fn puts(range: std::ops::RangeInclusive<u64>, length: usize) -> Vec<Change> {
    range.map(|index| Change::Put { index, record: halves(record(index, 0, length)) }).collect()
}

#[test]
fn purged_files_are_used_again_and_few_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SegmentDisk::open(dir.path()).unwrap().with_fsync(false);
    let names = || {
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    let mut most = 0;
    for index in 1..=2_000 {
        disk.write(&puts(index..=index, 2_000), true).unwrap();
        if index % 100 == 0 {
            disk.write(&[Change::Purge { upto: index - 20 }], false).unwrap();
        }
        if index > 1_000 {
            most = most.max(disk.size());
        }
    }
    assert!(most < 5 * LARGEST, "{most}");
    assert!(names().len() < 5, "{:?}", names());
    assert!(disk.writer.lock().number >= 10);
    drop(disk);
    let disk = SegmentDisk::open(dir.path()).unwrap();
    // The last purge waited for a write that did not come.
    assert_eq!(disk.bounds().unwrap(), Some((1_881, 2_000)));
    assert_eq!(disk.read(1_990..1_991, 1).unwrap(), [(1_990, record(1_990, 0, 2_000).into())]);
}

#[test]
fn a_missing_file_is_noticed_and_a_leftover_one_is_not_in_the_way() {
    let [dir, copied] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let disk = SegmentDisk::open(dir.path()).unwrap();
    for index in 1..=60 {
        disk.write(&puts(index..=index, 3_000), true).unwrap();
    }
    let name = |number| dir.path().join(spare::file_name(number));
    assert!(name(1).exists() && name(3).exists());
    fs::copy(name(1), copied.path().join("first")).unwrap();
    copy(dir.path(), copied.path());
    fs::remove_file(copied.path().join(spare::file_name(2))).unwrap();
    // What is left begins later than entry 1: for the one who opens it, as if it had been purged.
    let cut = SegmentDisk::open(copied.path()).unwrap();
    assert!(cut.bounds().unwrap().unwrap().0 > 1 && cut.meta(Meta::Purged).unwrap().is_none());
    drop(cut);

    disk.write(&[Change::Purge { upto: 59 }], false).unwrap();
    disk.write(&puts(61..=61, 10), true).unwrap();
    assert!(!name(1).exists() && !name(2).exists());
    drop(disk);
    fs::copy(copied.path().join("first"), name(1)).unwrap();
    let disk = SegmentDisk::open(dir.path()).unwrap();
    assert_eq!(disk.bounds().unwrap(), Some((60, 61)));
    assert!(!name(1).exists());
}

#[test]
fn a_write_that_fails_is_the_last() {
    for direct in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let disk = SegmentDisk::open(dir.path()).unwrap();
        disk.write(&puts(1..=1, 10), true).unwrap();
        // A file that may only be read.
        let read_only = || File::open(dir.path().join(spare::file_name(1))).unwrap();
        {
            let mut writer = disk.writer.lock();
            writer.file = Arc::new(read_only());
            writer.direct = Direct::of(direct.then(|| (1, read_only())));
        }
        let error = disk.write(&puts(2..=2, 10), true).unwrap_err().to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        assert!(disk.write(&puts(2..=2, 10), true).unwrap_err().to_string().contains("failed before"));
        assert!(disk.compact().is_err());
        assert_eq!(content(&disk), content(&SegmentDisk::open(dir.path()).unwrap()));
    }
}
