use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::{Model, file, nested, numbered, opened};
use crate::format::{HEAD, Head, Meta};
use crate::{Db, Error};

fn content(file: &std::fs::File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn of(bytes: &[u8]) -> Result<Db, Error> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    Db::of(file, "hurt.db")
}

/// Reads everything there is; what goes wrong must say where.
fn read_all(bytes: &[u8]) -> Result<(), Error> {
    let outcome = of(bytes).and_then(|db| {
        Model::read(&db, &db.root())?;
        db.status(|_| ())?;
        db.check()
    });
    if let Err(error) = &outcome {
        assert!(error.to_string().contains("hurt.db"), "{error}");
    }
    outcome
}

fn sample() -> Vec<u8> {
    content(&file(&Model {
        buckets: [
            (b"key".to_vec(), numbered(300, 40)),
            (b"lease".to_vec(), numbered(4, 9)),
            (b"x".to_vec(), numbered(2, 9_000)),
        ]
        .into(),
        ..Model::default()
    }))
}

#[test]
fn one_meta_is_enough() {
    let bytes = sample();
    for spoilt in [0, 4096] {
        let mut bytes = bytes.clone();
        bytes[spoilt..spoilt + 4096].fill(0x5a);
        of(&bytes).unwrap().check().unwrap();
    }
    let mut none = bytes;
    none[..8192].fill(0);
    assert!(matches!(of(&none), Err(Error::Foreign { .. })));
    assert!(matches!(of(b""), Err(Error::Foreign { .. })));
    assert!(matches!(of(b"# a shell script\n"), Err(Error::Foreign { .. })));
}

#[test]
fn a_file_cut_short_is_refused_at_once() {
    let bytes = sample();
    for length in [8192, bytes.len() / 2, bytes.len() - 1] {
        let error = of(&bytes[..length]).unwrap_err();
        assert!(error.to_string().contains("cut short"), "{error}");
    }
    // A checksum behind the end is none of its business.
    of(&[bytes, vec![7; 32]].concat()).unwrap().check().unwrap();
}

#[test]
fn every_page_that_calls_itself_another_is_named() {
    let bytes = sample();
    for page in 2..bytes.len() / 4096 {
        let head = Head::decode(&bytes[page * 4096..]).unwrap();
        if head.id != page as u64 {
            continue;
        }
        let mut bytes = bytes.clone();
        bytes[page * 4096] ^= 0x40;
        let error = of(&bytes).unwrap().check().unwrap_err();
        assert!(error.to_string().contains(&format!("page {page}")), "{error}");
    }
}

#[test]
fn a_tree_that_leads_in_circles_ends() {
    let bytes = content(&file(&nested("key", numbered(3_000, 40))));
    let pages = bytes.len() / 4096;
    let head = |page: usize| Head::decode(&bytes[page * 4096..]).unwrap();
    let branches: Vec<usize> = (3..pages).filter(|&page| head(page).flags == 1).collect();
    assert!(!branches.is_empty());
    for &branch in &branches {
        for target in [branch, branches[0], 3, 4] {
            for element in [0, usize::from(head(branch).count) - 1] {
                let at = branch * 4096 + HEAD + 16 * element + 8;
                if bytes[at..at + 8] == (target as u64).to_le_bytes() {
                    continue;
                }
                let mut bytes = bytes.clone();
                bytes[at..at + 8].copy_from_slice(&(target as u64).to_le_bytes());
                let db = of(&bytes).unwrap();
                assert!(matches!(Model::read(&db, &db.root()), Err(Error::Damaged { .. })), "{branch} -> {target}");
            }
        }
    }
}

#[test]
fn a_page_used_twice_or_lost_is_found() {
    let bytes = sample();
    let mut lost = bytes.clone();
    lost.extend([0; 4096]);
    let meta = Meta::decode(&bytes[HEAD..]).unwrap();
    let longer = Meta { high_water: meta.high_water + 1, ..meta }.encode();
    lost[HEAD..HEAD + longer.len()].copy_from_slice(&longer);
    let error = of(&lost).unwrap().check().unwrap_err();
    assert!(error.to_string().contains("neither in use nor free"), "{error}");
    // Listed as free, all is well again.
    lost[2 * 4096 + 10] = 1;
    lost[2 * 4096 + HEAD..][..8].copy_from_slice(&meta.high_water.to_le_bytes());
    of(&lost).unwrap().check().unwrap();
    // A page in use is not free.
    lost[2 * 4096 + HEAD..][..8].copy_from_slice(&3_u64.to_le_bytes());
    let error = of(&lost).unwrap().check().unwrap_err();
    assert!(error.to_string().contains("page 3"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_a_page_are_read_or_refused(
        page in 2_usize..20,
        at in 0_usize..4096,
        put in prop::collection::vec(any::<u8>(), 1..24),
        in_head in any::<bool>(),
    ) {
        let mut bytes = sample();
        let pages = bytes.len() / 4096;
        let at = (page % pages) * 4096 + if in_head { at % 64 } else { at };
        let end = (at + put.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&put[..end - at]);
        let _ = read_all(&bytes);
    }

    #[test]
    fn any_bytes_at_all_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..10_000), begin in any::<bool>()) {
        let mut bytes = bytes;
        if begin {
            let meta = Meta { page_size: 512, root: 3, freelist: 2, high_water: (bytes.len() / 512) as u64, txid: 1 };
            let meta = meta.encode();
            if bytes.len() > HEAD + meta.len() {
                bytes[HEAD..HEAD + meta.len()].copy_from_slice(&meta);
            }
        }
        prop_assert!(read_all(&bytes).is_err());
    }
}

#[test]
fn an_intact_file_has_nothing_wrong() {
    let file = file(&nested("meta", numbered(200, 40)));
    assert!(read_all(&content(&file)).is_ok());
    assert_eq!(opened(&file).size(), file.metadata().unwrap().len());
}
