//! Round trips, damage, and etcd's buckets.

mod damage;
mod schema;
mod tree;

use std::fs::File;

use crate::{Db, Writer};

/// A bucket's records, sorted, and buckets nested in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub records: std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
    pub buckets: std::collections::BTreeMap<Vec<u8>, Model>,
}

impl Model {
    pub fn write(&self, writer: &mut Writer) {
        let mut names: Vec<_> = self.records.keys().chain(self.buckets.keys()).collect();
        names.sort();
        for name in names {
            match (self.records.get(name), self.buckets.get(name)) {
                (Some(value), _) => writer.put(name, value).unwrap(),
                (None, Some(bucket)) => {
                    writer.begin_bucket(name).unwrap();
                    bucket.write(writer);
                    writer.end_bucket().unwrap();
                }
                (None, None) => unreachable!("a name of neither"),
            }
        }
    }

    pub fn read(db: &Db, bucket: &crate::Bucket) -> Result<Model, crate::Error> {
        let mut model = Model::default();
        let mut cursor = db.cursor(bucket);
        while let Some(item) = cursor.next()? {
            match item.bucket()? {
                Some(nested) => drop(model.buckets.insert(item.key.into(), Model::read(db, &nested)?)),
                None => drop(model.records.insert(item.key.into(), item.value.into())),
            }
        }
        Ok(model)
    }
}

/// A file with this content.
pub(super) fn file(model: &Model) -> File {
    let mut writer = Writer::new(tempfile::tempfile().unwrap(), "test.db").unwrap();
    model.write(&mut writer);
    let (file, size) = writer.finish().unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    file
}

pub(super) fn opened(file: &File) -> Db {
    Db::of(file.try_clone().unwrap(), "test.db").unwrap()
}

pub(super) fn numbered(count: usize, length: usize) -> Model {
    let record = |number: usize| (format!("{number:08}").into_bytes(), vec![number as u8; length]);
    Model { records: (0..count).map(record).collect(), ..Model::default() }
}

pub(super) fn nested(name: &str, bucket: Model) -> Model {
    Model { buckets: [(name.as_bytes().to_vec(), bucket)].into(), ..Model::default() }
}
