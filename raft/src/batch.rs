//! The content of one log entry: all commands that were waiting when it was formed.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use kelson_engine::Command;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

/// Which member proposed a batch that came to the leader from elsewhere, so that it knows its own when it applies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) node: u64,
    /// Drawn when that member started: what an earlier life proposed has nobody waiting.
    pub(crate) life: u64,
    /// Number of the batch in that life.
    pub(crate) number: u64,
}

/// Commands of one log entry; clones share it. The bytes are made once and serve the log, replication and replay.
#[derive(Clone)]
pub(crate) struct Batch(Arc<Inner>);

struct Inner {
    encoded: Bytes,
    /// `None` where the leader itself proposed it.
    origin: Option<Origin>,
    /// What the proposer encoded, so that applying on the member that proposed it need not decode; taken by the first
    /// apply so that the memory goes.
    commands: Mutex<Option<Vec<Command>>>,
    /// The proposer's place in the pipeline, given back when the batch is applied.
    slot: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Batch {
    /// Encodes commands as `count (4) | (length (4) | command) ...`.
    pub(crate) fn new(commands: Vec<Command>, bytes: usize, slot: OwnedSemaphorePermit) -> Self {
        Batch(Arc::new(Inner {
            encoded: Self::encode(&commands, bytes),
            origin: None,
            commands: Mutex::new(Some(commands)),
            slot: Mutex::new(Some(slot)),
        }))
    }

    /// The bytes alone, for another member to propose.
    pub(crate) fn encode(commands: &[Command], bytes: usize) -> Bytes {
        let mut out = Vec::with_capacity(bytes + 4);
        out.extend_from_slice(&(commands.len() as u32).to_le_bytes());
        for command in commands {
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            command.encode(&mut out);
            let len = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&len.to_le_bytes());
        }
        out.into()
    }

    /// A batch read back from the log; decoded when it is applied.
    pub(crate) fn from_log(encoded: Bytes) -> Self {
        Batch(Arc::new(Inner { encoded, origin: None, commands: Mutex::new(None), slot: Mutex::new(None) }))
    }

    /// A batch that another member has encoded.
    pub(crate) fn forwarded(encoded: Bytes, origin: Origin) -> Self {
        Batch(Arc::new(Inner { encoded, origin: Some(origin), commands: Mutex::new(None), slot: Mutex::new(None) }))
    }

    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.0.origin.as_ref()
    }

    pub(crate) fn encoded(&self) -> &Bytes {
        &self.0.encoded
    }

    /// The commands, without decoding when this member proposed them.
    pub(crate) fn take_commands(&self) -> Result<Vec<Command>, String> {
        if let Some(commands) = self.0.commands.lock().take() {
            return Ok(commands);
        }
        Batch::decode(self.0.encoded.clone())
    }

    /// What [`Batch::encode`] encoded.
    pub(crate) fn decode(mut rest: Bytes) -> Result<Vec<Command>, String> {
        let count = take_u32(&mut rest)? as usize;
        let mut commands = Vec::with_capacity(count.min(rest.len()));
        for _ in 0..count {
            let len = take_u32(&mut rest)? as usize;
            if rest.len() < len {
                return Err("batch ends early".to_owned());
            }
            commands.push(Command::decode(&rest.split_to(len)).map_err(|e| e.to_string())?);
        }
        if rest.is_empty() { Ok(commands) } else { Err(format!("{} bytes too many in batch", rest.len())) }
    }

    /// Lets the proposer send the next batch.
    pub(crate) fn release_slot(&self) {
        drop(self.0.slot.lock().take());
    }
}

fn take_u32(rest: &mut Bytes) -> Result<u32, String> {
    if rest.len() < 4 {
        return Err("batch ends early".to_owned());
    }
    let mut raw = [0; 4];
    raw.copy_from_slice(&rest.split_to(4));
    Ok(u32::from_le_bytes(raw))
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.0.encoded == other.0.encoded
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.encoded.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
