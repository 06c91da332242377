//! What other members ask of this one.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use kelson_engine::{
    Reader,
    plant::{Bug, planted},
};
use openraft::{
    ServerState,
    async_runtime::{Instant as _, WatchReceiver},
    errors::{ClientWriteError, RaftError},
    raft::{ClientWriteResult, VoteRequest},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    Connection, Found, Purpose, Roster, Staging, ask, broken,
    frame::{self, Frame, Frames},
    hello::{self, Hello},
    link, message,
    message::Kind,
    serve_appends,
    state::{self, Receiving},
};
use crate::{
    Error, Member,
    barrier::Barrier,
    batch::Batch,
    leases::{self, Leases},
    membership::{self, Changes},
    node::Raft,
    queue::Queue,
    task,
    types::{Callback, Types},
};

/// Calls of one stream that may be under way; the next one is not read before one of them has ended.
const CALLS: usize = 256;
/// How long a stream may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that calls of other members need.
pub(crate) struct Host {
    pub(crate) raft: Raft,
    pub(crate) roster: Arc<Roster>,
    pub(crate) barrier: Arc<Barrier>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) changes: Changes,
    pub(crate) reader: Reader,
    pub(crate) staging: Arc<dyn Staging>,
    pub(crate) receiving: Receiving,
    /// Ends the node for this reason.
    pub(crate) fail: mpsc::Sender<Error>,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Host {
    /// Serves a stream that another member has opened, until it ends or the node does.
    pub(crate) async fn serve(self: Arc<Self>, stream: Box<dyn Connection>) {
        let mut stopping = self.stopping.clone();
        let ended = tokio::select! {
            biased;
            ended = self.stream(stream) => ended,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        if let Err(error) = ended {
            tracing::debug!("a stream of another member has ended: {error}");
        }
    }

    async fn stream(self: &Arc<Self>, mut stream: Box<dyn Connection>) -> io::Result<()> {
        let greeted = async {
            hello::greeting(&mut stream).await?;
            let mut frames = Frames::new(stream);
            let hello = hello::answer(&mut frames, self.roster.me, self.roster.cluster).await?;
            Ok::<_, io::Error>((frames, hello))
        };
        let (frames, hello) = timeout(PATIENCE, greeted).await??;
        match hello.purpose {
            Purpose::Calls => self.calls(frames, hello).await,
            Purpose::Appends => serve_appends(self.raft.clone(), self.roster.clone(), frames).await,
            Purpose::State => self.state(frames).await,
            Purpose::Ask => self.told(frames).await,
        }
    }

    async fn told<S: AsyncRead + AsyncWrite + Unpin>(&self, mut frames: Frames<S>) -> io::Result<()> {
        let found = Found { cluster: self.roster.cluster, members: self.members() };
        frame::write(frames.stream(), ask::answer(&found)).await
    }

    fn members(&self) -> Vec<Member> {
        let metrics = self.raft.metrics();
        membership::members(metrics.borrow_watched().membership_config.membership())
    }

    async fn state<S>(&self, frames: Frames<S>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let reader = self.reader.clone();
        let applied = move || reader.applied().map_or(0, |applied| applied.index);
        if state::receive(frames, applied, self.staging.clone(), &self.receiving).await? {
            tracing::info!("a whole state has come: starting again from it");
            // Whoever else ended the node was first.
            let _ = self.fail.try_send(Error::Replaced);
        }
        Ok(())
    }

    async fn calls<S>(self: &Arc<Self>, frames: Frames<S>, hello: Hello) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut frames, mut into) = frames.split();
        let (answers, mut ready) = mpsc::channel::<Frame>(CALLS);
        let places = Arc::new(Semaphore::new(CALLS));
        let writing = async move {
            while let Some(frame) = ready.recv().await {
                frame::write(&mut into, frame).await?;
            }
            Ok::<_, io::Error>(())
        };
        let reading = async move {
            while let Some((kind, mut body)) = frames.next().await? {
                let kind = Kind::of(kind).ok_or_else(|| broken(format!("a call of kind {kind}")))?;
                if body.len() < 8 {
                    return Err(broken("a call without a number"));
                }
                let number = body.split_to(8);
                let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
                let (host, answers) = (self.clone(), answers.clone());
                task::spawn(async move {
                    let (kind, body) = match host.answer(hello.from, kind, body).await {
                        Ok(body) => (link::DONE, body),
                        Err(error) => (link::REFUSED, message::encode_error(&error)),
                    };
                    let mut frame = Frame::new(kind);
                    frame.put(&number);
                    frame.put(&body);
                    // Whoever asked may be gone.
                    let _ = answers.send(frame).await;
                    drop(place);
                });
            }
            Ok(())
        };
        tokio::select! {
            biased;
            ended = reading => ended,
            ended = writing => ended,
        }
    }

    async fn answer(&self, from: u64, kind: Kind, body: Bytes) -> Result<Vec<u8>, Error> {
        if !matches!(kind, Kind::Append | Kind::Transfer) && self.has_removed(from) {
            return Err(Error::Removed);
        }
        match self.carry_out(kind, body).await {
            // Somebody says so of this member; whoever asks it must not take that for itself.
            Err(Error::Removed) => Err(Error::NoLeader),
            answer => answer,
        }
    }

    async fn carry_out(&self, kind: Kind, body: Bytes) -> Result<Vec<u8>, Error> {
        let wrong = |why: String| Error::Storage(format!("a member's call cannot be read: {why}"));
        match kind {
            Kind::Vote => {
                let answer = self.raft.vote(self.vote_request(body).map_err(wrong)?).await;
                #[cfg(feature = "sim")]
                answer.iter().for_each(crate::sim::voted);
                answer.map(|answer| message::encode_vote_answer(&answer)).map_err(|error| stopped(&error))
            }
            Kind::PreVote => {
                let answer = self.raft.pre_vote(self.vote_request(body).map_err(wrong)?).await;
                answer.map(|answer| message::encode_vote_answer(&answer)).map_err(|error| stopped(&error))
            }
            Kind::Append => {
                let append = message::append(body).map_err(wrong)?;
                self.roster.hear();
                let answer = self.raft.append_entries(append).await;
                answer.map(|answer| message::encode_appended(&answer)).map_err(|error| stopped(&error))
            }
            Kind::Transfer => {
                let request = message::transfer(body).map_err(wrong)?;
                match self.raft.handle_transfer_leader(request).await {
                    Ok(Ok(())) => Ok(Vec::new()),
                    Ok(Err(error)) => Err(Error::Storage(error.to_string())),
                    Err(_) => Err(Error::Stopped),
                }
            }
            Kind::Read => self.read().await.map(message::encode_number),
            Kind::Propose => self.propose(body).await.map(|()| Vec::new()),
            Kind::Renew => {
                let id = message::number(body).map_err(wrong)?.cast_signed();
                let term = self.leads().ok_or(Error::NoLeader)?;
                self.renew(id, term).await.map(message::encode_seconds)
            }
            Kind::Left => {
                let id = message::number(body).map_err(wrong)?.cast_signed();
                let term = self.leads().ok_or(Error::NoLeader)?;
                self.leases.remaining(id, term).map(message::encode_seconds)
            }
            Kind::Change => {
                let change = message::change(body).map_err(wrong)?;
                self.leads().ok_or(Error::NoLeader)?;
                self.changes.lead(&change).await.map(message::encode_number)
            }
        }
    }

    fn vote_request(&self, body: Bytes) -> message::Parsed<VoteRequest<Types>> {
        let mut request = message::vote_request(body)?;
        if planted(Bug::VoteForAnybody) {
            let last = self.raft.metrics().borrow_watched().last_log_index;
            let at = crate::types::LogId::new(request.vote.leader_id, last.unwrap_or(0) + 1);
            request.last_log_id = request.last_log_id.max(Some(at));
        }
        Ok(request)
    }

    async fn renew(&self, id: i64, term: u64) -> Result<Option<i64>, Error> {
        let renewed = leases::renew(&self.leases, &self.queue, Some(&self.barrier), id, term).await;
        if self.leads() == Some(term) { renewed } else { Err(Error::NoLeader) }
    }

    /// The term in which this member leads.
    fn leads(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        (now.state == ServerState::Leader).then_some(now.current_term)
    }

    /// Whether this member leads for certain and does not count that one among the members.
    fn has_removed(&self, id: u64) -> bool {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let recent = now.last_quorum_acked.is_some_and(|at| at.elapsed() < self.roster.timing.stall);
        let alone = now.membership_config.voter_ids().count() == 1;
        now.state == ServerState::Leader
            && (recent || alone)
            && now.membership_config.membership().get_node(&id).is_none()
            && now.committed_membership_config.membership().get_node(&id).is_none()
    }

    async fn read(&self) -> Result<u64, Error> {
        self.leads().ok_or(Error::NoLeader)?;
        let answer = self.barrier.join()?.await;
        answer.unwrap_or(Err(Error::Stopped))?;
        // Applied here is committed, and no older than the round.
        Ok(self.reader.applied().map_or(0, |applied| applied.index))
    }

    async fn propose(&self, body: Bytes) -> Result<(), Error> {
        let wrong = |why: String| Error::Storage(format!("a member's batch cannot be read: {why}"));
        let (leader, origin, batch) = message::propose(body).map_err(wrong)?;
        // What does not read back must not get into the log: applying it would end every member.
        Batch::decode(batch.clone()).map_err(wrong)?;
        let (done, answer) = oneshot::channel();
        let respond = Callback::new(move |result: ClientWriteResult<Types>| {
            let _ = done.send(result.map(drop));
        });
        let write = self.raft.write(Batch::forwarded(batch, origin)).responder(respond).with_leader(leader);
        write.await.map_err(|_| Error::Stopped)?;
        match answer.await {
            Ok(Ok(())) => Ok(()),
            // It has not been appended.
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => Err(Error::NoLeader),
            Ok(Err(_)) => Err(Error::LeaderChanged),
            Err(_) => Err(Error::Stopped),
        }
    }
}

fn stopped(_: &RaftError<Types>) -> Error {
    Error::Stopped
}
