//! A server on a free port with a node in memory behind it.

use std::time::Duration;

use kelson_etcd::{Error, ServerOptions, serve};
use kelson_raft::{Config, Data, Node};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Bound on everything that is waited for.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct Server {
    pub node: Node,
    pub address: String,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<Result<(), Error>>,
}

impl Server {
    pub async fn start(options: ServerOptions) -> Self {
        Self::start_with(options, |_| {}).await
    }

    /// With a node of other settings.
    pub async fn start_with(options: ServerOptions, change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut config = Config::new("test", Data::Memory);
        config.client_urls = vec![format!("http://{address}")];
        config.peer_urls = vec!["http://127.0.0.1:2380".to_owned()];
        change(&mut config);
        let node = Node::open(config).await.unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(node.clone(), listener, options, shutdown.clone()));
        Self { node, address, shutdown, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops the server, then the node.
    pub async fn stop(self) {
        self.shutdown.cancel();
        within("the server's end", self.task).await.unwrap().unwrap();
        self.node.shutdown().await.unwrap();
    }
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what} did not happen within {DEADLINE:?}"),
    }
}
