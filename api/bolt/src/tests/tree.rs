use proptest::prelude::*;

use super::{Model, file, nested, numbered, opened};
use crate::{Error, MAX_KEY, Writer};

fn round_trip(model: &Model) {
    let file = file(model);
    let db = opened(&file);
    db.check().unwrap();
    assert_eq!(&Model::read(&db, &db.root()).unwrap(), model);
}

#[test]
fn trees_of_every_height_read_back() {
    round_trip(&Model::default());
    round_trip(&nested("empty", Model::default()));
    for count in [1, 2, 3, 4, 100, 101, 102, 1_000, 20_000] {
        round_trip(&nested("key", numbered(count, 32)));
    }
    // Three levels of branches: few long keys to a page.
    let long = |number: usize| ([vec![b'k'; 900], number.to_be_bytes().to_vec()].concat(), vec![1]);
    round_trip(&nested("key", Model { records: (0..600).map(long).collect(), ..Model::default() }));
}

#[test]
fn branches_of_keys_longer_than_a_page_have_two_children_at_least() {
    let long = |number: usize| ([vec![b'k'; 9_000], number.to_be_bytes().to_vec()].concat(), vec![1; 5_000]);
    for count in 1..20 {
        round_trip(&nested("key", Model { records: (0..count).map(long).collect(), ..Model::default() }));
    }
}

#[test]
fn large_values_take_further_pages() {
    for length in [900, 1_000, 1_100, 4_050, 4_060, 4_064, 4_070, 4_096, 8_000, 70_000, 3 << 20] {
        round_trip(&nested("key", numbered(5, length)));
    }
}

#[test]
fn small_buckets_lie_in_their_parent() {
    let small = file(&nested("meta", numbered(3, 20)));
    assert_eq!(small.metadata().unwrap().len(), 4 * 4096, "two metas, a freelist, the root bucket");
    let large = file(&nested("meta", numbered(3, 400)));
    assert_eq!(large.metadata().unwrap().len(), 5 * 4096);
    // One that holds another never does.
    round_trip(&nested("a", nested("b", nested("c", numbered(2, 3)))));
}

#[test]
fn a_bucket_is_found_by_its_name() {
    let model = Model {
        buckets: [(b"a".to_vec(), numbered(3, 1)), (b"b".to_vec(), numbered(5, 1))].into(),
        ..Model::default()
    };
    let file = file(&model);
    let db = opened(&file);
    let found = db.bucket(b"b").unwrap().unwrap();
    assert_eq!(Model::read(&db, &found).unwrap(), model.buckets[&b"b"[..]]);
    assert_eq!(db.bucket(b"c").unwrap(), None);
}

#[test]
fn the_writer_refuses_what_the_format_cannot_hold() {
    let refused = |steps: fn(&mut Writer) -> Result<(), Error>| {
        let mut writer = Writer::new(tempfile::tempfile().unwrap(), "out.db").unwrap();
        writer.begin_bucket(b"b").unwrap();
        writer.put(b"m", b"").unwrap();
        let error = steps(&mut writer).unwrap_err();
        assert!(matches!(error, Error::Input { .. }) && error.to_string().contains("out.db"), "{error}");
    };
    refused(|writer| writer.put(b"m", b""));
    refused(|writer| writer.put(b"a", b""));
    refused(|writer| writer.put(b"", b""));
    refused(|writer| writer.put(&[b'z'; MAX_KEY + 1], b""));
    refused(|writer| writer.begin_bucket(b"a"));
    refused(|writer| {
        writer.end_bucket()?;
        writer.end_bucket()
    });
    let mut writer = Writer::new(tempfile::tempfile().unwrap(), "out.db").unwrap();
    writer.begin_bucket(b"b").unwrap();
    assert!(matches!(writer.finish(), Err(Error::Input { .. })));
}

#[test]
fn a_full_disk_is_said_in_the_systems_words() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut writer = Writer::new(full, "/data/snapshot").unwrap();
    writer.begin_bucket(b"key").unwrap();
    let error = (0..1000_u32).find_map(|number| writer.put(&number.to_be_bytes(), &[0; 4096]).err()).unwrap();
    assert_eq!(error.to_string(), "cannot write /data/snapshot: No space left on device (os error 28)");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sorted_input_reads_back(
        records in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 1..60),
            prop_oneof![
                8 => prop::collection::vec(any::<u8>(), 0..80),
                1 => prop::collection::vec(any::<u8>(), 3_000..9_000),
            ],
            0..400,
        ),
        small in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..9), any::<[u8; 4]>(), 0..40),
    ) {
        let small = Model { records: small.into_iter().map(|(key, value)| (key, value.to_vec())).collect(), ..Model::default() };
        let model = Model {
            buckets: [(b"key".to_vec(), Model { records, ..Model::default() }), (b"meta".to_vec(), small)].into(),
            ..Model::default()
        };
        round_trip(&model);
    }
}
