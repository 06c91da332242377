//! Leases for objects that run out: Events.

use std::time::{Duration, Instant};

use kelson_wire::store::Store;
use tokio::sync::Mutex;

use crate::status::Answer;

/// Objects that hang on one lease at most: kube-apiserver's own number.
const MAX_OBJECTS: u32 = 1_000;

/// Hands out leases, one for many objects, as a lease each would cost more than the objects.
#[derive(Default)]
pub struct Leases(Mutex<Option<Current>>);

struct Current {
    id: i64,
    granted: Instant,
    objects: u32,
}

impl Leases {
    /// A lease that lives at least `ttl` from now, and at most a twentieth (or a minute) longer.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn lease(&self, store: &dyn Store, ttl: Duration) -> Answer<i64> {
        let reuse = (ttl / 20).max(Duration::from_secs(60));
        let mut current = self.0.lock().await;
        if let Some(current) = &mut *current
            && current.granted.elapsed() < reuse
            && current.objects < MAX_OBJECTS
        {
            current.objects += 1;
            return Ok(current.id);
        }
        let seconds = (ttl + reuse).as_secs().max(1);
        let id = store.grant_lease(i64::try_from(seconds).unwrap_or(i64::MAX)).await?;
        *current = Some(Current { id, granted: Instant::now(), objects: 1 });
        Ok(id)
    }
}
