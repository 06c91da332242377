//! The load generator on a server of its own: a few lines of `h2` that answer as an etcd would, or do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use kelson_wire::pb::etcdserverpb::{PutResponse, ResponseHeader};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::source::Put;
use crate::{Error, Failures, Fleet, Load, Outcome, Pace, Source, Wish, frame};

const LIMIT: Duration = Duration::from_secs(20);

/// What the server does with a request, by its number.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    Answer,
    Refuse,
    /// Answers when the gate opens, or never.
    Wait,
}

struct Server {
    url: String,
    /// How many it has seen.
    requests: Arc<AtomicU64>,
    gate: Arc<Notify>,
}

/// Serves on a thread until the process ends.
fn serve(does: fn(u64) -> Does) -> Server {
    let (requests, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let (sender, receiver) = std::sync::mpsc::channel();
    let shared = (requests.clone(), gate.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(format!("http://{}", listener.local_addr().unwrap())).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let (requests, gate) = shared.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(socket).await.unwrap();
                    while let Some(Ok((_request, respond))) = connection.accept().await {
                        let does = does(requests.fetch_add(1, Ordering::Relaxed));
                        tokio::spawn(answer(respond, does, gate.clone()));
                    }
                });
            }
        });
    });
    Server { url: receiver.recv().unwrap(), requests, gate }
}

async fn answer(mut respond: SendResponse<Bytes>, does: Does, gate: Arc<Notify>) {
    if does == Does::Wait {
        tokio::select! {
            () = gate.notified() => {}
            _ = std::future::poll_fn(|context| respond.poll_reset(context)) => return,
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", if does == Does::Refuse { "8" } else { "0" }.parse().unwrap());
    trailers.insert("grpc-message", "full".parse().unwrap());
    // The client may be gone.
    if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
        let header = Some(ResponseHeader { revision: 1, ..ResponseHeader::default() });
        let _ = stream.send_data(frame(&PutResponse { header, prev_kv: None }), false);
        let _ = stream.send_trailers(trailers);
    }
}

fn load(pace: Pace) -> Load {
    Load {
        pace,
        first: 0,
        failures: Failures::Fatal,
        timeout: None,
        drop_late: false,
        window: Duration::MAX,
        deadline: LIMIT,
    }
}

fn run(url: &str, load: Load) -> Result<Outcome, Error> {
    let fleet = Fleet::connect(url, 3, 2, LIMIT)?;
    let put = Put { folder: "test", keys: 10, length: 16 };
    let sources = (0..7).map(|_| Box::new(put.clone()) as Box<dyn Source>).collect();
    let (outcome, sources) = fleet.run(load, sources, &mut |_| Wish::Continue)?;
    assert_eq!(sources.len(), 7, "every client is given back");
    Ok(outcome)
}

#[test]
fn every_request_is_sent_once_in_a_closed_loop_and_at_a_rate() {
    for pace in [Pace::Closed { operations: 500 }, Pace::Open { rate: 5_000.0, operations: 500 }] {
        let server = serve(|_| Does::Answer);
        let outcome = run(&server.url, load(pace)).unwrap();
        assert_eq!((outcome.answered, outcome.failed, outcome.dropped), (500, 0, 0));
        assert_eq!(outcome.latencies.len(), 500);
        assert_eq!(server.requests.load(Ordering::Relaxed), 500);
        if let Pace::Open { rate, .. } = pace {
            assert!(outcome.elapsed >= Duration::from_secs_f64(499.0 / rate), "faster than its rate");
        }
    }
}

/// One client at 1,000 requests a second, whose first answer is held back for 100 ms at least: those that were due in the
/// first 60 ms are answered 40 ms late or later. Timed from the sending, all but one would be quick.
#[test]
fn requests_that_a_stall_held_up_are_late() {
    let server = serve(|number| if number == 0 { Does::Wait } else { Does::Answer });
    let fleet = Fleet::connect(&server.url, 1, 1, LIMIT).unwrap();
    let put: Box<dyn Source> = Box::new(Put { folder: "test", keys: 10, length: 16 });
    let mut open_gate = |_| {
        server.gate.notify_one();
        Wish::Continue
    };
    let open = load(Pace::Open { rate: 1_000.0, operations: 150 });
    let (outcome, _) = fleet.run(open, vec![put], &mut open_gate).unwrap();
    assert_eq!(outcome.answered, 150);
    let late = outcome.latencies.len() - outcome.latencies.count_between(0, 40_000);
    assert!(late >= 55, "{late} of 150 are late");
}

#[test]
fn a_refusal_ends_the_run_with_the_servers_words_or_is_counted() {
    let does = |number| if number % 5 == 4 { Does::Refuse } else { Does::Answer };
    let server = serve(does);
    let closed = load(Pace::Closed { operations: 100 });
    let error = run(&server.url, closed).unwrap_err().to_string();
    assert!(error.contains("/etcdserverpb.KV/Put") && error.contains("full"), "{error}");
    let server = serve(does);
    let outcome = run(&server.url, Load { failures: Failures::Counted, ..closed }).unwrap();
    assert_eq!((outcome.answered, outcome.failed), (80, 20));
    assert!(outcome.refusal.unwrap().contains("full"));
}

#[test]
fn a_client_gives_up_and_goes_on_and_a_run_does_not_outlive_its_deadline() {
    let does = |number| if number == 3 { Does::Wait } else { Does::Answer };
    let server = serve(does);
    let closed = load(Pace::Closed { operations: 50 });
    let timeout = Some(Duration::from_secs(1));
    let outcome = run(&server.url, Load { failures: Failures::Counted, timeout, ..closed }).unwrap();
    assert_eq!((outcome.answered, outcome.failed, server.requests.load(Ordering::Relaxed)), (49, 1, 50));
    let server = serve(does);
    let error = run(&server.url, Load { deadline: Duration::from_millis(300), ..closed }).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
}

#[test]
fn what_no_client_is_free_for_is_dropped_and_all_are_accounted_for() {
    let server = serve(|_| Does::Wait);
    let open = load(Pace::Open { rate: 2_000.0, operations: 200 });
    let timeout = Some(Duration::from_millis(500));
    let outcome = run(&server.url, Load { failures: Failures::Counted, timeout, drop_late: true, ..open }).unwrap();
    assert_eq!((outcome.answered, outcome.failed + outcome.dropped), (0, 200));
    assert_eq!(outcome.failed, server.requests.load(Ordering::Relaxed));
    assert!(outcome.dropped > 0, "seven clients that wait for half a second cannot send 200 in a tenth");
}

#[test]
fn the_caller_can_end_a_run_well_or_at_once() {
    let server = serve(|_| Does::Answer);
    let fleet = Fleet::connect(&server.url, 1, 1, LIMIT).unwrap();
    let put = Put { folder: "test", keys: 10, length: 16 };
    let sources = || vec![Box::new(put.clone()) as Box<dyn Source>];
    let endless = load(Pace::Closed { operations: u64::MAX });
    let (outcome, _) = fleet.run(endless, sources(), &mut |_| Wish::Finish).unwrap();
    assert!(outcome.answered > 0 && outcome.failed == 0);
    let slow = load(Pace::Open { rate: 1.0, operations: u64::MAX });
    assert!(fleet.run(slow, sources(), &mut |_| Wish::Finish).is_ok(), "idle clients see the end too");
    assert!(matches!(fleet.run(endless, sources(), &mut |_| Wish::Abort), Err(Error::Interrupted)));
}

#[test]
fn a_url_that_cannot_be_driven_is_an_error() {
    assert!(matches!(Fleet::connect("https://127.0.0.1:1", 1, 1, LIMIT), Err(Error::Url(_))));
    assert!(matches!(Fleet::connect("http://127.0.0.1:1", 1, 1, LIMIT), Err(Error::Connect { .. })));
}
