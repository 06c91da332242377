//! Reads that do not stand in anybody's way.

use kelson_engine::command::{RangeRequest, RangeResponse, SortOrder, SortTarget};
use kelson_raft::{Error, Node};
use tokio::sync::Semaphore;

/// Most keys that are read on the thread that serves the request. Reading more may take long enough to be felt by the
/// requests beside it.
const SMALL: i64 = 200;

/// Reads on a node; large ones one by one on threads of their own, a bounded number at a time.
pub(crate) struct Reads {
    node: Node,
    large: Semaphore,
}

impl Reads {
    pub(crate) fn new(node: Node, max_large: usize) -> Self {
        Self { node, large: Semaphore::new(max_large.max(1)) }
    }

    /// The revision of the last compaction, 0 where there was none.
    pub(crate) fn compacted_revision(&self) -> i64 {
        self.node.reader().compacted_revision()
    }

    /// A read that sees everything acknowledged before the call.
    pub(crate) async fn linearizable(&self, request: RangeRequest) -> Result<(i64, RangeResponse), Error> {
        self.node.read_barrier().await?;
        self.local(request).await
    }

    /// A read of this member's state.
    pub(crate) async fn local(&self, request: RangeRequest) -> Result<(i64, RangeResponse), Error> {
        if is_small(&request) {
            return Ok(self.node.reader().range(&request)?);
        }
        // Held while the thread reads; it is never closed.
        let _permit = self.large.acquire().await.map_err(|_| Error::Stopped)?;
        let node = self.node.clone();
        match tokio::task::spawn_blocking(move || node.reader().range(&request)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Error::Stopped),
        }
    }
}

fn is_small(request: &RangeRequest) -> bool {
    let one_key = request.range.end.is_empty();
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    let sorted = request.sort_target != SortTarget::Key || request.sort_order == SortOrder::Descend;
    // What sorts or filters looks at the whole range, whatever it returns. Counting is cheap.
    one_key || (!filtered && !sorted && (request.count_only || (1..=SMALL).contains(&request.limit)))
}
