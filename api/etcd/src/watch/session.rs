//! One stream of the Watch service: the watches on it, and what it says next.

use std::borrow::Cow;
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use http_body::Frame;
use kelson_engine::auth::AuthListener;
use kelson_engine::command::KeyRange;
use kelson_engine::{Encoded, Event, WatchPoll, WatchSpec, Watcher};
use kelson_wire::pb::etcdserverpb::watch_create_request::FilterType;
use kelson_wire::pb::etcdserverpb::watch_request::RequestUnion;
use kelson_wire::pb::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use rustc_hash::FxHashMap;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::answers::{self, Answers, TooLarge};
use super::ready::{Bell, Ready};
use crate::auth::{Caller, Holder};
use crate::batch::BatchSize;
use crate::context::{Context, LeaderLost};
use crate::refusal;

/// Says that an answer is for no watch in particular.
const NO_WATCH: i64 = -1;

/// Requests taken in, and watches polled, before others on this thread have their turn.
const REQUESTS: usize = 16;
const POLLS: usize = 256;

/// One watch.
struct Watch {
    watcher: Watcher,
    bell: Arc<Bell>,
    waker: Waker,
    size: BatchSize,
    /// Who asked for it.
    holder: Holder,
    fragment: bool,
    progress_notify: bool,
    /// Something was sent since the last tick of the progress clock.
    sent: bool,
    /// It had something to tell when it was last asked.
    behind: bool,
}

pub(super) struct Session {
    context: Arc<Context>,
    caller: Caller,
    /// Told when users or roles change, and by whom it was last asked to wake.
    listener: AuthListener,
    listening: Option<Waker>,
    /// The auth state that the watches were last checked against.
    auth: u64,
    /// `None` once the client has said all. The watches live on.
    requests: Option<Streaming<WatchRequest>>,
    /// By id. Clients choose ids, but only for themselves: who makes them collide slows its own stream down.
    watches: FxHashMap<i64, Watch>,
    /// Ids of watches that ended because their start was compacted. As with etcd, they are not free until the client
    /// cancels them; they count as watches, so there is a bound.
    compacted: HashSet<i64>,
    next_id: i64,
    ready: Arc<Ready>,
    /// Answers to send; bounded, because it is emptied before more is taken in.
    out: Answers,
    /// A message that could not be sent, which ends the stream.
    too_large: Option<TooLarge>,
    /// Progress was asked for: answered when every watch has told everything up to this revision.
    progress_wanted: Option<i64>,
    /// Watches polled since the last look whether that is so.
    polls: usize,
    progress_clock: Option<Pin<Box<Sleep>>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ends when there is no leader, where the client wants to know.
    lost: LeaderLost,
    /// How the stream ends, once all that was said before is sent.
    end: Option<Status>,
    ended: bool,
}

impl Session {
    pub(super) fn new(
        context: Arc<Context>,
        caller: Caller,
        requests: Streaming<WatchRequest>,
        lost: LeaderLost,
    ) -> Self {
        let counters = context.metrics.counters();
        counters.watch_streams.fetch_add(1, Relaxed);
        let stopping = Box::pin(context.shutdown.clone().cancelled_owned());
        let reader = context.node.reader();
        let (listener, auth) = (reader.auth_listener(), reader.auth_stamp());
        Self {
            context,
            caller,
            listener,
            listening: None,
            auth,
            requests: Some(requests),
            watches: FxHashMap::default(),
            compacted: HashSet::new(),
            next_id: 0,
            ready: Arc::default(),
            out: Answers::default(),
            too_large: None,
            progress_wanted: None,
            polls: 0,
            progress_clock: None,
            stopping,
            lost,
            end: None,
            ended: false,
        }
    }

    fn revision(&self) -> i64 {
        self.context.node.reader().revision()
    }

    fn say(&mut self, revision: i64, watch_id: i64, response: WatchResponse) {
        let response = WatchResponse { header: self.context.header(revision), watch_id, ..response };
        let said = self.out.push(&response, &[]);
        self.too_large = said.err().or(self.too_large.take());
    }

    /// Tells events to a watch.
    fn say_events(&mut self, revision: i64, watch_id: i64, fragment: bool, events: &Encoded) {
        let header = self.context.header(revision);
        let mut response = WatchResponse { header, watch_id, ..Default::default() };
        let said = if fragment {
            // What is larger than a message may be is split; all parts but the last say that more follows.
            let mut parts = answers::parts(events, self.context.options.max_message_bytes()).peekable();
            std::iter::from_fn(|| parts.next().map(|part| (part, parts.peek().is_some()))).try_for_each(
                |(part, more)| {
                    response.fragment = more;
                    self.out.push(&response, part)
                },
            )
        } else {
            self.out.push(&response, &events.bytes)
        };
        self.too_large = said.err().or(self.too_large.take());
    }

    fn take_in(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => match self.create(create) {
                Ok((id, revision)) => self.say(revision, id, WatchResponse { created: true, ..Default::default() }),
                Err(reason) => {
                    let refused = WatchResponse {
                        created: true,
                        canceled: true,
                        cancel_reason: reason.into_owned(),
                        ..Default::default()
                    };
                    self.say(self.revision(), NO_WATCH, refused);
                }
            },
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => {
                // One answer is enough for several requests: it tells as much as theirs would.
                self.progress_wanted = Some(self.revision());
            }
            // A request of a kind that came after this server; as etcd does, the stream goes on.
            None => {}
        }
    }

    /// Ends a watch at the client's wish; an id that is not in use gets no answer.
    fn cancel(&mut self, id: i64) {
        if self.remove(id) || self.compacted.remove(&id) {
            self.say(self.revision(), id, WatchResponse { canceled: true, ..Default::default() });
        }
    }

    /// Starts a watch; returns its id and the revision up to which it will tell nothing.
    fn create(&mut self, request: WatchCreateRequest) -> Result<(i64, i64), Cow<'static, str>> {
        if request.start_revision < 0 {
            return Err(refusal::COMPACTED.into());
        }
        let start = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key };
        let range = KeyRange { start, end: request.range_end };
        let holder = self.permitted(&range)?;
        let KeyRange { start, end } = range;
        if !end.is_empty() && end != b"\0"[..] && start >= end {
            return Err(refusal::EMPTY_RANGE.into());
        }
        if self.watches.len() + self.compacted.len() >= self.context.options.max_watches_per_stream {
            return Err(refusal::TOO_MANY_REQUESTS.into());
        }
        let id = self.choose_id(request.watch_id)?;
        let filtered = |filter: FilterType| request.filters.contains(&filter.into());
        let watcher = self.context.node.reader().watch(WatchSpec {
            range: KeyRange { start, end },
            start_revision: request.start_revision,
            no_put: filtered(FilterType::Noput),
            no_delete: filtered(FilterType::Nodelete),
            prev_kv: request.prev_kv,
        });
        // Clients resume from behind this revision, so it must not be beyond what the watch leaves out.
        let revision = if request.start_revision == 0 { watcher.progress() } else { self.revision() };
        let bell = Bell::new(id, self.ready.clone());
        bell.ring();
        let waker = Waker::from(bell.clone());
        let watch = Watch {
            watcher,
            bell,
            waker,
            size: BatchSize::default(),
            holder,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            sent: false,
            behind: false,
        };
        self.watches.insert(id, watch);
        self.context.metrics.counters().watchers.fetch_add(1, Relaxed);
        if request.progress_notify && self.progress_clock.is_none() {
            self.progress_clock = Some(Box::pin(tokio::time::sleep(self.progress_interval())));
        }
        Ok((id, revision))
    }

    /// Whether the caller may watch the range at present.
    fn permitted(&self, range: &KeyRange) -> Result<Holder, String> {
        let asker = self.context.identify_now(&self.caller).map_err(|status| go_error(&status))?;
        let checked = self.context.node.reader().auth().check_read(&asker, range);
        checked.map_err(|refusal| go_error(&refusal::of_auth(refusal)))?;
        Ok(self.context.holder(self.caller.clone()))
    }

    /// Ends the watches that are not permitted any more, if the auth state has changed since the last look.
    fn check_auth(&mut self) {
        let stamp = self.context.node.reader().auth_stamp();
        if stamp == self.auth {
            return;
        }
        self.auth = stamp;
        let check = |(id, watch): (&i64, &Watch)| {
            let refused = watch.holder.check_read(&self.context, &watch.watcher.spec().range).err()?;
            Some((*id, go_error(&refused)))
        };
        let refused: Vec<_> = self.watches.iter().filter_map(check).collect();
        for (id, cancel_reason) in refused {
            self.remove(id);
            let canceled = WatchResponse { canceled: true, cancel_reason, ..Default::default() };
            self.say(self.revision(), id, canceled);
        }
    }

    fn choose_id(&mut self, asked: i64) -> Result<i64, Cow<'static, str>> {
        if asked != 0 {
            return if self.is_taken(asked) { Err(refusal::DUPLICATE_WATCH.into()) } else { Ok(asked) };
        }
        while self.is_taken(self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        Ok(id)
    }

    fn is_taken(&self, id: i64) -> bool {
        self.watches.contains_key(&id) || self.compacted.contains(&id)
    }

    fn remove(&mut self, id: i64) -> bool {
        let Some(watch) = self.watches.remove(&id) else { return false };
        let counters = self.context.metrics.counters();
        counters.watchers.fetch_sub(1, Relaxed);
        counters.slow_watchers.fetch_sub(watch.behind.into(), Relaxed);
        true
    }

    /// The interval with up to a tenth more, so that streams that began together do not speak together.
    fn progress_interval(&self) -> Duration {
        let interval = self.context.options.progress_notify_interval;
        interval + interval.mul_f64(rand::random_range(0.0..0.1))
    }

    /// Tells the quiet watches that asked for it where they stand.
    fn tick(&mut self) {
        let mut quiet = Vec::new();
        for (id, watch) in &mut self.watches {
            let told = watch.watcher.progress();
            // A watch that begins in the future has no progress to tell: a client would resume from too early.
            if watch.progress_notify && !watch.sent && watch.watcher.spec().start_revision <= told {
                quiet.push((*id, told));
            }
            watch.sent = false;
        }
        for (id, told) in quiet {
            self.say(told, id, WatchResponse::default());
        }
    }

    /// Polls one watch that was woken, and once more where it told something: most have nothing more then, and sleep
    /// again without another turn.
    fn poll_watch(&mut self, id: i64) {
        // One that was canceled meanwhile is gone.
        let Some(watch) = self.watches.get_mut(&id) else { return };
        watch.bell.taken();
        if self.poll_once(id) && (self.out.is_full() || self.poll_once(id)) {
            // There may be more; it has its turn after the others.
            if let Some(watch) = self.watches.get(&id) {
                watch.bell.ring();
            }
        }
    }

    /// Polls a watch; whether it has told something.
    fn poll_once(&mut self, id: i64) -> bool {
        let Some(watch) = self.watches.get_mut(&id) else { return false };
        let mut task = Task::from_waker(&watch.waker);
        match watch.watcher.poll(&mut task, watch.size.most()) {
            WatchPoll::Events { events, revision } => {
                // A permission that was taken away before these were written is seen to be gone by now.
                if self.context.node.reader().auth_stamp() != self.auth {
                    self.check_auth();
                }
                let Some(watch) = self.watches.get_mut(&id) else { return false };
                watch.size.seen(&events);
                watch.sent = true;
                let fragment = watch.fragment;
                // Until it is found to have nothing more to tell; one whose client does not read is not asked.
                let was_behind = std::mem::replace(&mut watch.behind, true);
                let counters = self.context.metrics.counters();
                counters.slow_watchers.fetch_add(u64::from(!was_behind), Relaxed);
                counters.events.fetch_add(events.len() as u64, Relaxed);
                // What is compacted is told by nobody, even while it can still be found.
                let prev_kv = watch.watcher.spec().prev_kv;
                let previous_after = prev_kv.then(|| self.context.node.reader().compacted_revision());
                let encode = |events: &[Arc<Event>]| answers::encode(events, previous_after);
                events.encoded(previous_after, encode, |events| self.say_events(revision, id, fragment, events));
                return true;
            }
            WatchPoll::Idle { .. } => {
                let was_behind = std::mem::replace(&mut watch.behind, false);
                self.context.metrics.counters().slow_watchers.fetch_sub(u64::from(was_behind), Relaxed);
            }
            WatchPoll::Compacted { compact_revision } => {
                self.remove(id);
                self.compacted.insert(id);
                let canceled = WatchResponse { canceled: true, compact_revision, ..Default::default() };
                // etcd tells no revision here.
                self.say(0, id, canceled);
            }
            WatchPoll::Failed(error) => {
                tracing::error!("a watch has failed: {error}");
                self.remove(id);
                let cancel_reason = error.to_string();
                let canceled = WatchResponse { canceled: true, cancel_reason, ..Default::default() };
                self.say(self.revision(), id, canceled);
            }
        }
        false
    }

    /// Answers a request for progress if every watch has told everything up to it.
    fn check_progress(&mut self) {
        self.polls = 0;
        let Some(wanted) = self.progress_wanted else { return };
        if self.watches.is_empty() {
            // Progress is that of watches; as etcd does, say nothing where there is none.
            self.progress_wanted = None;
            return;
        }
        let mut reached = self.revision();
        for watch in self.watches.values() {
            if watch.watcher.spec().start_revision > reached {
                // There is nothing to say that would not mislead this watch; as etcd does, say nothing.
                self.progress_wanted = None;
                return;
            }
        }
        for watch in self.watches.values() {
            let told = watch.watcher.progress();
            if told < wanted {
                watch.bell.ring();
            }
            reached = reached.min(told);
        }
        if reached >= wanted {
            self.progress_wanted = None;
            self.say(reached, NO_WATCH, WatchResponse::default());
        }
    }

    /// Takes requests in; an error ends the stream.
    fn poll_requests(&mut self, task: &mut Task<'_>) -> Result<(), Status> {
        for _ in 0..REQUESTS {
            let Some(requests) = &mut self.requests else { return Ok(()) };
            match Pin::new(requests).poll_next(task) {
                Poll::Ready(Some(Ok(request))) => self.take_in(request),
                Poll::Ready(Some(Err(status))) => return Err(refusal::of_wire(status)),
                Poll::Ready(None) => self.requests = None,
                Poll::Pending => return Ok(()),
            }
        }
        // There may be more, after what is said to these.
        task.waker().wake_by_ref();
        Ok(())
    }

    fn poll_clock(&mut self, task: &mut Task<'_>) {
        let interval = self.progress_interval();
        let Some(clock) = &mut self.progress_clock else { return };
        if clock.as_mut().poll(task).is_ready() {
            clock.as_mut().reset(Instant::now() + interval);
            // Armed anew: a clock that was not polled wakes nobody.
            if clock.as_mut().poll(task).is_ready() {
                task.waker().wake_by_ref();
            }
            self.tick();
        }
    }

    /// Has the stream woken when users or roles change, and looks whether they have.
    fn listen(&mut self, waker: &Waker) {
        if self.listening.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            self.listener.register(waker);
            self.listening = Some(waker.clone());
        }
        self.check_auth();
    }

    /// Does what there is to do, until there is enough to send or nothing more to do.
    ///
    /// # Errors
    /// How the stream ends.
    fn work(&mut self, task: &mut Task<'_>) -> Result<(), Status> {
        if self.stopping.as_mut().poll(task).is_ready() {
            return Err(Status::unavailable(refusal::STOPPED));
        }
        if self.lost.as_mut().poll(task).is_ready() {
            return Err(Status::unavailable(refusal::NO_LEADER));
        }
        self.poll_requests(task)?;
        self.poll_clock(task);
        for _ in 0..POLLS {
            if let Some(TooLarge(length)) = self.too_large.take() {
                let text = format!("trying to send message larger than max ({length} vs. {})", i32::MAX);
                return Err(Status::resource_exhausted(text));
            }
            if self.out.is_full() {
                return Ok(());
            }
            match self.ready.pop() {
                Some(id) => {
                    self.poll_watch(id);
                    self.polls += 1;
                    // Where some watch always has something to tell, progress must still be noticed.
                    if self.polls > self.watches.len() {
                        self.check_progress();
                    }
                }
                None => {
                    self.check_progress();
                    if self.progress_wanted.is_none() {
                        return Ok(());
                    }
                }
            }
        }
        task.waker().wake_by_ref();
        Ok(())
    }
}

impl http_body::Body for Session {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.end.is_none() && !this.ended {
            this.ready.register(task.waker());
            this.listen(task.waker());
            this.end = this.work(task).err();
        }
        if let Some(piece) = this.out.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let Some(end) = this.end.take() else { return Poll::Pending };
        this.ended = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(end.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let counters = self.context.metrics.counters();
        counters.watch_streams.fetch_sub(1, Relaxed);
        counters.watchers.fetch_sub(self.watches.len() as u64, Relaxed);
        let behind = self.watches.values().filter(|watch| watch.behind).count();
        counters.slow_watchers.fetch_sub(behind as u64, Relaxed);
    }
}

/// A status as Go's gRPC library writes an error: etcd puts these into the answers of watches, and clients look for
/// them there.
fn go_error(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}
