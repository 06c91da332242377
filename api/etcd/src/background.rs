//! What a server does by itself beside answering requests.

use std::sync::Arc;
use std::time::Duration;

use kelson_engine::Error as EngineError;
use kelson_engine::command::Command;
use kelson_raft::{Error, Node};
use tokio::time::Instant;

use crate::context::Context;
use crate::retention::Schedule;

/// Compacts as the options say, until the server stops. Only a member that leads does.
pub(crate) async fn compact(context: Arc<Context>) {
    let revision = context.node.reader().revision();
    let Some(mut schedule) = Schedule::new(context.options.auto_compaction, revision) else { return };
    let start = Instant::now();
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => return,
            () = tokio::time::sleep(schedule.interval()) => look(&context.node, &mut schedule, start.elapsed()).await,
        }
    }
}

/// One look at what is due; `now` counts from the start.
async fn look(node: &Node, schedule: &mut Schedule, now: Duration) {
    let due = if node.is_leader() { schedule.due(now, node.reader().revision()) } else { None };
    let mut compacted = None;
    if let Some(revision) = due {
        tracing::info!(revision, "starting auto compaction");
        match node.propose(node.reader().by_system(Command::Compact { revision })).await {
            // Somebody else has done it.
            Ok(_) | Err(Error::Engine(EngineError::Compacted)) => {
                tracing::info!(revision, "completed auto compaction");
                compacted = due;
            }
            Err(error) => tracing::warn!(revision, "failed auto compaction: {error}"),
        }
    }
    schedule.looked(now, node.reader().revision(), compacted);
}

#[cfg(test)]
mod tests {
    use kelson_engine::command::Put;
    use kelson_raft::{Config, Data};

    use super::*;
    use crate::options::AutoCompaction;

    const HOUR: Duration = Duration::from_secs(3600);

    async fn put(node: &Node) {
        let put = Put { key: "a".into(), value: "v".into(), ..Put::default() };
        node.propose(Command::Put(put)).await.unwrap();
    }

    #[tokio::test]
    async fn history_of_a_period_is_kept_and_no_more() {
        let node = Node::open(Config::new("test", Data::Memory)).await.unwrap();
        let mut schedule = Schedule::new(AutoCompaction::Periodic(HOUR), node.reader().revision()).unwrap();
        let mut compacted = Vec::new();
        for at in 1..=21 {
            put(&node).await;
            let now = schedule.interval() * at;
            look(&node, &mut schedule, now).await;
            compacted.push(node.reader().compacted_revision());
        }
        // The tenth look is the first that is an hour after the start. The twentieth compacts to what the ninth saw.
        assert_eq!(compacted[..9], [0; 9]);
        assert_eq!((compacted[9], compacted[18], compacted[19]), (1, 1, 10));
        node.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_compaction_by_somebody_else_counts() {
        let node = Node::open(Config::new("test", Data::Memory)).await.unwrap();
        let mut schedule = Schedule::new(AutoCompaction::Revision(2), 1).unwrap();
        for _ in 0..5 {
            put(&node).await;
        }
        node.propose(Command::Compact { revision: 5 }).await.unwrap();
        look(&node, &mut schedule, HOUR).await;
        assert_eq!(node.reader().compacted_revision(), 5);
        put(&node).await;
        put(&node).await;
        look(&node, &mut schedule, HOUR * 2).await;
        assert_eq!(node.reader().compacted_revision(), 6);
        node.shutdown().await.unwrap();
    }
}
