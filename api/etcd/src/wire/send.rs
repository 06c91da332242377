//! What a client is sent: answers, as far as its windows go, and how streams end.

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http_body::{Body as _, Frame};
use kelson_wire::http2::Reason;
use kelson_wire::http2::frame::{Head, flag, kind};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tonic::{Code, Status};

use super::connection::{BODY_MOST, Connection, reset};
use super::reply::{self, Reply};
use super::stream::{End, Stage, Stream};
use super::task::{Task, Work};
use crate::call::{PREFIX, Sent};
use crate::metrics;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Ends a stream and drops what is done for it. `reset`: frames of the client may still come.
    pub(super) fn close(&mut self, id: u32, reset: bool) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.owed -= stream.owed();
        if let Stage::Gathering(call) = &stream.stage {
            self.partial -= call.gather.held();
        }
        self.recent.push(id, reset);
        give_up(stream);
    }

    /// Ends a stream of which everything is sent.
    fn finish(&mut self, id: u32) {
        let open = self.streams.get(&id).is_some_and(|stream| stream.open);
        if open {
            // The client need not say the rest.
            reset(id, Reason::NoError, self.out.frames());
        }
        self.close(id, open);
    }

    /// Sends what the windows take of a stream's answer.
    pub(super) fn pump(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let hot = matches!(stream.stage, Stage::Sending);
        let bare = matches!(stream.end, Some(End::Bare));
        while let Some(front) = stream.waiting.front_mut() {
            let room = stream.room.min(self.room).max(0) as usize;
            let length = front.len().min(room).min(self.client.frame);
            if length == 0 && !front.is_empty() {
                if stream.room > 0 && !stream.in_line {
                    stream.in_line = true;
                    self.line.push_back(id);
                }
                return;
            }
            let part = front.split_to(length);
            if front.is_empty() {
                stream.waiting.pop_front();
            }
            let ended = bare && stream.waiting.is_empty();
            let flags = if ended { flag::END_STREAM } else { 0 };
            self.out.frames().extend(Head { length, kind: kind::DATA, flags, stream: id }.bytes());
            self.out.piece(part);
            stream.room -= length as i64;
            self.room -= length as i64;
            if hot {
                self.owed -= length;
            }
            if ended {
                return self.finish(id);
            }
        }
        match stream.end.take() {
            None => return self.read_on(id),
            Some(End::Good) => self.heads.end(id, self.out.frames()),
            Some(End::Trailers(trailers)) => {
                self.heads.any(id, None, &trailers, true, self.client.frame, self.out.frames());
            }
            Some(End::Bare) => {
                self.out
                    .frames()
                    .extend(Head { length: 0, kind: kind::DATA, flags: flag::END_STREAM, stream: id }.bytes());
            }
        }
        self.finish(id);
    }

    /// Asks a body for its next piece, when there is room for it.
    pub(super) fn read_on(&mut self, id: u32) {
        let Some(Stream { stage: Stage::Routed { body, abort, .. }, waiting, .. }) = self.streams.get_mut(&id) else {
            return;
        };
        if !waiting.is_empty() {
            return;
        }
        if self.out.waiting() >= BODY_MOST {
            return self.stalled.push(id);
        }
        if let Some(body) = body.take() {
            let (task, handle) = Task::new(id, Work::Reading(Some(body)));
            *abort = Some(handle);
            self.tasks.push(task);
        }
    }

    /// Answers with a message, which nearly always goes out whole and at once.
    pub(super) fn answer_message(&mut self, id: u32, message: &impl Message, metered: metrics::Call) {
        let Some(stream) = self.streams.get(&id) else { return };
        let length = PREFIX + message.encoded_len();
        if length > self.client.frame || length as i64 > stream.room.min(self.room) {
            return self.answer(id, Ok(reply::whole(message)), metered, None);
        }
        self.room -= length as i64;
        let out = self.out.frames();
        self.heads.good(id, out);
        out.extend(Head { length, kind: kind::DATA, flags: 0, stream: id }.bytes());
        reply::put(message, length - PREFIX, out);
        self.heads.end(id, out);
        metered.sent(1, (length - PREFIX) as u64);
        metered.ended_with(Code::Ok);
        self.finish(id);
    }

    /// Answers a hot call.
    pub(super) fn answer(
        &mut self,
        id: u32,
        answer: Result<Reply, Status>,
        metered: metrics::Call,
        deadline: Option<tokio::time::Instant>,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let pieces = match answer {
            Err(status) => {
                metered.ended_with(status.code());
                let (head, ()) = reply::failure(status).into_parts();
                self.heads.any(id, Some(head.status), &head.headers, true, self.client.frame, self.out.frames());
                return self.finish(id);
            }
            Ok(Reply::Body(body)) => {
                self.heads.good(id, self.out.frames());
                let body = Body::new(Sent::new(body, std::sync::Arc::new(metered), deadline));
                stream.stage = Stage::Routed { inbound: None, abort: None, body: Some(body) };
                return self.read_on(id);
            }
            Ok(Reply::Whole(whole)) => vec![whole],
            Ok(Reply::Pieces(pieces)) => pieces,
        };
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        self.owed += bytes;
        stream.stage = Stage::Sending;
        stream.waiting.extend(pieces);
        stream.end = Some(End::Good);
        self.heads.good(id, self.out.frames());
        metered.sent(1, (bytes - PREFIX) as u64);
        metered.ended_with(Code::Ok);
        self.pump(id);
    }

    /// The head of an answer of other services is there.
    pub(super) fn routed(&mut self, id: u32, response: Response<Body>) {
        let Some(Stream { stage: Stage::Routed { body: place, .. }, .. }) = self.streams.get_mut(&id) else { return };
        let (mut head, body) = response.into_parts();
        let ended = body.is_end_stream();
        if let Some(length) = body.size_hint().exact().filter(|_| !ended) {
            head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        }
        *place = Some(body);
        self.heads.any(id, Some(head.status), &head.headers, ended, self.client.frame, self.out.frames());
        if ended { self.finish(id) } else { self.read_on(id) }
    }

    /// A piece of a body is there.
    pub(super) fn piece(&mut self, id: u32, read: Body, frame: Option<Result<Frame<Bytes>, Status>>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Stage::Routed { body, .. } = &mut stream.stage else { return };
        match frame.map(|frame| frame.map(Frame::into_data)) {
            None => stream.end = Some(End::Bare),
            Some(Err(_)) => {
                reset(id, Reason::Internal, self.out.frames());
                return self.close(id, true);
            }
            Some(Ok(Ok(data))) => {
                if read.is_end_stream() {
                    stream.end = Some(End::Bare);
                } else {
                    *body = Some(read);
                }
                if !data.is_empty() {
                    stream.waiting.push_back(data);
                }
            }
            Some(Ok(Err(frame))) => stream.end = Some(End::Trailers(frame.into_trailers().unwrap_or_default())),
        }
        self.pump(id);
    }
}

/// Drops what is done for a stream that is no more.
pub(super) fn give_up(stream: Stream) {
    match stream.stage {
        Stage::Routed { inbound, abort, .. } => {
            if let Some(inbound) = inbound.filter(|_| stream.open) {
                inbound.end(None, Err(()));
            }
            abort.iter().for_each(|abort| abort.abort());
        }
        Stage::Answering { abort, .. } => abort.abort(),
        Stage::Gathering(_) | Stage::Submitted { .. } | Stage::Sending => {}
    }
}
