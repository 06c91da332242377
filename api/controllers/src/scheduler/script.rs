//! An API server for tests that answers as it was told.

use std::collections::VecDeque;

use bytes::Bytes;
use kelson_wire::kube::{Body, BoxError, Transport, full};
use parking_lot::Mutex;
use serde_json::Value;

/// Answers with what it was given, in order, and keeps what it was asked.
pub struct Script {
    pub answers: Mutex<VecDeque<Option<(u16, Value)>>>,
    pub asked: Mutex<Vec<(String, Value)>>,
}

impl Script {
    /// Answers by code and body, in order; `None` is one that gets lost.
    pub fn new(answers: impl Into<VecDeque<Option<(u16, Value)>>>) -> Script {
        Script { answers: Mutex::new(answers.into()), asked: Mutex::default() }
    }
}

#[async_trait::async_trait]
impl Transport for Script {
    async fn call(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BoxError> {
        let asked = format!("{} {}", request.method(), request.uri().path());
        let body = serde_json::from_slice(request.body()).unwrap_or_default();
        self.asked.lock().push((asked, body));
        let answer = self.answers.lock().pop_front().expect("another answer");
        let (code, body) = answer.ok_or("the answer was lost")?;
        let mut response = http::Response::new(full(body.to_string()));
        *response.status_mut() = http::StatusCode::from_u16(code)?;
        Ok(response)
    }
}
