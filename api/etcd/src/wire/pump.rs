//! Everything that is not answered in the connection's own task: a task for each stream, and the services of tonic, the
//! gateway or plain HTTP behind it.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Request, Response};
use http_body::Body;

use super::Shared;
use super::piece::Piece;
use crate::call::Source;

/// Answers one request, unless its client gives it up.
pub(super) async fn serve(shared: Arc<Shared>, request: Request<Source>, mut respond: SendResponse<Piece>) {
    let response = {
        let mut answering = pin!(shared.router.route(shared.serves, request));
        let answer = std::future::poll_fn(|task| match answering.as_mut().poll(task) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => respond.poll_reset(task).map(|_| None),
        });
        match answer.await {
            Some(response) => response,
            None => return,
        }
    };
    let (head, body) = response.into_parts();
    let mut head = Response::from_parts(head, ());
    let ended = body.is_end_stream();
    if let Some(length) = body.size_hint().exact().filter(|_| !ended) {
        head.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    match respond.send_response(head, ended) {
        Ok(stream) if !ended => send(stream, body).await,
        Ok(_) => {}
        Err(error) => tracing::debug!("an answer could not be sent: {error}"),
    }
}

/// Sends a body as fast as the client takes it: what is next is asked for only when what was before it has gone.
pub(super) async fn send<B>(mut stream: SendStream<Piece>, body: B)
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body);
    // A piece that waits for room. None is reserved before it is there: what one stream reserves others cannot have.
    let mut waiting: Option<Bytes> = None;
    std::future::poll_fn(|task| {
        loop {
            if stream.poll_reset(task).is_ready() {
                return Poll::Ready(());
            }
            let sent = if waiting.is_some() {
                while stream.capacity() == 0 {
                    match ready!(stream.poll_capacity(task)) {
                        Some(Ok(_)) => {}
                        // The stream is no more.
                        Some(Err(_)) | None => return Poll::Ready(()),
                    }
                }
                let ended = body.is_end_stream();
                match stream.send_data(waiting.take().unwrap_or_default().into(), ended) {
                    Ok(()) if !ended => continue,
                    sent => sent,
                }
            } else {
                match ready!(body.as_mut().poll_frame(task)) {
                    None => stream.send_data(Bytes::new().into(), true),
                    Some(Err(_)) => {
                        stream.send_reset(Reason::INTERNAL_ERROR);
                        return Poll::Ready(());
                    }
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) if data.is_empty() && !body.is_end_stream() => continue,
                        Ok(data) if data.is_empty() => stream.send_data(data.into(), true),
                        Ok(data) => {
                            stream.reserve_capacity(1);
                            waiting = Some(data);
                            continue;
                        }
                        Err(frame) => {
                            stream.reserve_capacity(0);
                            stream.send_trailers(frame.into_trailers().unwrap_or_default())
                        }
                    },
                }
            };
            if let Err(error) = sent {
                tracing::debug!("an answer could not be sent: {error}");
            }
            return Poll::Ready(());
        }
    })
    .await
}
