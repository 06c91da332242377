//! What a client sends, frame by frame (RFC 9113, sections 5 and 6).

use std::ops::ControlFlow;

use bytes::{Buf, BytesMut};
use kelson_wire::http2::frame::{self, HEAD, Head, flag, kind, setting};
use kelson_wire::http2::{MAX_WINDOW, Reason};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{ACK, Connection, GOODBYE, reset};
use super::stream::Stage;
use super::{LOCAL_RESETS, MAX_FRAME, PENDING_RESETS, STREAM_WINDOW};

/// Bytes of a packed block of headers, and frames that it may be in. What is packed is hardly ever longer than what it
/// stands for.
const MAX_BLOCK: usize = 64 << 10;
const MAX_CONTINUATIONS: usize = 128;
/// Empty frames of data in a row.
const MAX_EMPTY: usize = 1000;
/// What stands in front of headers that carry a priority.
const PRIORITY: usize = 5;

/// Headers that have come in part.
pub(super) struct Block {
    stream: u32,
    ends_stream: bool,
    itself: bool,
    frames: usize,
    bytes: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Deals with all frames that are there.
    ///
    /// # Errors
    /// Why the connection must end.
    pub(super) fn hear_frames(&mut self) -> Result<(), Reason> {
        while let Some(head) = Head::read(self.input()) {
            if head.length > MAX_FRAME {
                return Err(Reason::FrameSize);
            }
            let Some(mut payload) = self.take_input(HEAD + head.length) else { break };
            payload.advance(HEAD);
            self.hear(head, payload)?;
        }
        Ok(())
    }

    fn hear(&mut self, head: Head, payload: BytesMut) -> Result<(), Reason> {
        // A block of headers is not to be interrupted, and settings come first.
        let goes_on = self.block.as_ref().map(|block| block.stream);
        if goes_on.is_some_and(|stream| (head.kind, head.stream) != (kind::CONTINUATION, stream)) {
            return Err(Reason::Protocol);
        }
        if !self.client.known && head.kind != kind::SETTINGS {
            return Err(Reason::Protocol);
        }
        let of_connection = matches!(head.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        let of_either = head.kind == kind::WINDOW_UPDATE || head.kind > kind::CONTINUATION;
        if !of_either && of_connection != (head.stream == 0) {
            return Err(Reason::Protocol);
        }
        match head.kind {
            kind::DATA => self.data(head, payload),
            kind::HEADERS => self.headers(head, payload),
            kind::PRIORITY => self.priority(head, &payload),
            kind::RST_STREAM => self.stream_reset(head, &payload),
            kind::SETTINGS => self.settings(head, &payload),
            kind::PING => self.ping(head, &payload),
            kind::GOAWAY => {
                if payload.len() < 8 {
                    Err(Reason::FrameSize)
                } else {
                    Ok(())
                }
            }
            kind::WINDOW_UPDATE => self.window_update(head, &payload),
            kind::CONTINUATION => self.continuation(head, &payload),
            kind::PUSH_PROMISE => Err(Reason::Protocol),
            // What is unknown is passed over.
            _ => Ok(()),
        }
    }

    /// Ends a stream because of what the client did on it.
    pub(super) fn fault(&mut self, stream: u32, reason: Reason) -> Result<(), Reason> {
        self.floods.faults += 1;
        if self.floods.faults > LOCAL_RESETS {
            return Err(Reason::EnhanceYourCalm);
        }
        reset(stream, reason, self.out.frames());
        match self.streams.contains_key(&stream) {
            true => self.close(stream, true),
            false => self.recent.push(stream, true),
        }
        Ok(())
    }

    fn data(&mut self, head: Head, mut payload: BytesMut) -> Result<(), Reason> {
        self.window -= head.length as i64;
        if self.window < 0 {
            return Err(Reason::FlowControl);
        }
        if head.has(flag::PADDED) {
            let padding = frame::padding(&payload)?;
            payload.advance(1);
            payload.truncate(payload.len() - padding);
        }
        // Padding makes room at once.
        self.taken += head.length - payload.len();
        let ends = head.has(flag::END_STREAM);
        if payload.is_empty() && !ends {
            self.floods.empty += 1;
            if self.floods.empty > MAX_EMPTY {
                return Err(Reason::EnhanceYourCalm);
            }
        } else {
            self.floods.empty = 0;
        }
        let id = head.stream;
        let Some(stream) = self.streams.get_mut(&id) else {
            self.taken += payload.len();
            return match self.recent.find(id) {
                _ if id > self.newest => Err(Reason::Protocol),
                // It was on its way.
                Some(true) => Ok(()),
                _ => self.fault(id, Reason::StreamClosed),
            };
        };
        stream.window -= head.length as i64;
        let wrong = if !stream.open {
            Some(Reason::StreamClosed)
        } else if stream.window < 0 {
            Some(Reason::FlowControl)
        } else {
            stream.length = stream.length.map(|left| left.wrapping_sub(payload.len() as u64));
            let mismatch = stream.length.is_some_and(|left| left > i64::MAX as u64 || (ends && left > 0));
            mismatch.then_some(Reason::Protocol)
        };
        if let Some(reason) = wrong {
            self.taken += payload.len();
            return self.fault(id, reason);
        }
        stream.open = !ends;
        let length = payload.len();
        match &mut stream.stage {
            Stage::Gathering(_) => self.gather(id, payload.freeze(), head.length, ends),
            Stage::Routed { inbound: Some(inbound), .. } => {
                if length > 0 {
                    inbound.push(payload.freeze());
                }
                if ends {
                    inbound.end(None, Ok(()));
                }
            }
            // It is answered already.
            _ => self.taken += length,
        }
        Ok(())
    }

    /// Tells the client of the room on a stream that was made by reading what came of it.
    pub(super) fn widen(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Stage::Routed { inbound: Some(inbound), .. } = &stream.stage {
            stream.taken += inbound.take_read();
        }
        if stream.open && stream.taken >= STREAM_WINDOW as usize / 2 {
            let taken = std::mem::take(&mut stream.taken);
            stream.window += taken as i64;
            frame::short(kind::WINDOW_UPDATE, 0, id, (taken as u32).to_be_bytes(), self.out.frames());
        }
    }

    fn headers(&mut self, head: Head, mut payload: BytesMut) -> Result<(), Reason> {
        if head.has(flag::PADDED) {
            let padding = frame::padding(&payload)?;
            payload.advance(1);
            payload.truncate(payload.len() - padding);
        }
        let mut itself = false;
        if head.has(flag::PRIORITY) {
            itself = depends_on(&payload).ok_or(Reason::FrameSize)? == head.stream;
            payload.advance(PRIORITY);
        }
        let ends_stream = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(head.stream, ends_stream, itself, &payload);
        }
        self.block = Some(Block { stream: head.stream, ends_stream, itself, frames: 0, bytes: payload.to_vec() });
        Ok(())
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let mut block = self.block.take().ok_or(Reason::Protocol)?;
        block.frames += 1;
        block.bytes.extend_from_slice(payload);
        if block.frames > MAX_CONTINUATIONS || block.bytes.len() > MAX_BLOCK {
            return Err(Reason::EnhanceYourCalm);
        }
        if head.has(flag::END_HEADERS) {
            return self.block(block.stream, block.ends_stream, block.itself, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    /// Deals with a whole block of headers.
    fn block(&mut self, id: u32, ends: bool, itself: bool, block: &[u8]) -> Result<(), Reason> {
        self.fields.clear();
        let fields = &mut self.fields;
        self.decoder.decode(block, |name, value| fields.push(name, value)).map_err(|_| Reason::Compression)?;
        if self.streams.contains_key(&id) {
            return self.trailers(id, ends);
        }
        if id.is_multiple_of(2) {
            return Err(Reason::Protocol);
        }
        if id <= self.newest {
            return match self.recent.find(id) {
                Some(true) => Ok(()),
                Some(false) => Err(Reason::StreamClosed),
                None => Err(Reason::Protocol),
            };
        }
        self.newest = id;
        let most = self.shared.router.context().options.max_streams_per_connection as usize;
        if self.last || self.streams.len() >= most {
            return self.fault(id, Reason::Refused);
        }
        if itself {
            return self.fault(id, Reason::Protocol);
        }
        match self.open(id, ends) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(reason) => self.fault(id, reason),
        }
    }

    fn trailers(&mut self, id: u32, ends: bool) -> Result<(), Reason> {
        let trailers = self.fields.trailers();
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if !stream.open {
            return self.fault(id, Reason::StreamClosed);
        }
        let Some(trailers) = trailers.ok().filter(|_| ends && stream.length.is_none_or(|left| left == 0)) else {
            return self.fault(id, Reason::Protocol);
        };
        stream.open = false;
        match &mut stream.stage {
            Stage::Gathering(_) => self.gather(id, bytes::Bytes::new(), 0, true),
            Stage::Routed { inbound: Some(inbound), .. } => inbound.end(Some(trailers), Ok(())),
            _ => {}
        }
        Ok(())
    }

    /// Priorities are passed over (RFC 9113, section 5.3), but they must be some.
    fn priority(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        match depends_on(payload) {
            _ if payload.len() != PRIORITY => self.fault(head.stream, Reason::FrameSize),
            Some(on) if on == head.stream => self.fault(head.stream, Reason::Protocol),
            _ => Ok(()),
        }
    }

    fn stream_reset(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if payload.len() != 4 {
            return Err(Reason::FrameSize);
        }
        if head.stream > self.newest {
            return Err(Reason::Protocol);
        }
        if self.streams.contains_key(&head.stream) {
            self.close(head.stream, true);
            // One of this turn was never looked at.
            self.floods.resets += usize::from(head.stream > self.turn);
            if self.floods.resets > PENDING_RESETS {
                return Err(Reason::EnhanceYourCalm);
            }
        }
        Ok(())
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if head.has(ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Reason::FrameSize) };
        }
        let (settings, []) = payload.as_chunks::<6>() else { return Err(Reason::FrameSize) };
        self.client.known = true;
        for [a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                setting::HEADER_TABLE_SIZE => self.heads.resize(value),
                setting::ENABLE_PUSH if value > 1 => return Err(Reason::Protocol),
                setting::INITIAL_WINDOW_SIZE => self.resize_windows(value)?,
                setting::MAX_FRAME_SIZE if !(16 << 10..1 << 24).contains(&value) => return Err(Reason::Protocol),
                setting::MAX_FRAME_SIZE => self.client.frame = (value as usize).min(MAX_FRAME),
                _ => {}
            }
        }
        frame::short(kind::SETTINGS, ACK, 0, [], self.out.frames());
        Ok(())
    }

    fn resize_windows(&mut self, window: u32) -> Result<(), Reason> {
        if window > MAX_WINDOW {
            return Err(Reason::FlowControl);
        }
        let difference = i64::from(window) - i64::from(self.client.window);
        self.client.window = window;
        for stream in self.streams.values_mut() {
            stream.room += difference;
            if stream.room > i64::from(MAX_WINDOW) {
                return Err(Reason::FlowControl);
            }
        }
        if difference > 0 {
            let waiting: Vec<u32> =
                self.streams.iter().filter(|(_, stream)| !stream.waiting.is_empty()).map(|(id, _)| *id).collect();
            waiting.into_iter().for_each(|id| self.pump(id));
        }
        Ok(())
    }

    fn ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let payload: [u8; 8] = payload.try_into().map_err(|_| Reason::FrameSize)?;
        if !head.has(ACK) {
            frame::short(kind::PING, ACK, 0, payload, self.out.frames());
        } else if payload == GOODBYE {
            // It knows: what it opens from now on is not served.
            self.last = true;
            self.goaway(self.newest, Reason::NoError);
        }
        Ok(())
    }

    fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let more: [u8; 4] = payload.try_into().map_err(|_| Reason::FrameSize)?;
        let more = u32::from_be_bytes(more) & MAX_WINDOW;
        if head.stream == 0 {
            self.room += i64::from(more);
            if more == 0 {
                return Err(Reason::Protocol);
            }
            if self.room > i64::from(MAX_WINDOW) {
                return Err(Reason::FlowControl);
            }
            while self.room > 0
                && let Some(next) = self.line.pop_front()
            {
                if let Some(stream) = self.streams.get_mut(&next) {
                    stream.in_line = false;
                    self.pump(next);
                }
            }
            return Ok(());
        }
        let Some(stream) = self.streams.get_mut(&head.stream) else {
            return if head.stream > self.newest { Err(Reason::Protocol) } else { Ok(()) };
        };
        stream.room += i64::from(more);
        if more == 0 {
            return self.fault(head.stream, Reason::Protocol);
        }
        if stream.room > i64::from(MAX_WINDOW) {
            return self.fault(head.stream, Reason::FlowControl);
        }
        self.pump(head.stream);
        Ok(())
    }
}

/// The stream that a priority names.
fn depends_on(payload: &[u8]) -> Option<u32> {
    let (on, _) = payload.get(..PRIORITY)?.split_first_chunk::<4>()?;
    Some(u32::from_be_bytes(*on) & MAX_WINDOW)
}
