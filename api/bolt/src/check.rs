//! Whether every page is used exactly once or free: what bbolt's own `check` looks at.

use std::cell::RefCell;

use crate::{Bucket, Db, Error};

/// Deepest nesting of buckets that is followed; etcd nests one level.
const MAX_NESTING: usize = 16;

/// Which pages of a file were found in use.
#[derive(Debug)]
pub struct Marks {
    bits: RefCell<Vec<u64>>,
    pages: u64,
}

impl Marks {
    /// None but the two metas.
    pub fn new(db: &Db) -> Marks {
        let pages = db.high_water();
        // At most one bit for each page of the file, which is as long as it says.
        let marks = Marks { bits: RefCell::new(vec![0; pages.div_ceil(64) as usize]), pages };
        if let Some(first) = marks.bits.borrow_mut().first_mut() {
            *first = 0b11;
        }
        marks
    }

    /// Notes a page with those that belong to it.
    pub(crate) fn reach(&self, page: u64, overflow: u32) -> Result<(), &'static str> {
        (page..=page.saturating_add(overflow.into())).try_for_each(|page| self.set(page))
    }

    fn set(&self, page: u64) -> Result<(), &'static str> {
        let mut bits = self.bits.borrow_mut();
        let word = bits.get_mut((page / 64) as usize).filter(|_| page < self.pages);
        let word = word.ok_or("it lies outside of the file")?;
        let bit = 1 << (page % 64);
        if *word & bit != 0 {
            return Err("it is used twice");
        }
        *word |= bit;
        Ok(())
    }

    /// To be called when everything was walked: each page must be in use or free.
    ///
    /// # Errors
    /// [`Error::Damaged`] names a page that is neither, or both; [`Error::Io`].
    pub fn finish(self, db: &Db) -> Result<(), Error> {
        // Without a list whatever is not in use is free.
        let Some(free) = db.freelist(&self)? else { return Ok(()) };
        for page in free {
            self.set(page).map_err(|_| db.damaged(page, "it is in the list of free pages, and used or no page"))?;
        }
        let lost = (0..self.pages).find(|page| self.bits.borrow()[(page / 64) as usize] >> (page % 64) & 1 == 0);
        match lost {
            None => Ok(()),
            Some(page) => Err(db.damaged(page, "it is neither in use nor free")),
        }
    }
}

impl Db {
    /// Walks the whole file.
    ///
    /// # Errors
    /// The first [`Error::Damaged`] that is found; [`Error::Io`].
    pub fn check(&self) -> Result<(), Error> {
        let marks = Marks::new(self);
        self.check_bucket(&self.root(), &marks, 0)?;
        marks.finish(self)
    }

    fn check_bucket(&self, bucket: &Bucket, marks: &Marks, depth: usize) -> Result<(), Error> {
        let mut cursor = self.cursor_marking(bucket, marks);
        while let Some(item) = cursor.next()? {
            if let Some(nested) = item.bucket()? {
                if depth == MAX_NESTING {
                    return Err(self.damaged(0, "buckets are nested deeper than they can be"));
                }
                self.check_bucket(&nested, marks, depth + 1)?;
            }
        }
        Ok(())
    }
}
