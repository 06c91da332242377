//! The client that tells a story's lines over HTTP/1.1, each on a connection of its own.

use std::collections::HashMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::mask;
use crate::harness::within;
use crate::poll;

pub struct Client {
    address: String,
    member: String,
    waiting: HashMap<String, JoinHandle<String>>,
    streams: HashMap<String, Lines>,
}

/// A stream's answer, line by line; hangs up when dropped.
struct Lines {
    connection: JoinHandle<()>,
    body: Incoming,
    held: String,
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Makes one request; the connection lives as long as the task.
async fn send(address: &str, method: &str, path: &str, body: &str) -> (Response<Incoming>, JoinHandle<()>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "etcd")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap();
    (sender.send_request(request).await.unwrap(), connection)
}

async fn ask(address: &str, line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let (response, connection) = send(address, method, path, words.next().unwrap_or_default()).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    connection.abort();
    let body = mask::masked(std::str::from_utf8(&body).unwrap());
    format!("{status} {body}").trim_end().to_owned()
}

impl Client {
    pub async fn new(address: &str) -> Self {
        let mut client = Self {
            address: address.to_owned(),
            member: String::new(),
            waiting: HashMap::new(),
            streams: HashMap::new(),
        };
        // A real etcd listens before it can serve.
        client.member = poll::until("the member's id", async || {
            let (response, connection) = send(address, "POST", "/v3/maintenance/status", "{}").await;
            let body = response.into_body().collect().await.unwrap().to_bytes();
            connection.abort();
            let status: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            status["leader"].as_str()?;
            // It also serves before it knows the cluster's version.
            if ask(address, "GET /version").await.contains("not_decided") {
                return None;
            }
            status["header"]["member_id"].as_str().map(str::to_owned)
        })
        .await;
        client
    }

    fn filled(&self, line: &str) -> String {
        let line = line.replace("$member", &self.member);
        let mut filled = String::new();
        let mut rest = line.as_str();
        while let Some((before, after)) = rest.split_once("b64(") {
            let (text, after) = after.split_once(')').expect("a closing bracket");
            filled.push_str(before);
            filled.push_str(&BASE64_STANDARD.encode(
                text.strip_prefix('*').map_or_else(|| text.to_owned(), |length| "x".repeat(length.parse().unwrap())),
            ));
            rest = after;
        }
        filled + rest
    }

    pub async fn say(&mut self, line: &str) -> Vec<String> {
        let line = self.filled(line);
        let (first, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let (name, request) = rest.split_once(' ').unwrap_or((rest, ""));
        match first {
            "begin" => {
                let (address, request) = (self.address.clone(), request.to_owned());
                let task = tokio::spawn(async move { ask(&address, &request).await });
                self.waiting.insert(name.to_owned(), task);
                Vec::new()
            }
            "wait" => {
                let task = self.waiting.remove(name).expect("a request that was begun");
                vec![within("an answer", task).await.unwrap()]
            }
            "open" => {
                let mut words = request.splitn(3, ' ');
                let (method, path) = (words.next().unwrap(), words.next().unwrap());
                let sent = send(&self.address, method, path, words.next().unwrap_or_default());
                let (response, connection) = within("a stream", sent).await;
                assert_eq!(response.status(), 200);
                let lines = Lines { connection, body: response.into_body(), held: String::new() };
                self.streams.insert(name.to_owned(), lines);
                Vec::new()
            }
            "read" => {
                let lines = self.streams.get_mut(name).expect("an open stream");
                let mut read = Vec::new();
                for _ in 0..request.parse().unwrap() {
                    read.push(within("a line", lines.next()).await);
                }
                read
            }
            "close" => {
                // A request that is not waited for any more ends as a stream does.
                if let Some(task) = self.waiting.remove(name) {
                    task.abort();
                }
                self.streams.remove(name);
                Vec::new()
            }
            "until" => {
                let (body, text) = request.split_once(" => ").expect("what to wait for");
                let (address, request) = (&self.address, format!("POST {name} {body}"));
                let (wanted, text) = text.strip_prefix("no ").map_or((true, text), |text| (false, text));
                let fits = |answer: &String| answer.contains(text) == wanted;
                let answers = async || Some(ask(address, &request).await).filter(fits);
                vec![poll::until("the answer", answers).await]
            }
            _ => vec![within("an answer", ask(&self.address, &line)).await],
        }
    }
}

impl Lines {
    async fn next(&mut self) -> String {
        loop {
            if let Some((line, rest)) = self.held.split_once('\n') {
                let (line, rest) = (mask::masked(line), rest.to_owned());
                self.held = rest;
                return line;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.held.push_str(std::str::from_utf8(&data).unwrap());
                }
                _ => return "the end".to_owned(),
            }
        }
    }
}
