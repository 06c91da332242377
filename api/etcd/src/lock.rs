//! The Lock service: a key for each that waits, named after its lease; the one that was created first has the lock.

use bytes::Bytes;
use kelson_wire::pb::etcdserverpb::{RangeRequest, TxnRequest, TxnResponse};
use kelson_wire::pb::v3lockpb::lock_server::Lock;
use kelson_wire::pb::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::{Request, Response, Status};

use crate::asker::{self, Asker, Otherwise, Services};

/// When the key that a wait was for is gone: its lease has ended.
const EXPIRED: &str = "mutex: session is expired";

#[derive(Clone)]
pub(crate) struct LockService {
    services: Services,
}

impl LockService {
    pub(crate) fn new(services: Services) -> Self {
        Self { services }
    }
}

/// The revision that the own key was created at, and whether that is the first, so that the lock is had.
fn place(taken: &TxnResponse) -> (i64, bool) {
    let now = taken.header.map_or(0, |header| header.revision);
    let place = if taken.succeeded { now } else { asker::read_by(taken, 0).map_or(0, |own| own.create_revision) };
    (place, asker::read_by(taken, 1).is_none_or(|holder| holder.create_revision == place))
}

async fn lock(asker: &Asker, request: LockRequest) -> Result<LockResponse, Status> {
    let lease = asker.session(request.lease).await?;
    let prefix = asker::prefix(&request.name);
    let key = asker::own_key(&prefix, lease);
    // With the key goes the place in the queue, and what the holder is asks nothing more.
    let queue = TxnRequest {
        compare: vec![asker::created_at(&key, 0)],
        success: vec![asker::put(&key, Bytes::new(), lease), asker::get_first(&prefix)],
        failure: vec![asker::get(&key), asker::get_first(&prefix)],
    };
    let leave = {
        let (asker, key) = (asker.clone(), key.clone());
        async move {
            if let Err(status) = asker.delete(key).await {
                tracing::debug!("a place in a lock's queue stays until its lease ends: {status}");
            }
        }
    };
    let (taken, leave) = asker
        .txn_with(queue, |taken| {
            // Who has had the lock before keeps it when another call of its own is given up.
            let had = !taken.succeeded && place(taken).1;
            if had { Otherwise::nothing() } else { Otherwise::run(leave) }
        })
        .await?;
    let (place, first) = place(&taken);
    if first {
        leave.forget();
        return Ok(LockResponse { header: taken.header, key });
    }
    asker.wait_for_others(&prefix, place - 1).await?;
    let own = asker.range(RangeRequest { key: key.clone(), ..Default::default() }).await?;
    leave.forget();
    if own.kvs.is_empty() {
        return Err(Status::unknown(EXPIRED));
    }
    Ok(LockResponse { header: own.header, key })
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let (asker, request) = self.services.asker(request);
        lock(&asker, request).await.map(Response::new)
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let (asker, request) = self.services.asker(request);
        let deleted = asker.delete(request.key).await?;
        Ok(Response::new(UnlockResponse { header: deleted.header }))
    }
}
