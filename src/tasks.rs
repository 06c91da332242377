//! The long-running parts of a process: started, watched, and stopped in order.

use std::future::Future;

use anyhow::{Context, Result, anyhow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Parts that stop together. The first one that fails stops the process.
#[derive(Default)]
pub struct Tasks {
    running: JoinSet<(&'static str, Result<()>)>,
    stop: CancellationToken,
}

impl Tasks {
    /// The token that tells these parts to stop.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a part.
    pub fn start<E>(&mut self, name: &'static str, part: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<anyhow::Error> + 'static,
    {
        self.running.spawn(async move { (name, part.await.map_err(Into::into)) });
    }

    /// Waits until a part ends by itself, which none should. Never returns while all run.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.running.join_next().await {
            Some(Ok((name, Ok(())))) => anyhow!("{name} ended unexpectedly"),
            Some(Ok((name, Err(error)))) => error.context(name),
            Some(Err(panic)) => panic.into(),
            None => std::future::pending().await,
        }
    }

    /// Tells all parts to stop and waits for them; returns the first error.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        let mut first = Ok(());
        while let Some(ended) = self.running.join_next().await {
            let ended = match ended {
                Ok((name, result)) => result.context(name),
                Err(panic) => Err(panic.into()),
            };
            first = first.and(ended);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_names_its_part_and_stopping_waits() {
        let mut tasks = Tasks::default();
        tasks.start("scheduler", async { Err(std::io::Error::other("no quorum")) });
        assert_eq!(format!("{:#}", tasks.failed().await), "scheduler: no quorum");
        let token = tasks.token();
        tasks.start("store", async move {
            token.cancelled().await;
            Ok::<_, std::io::Error>(())
        });
        tasks.stop().await.unwrap();
    }
}
