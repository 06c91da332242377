//! An etcd that keeps everything in memory: `cargo run -p kelson-etcd --example memory -- 127.0.0.1:2379`.

use kelson_etcd::{ServerOptions, serve};
use kelson_raft::{Config, Data, Node};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    let mut config = Config::new("memory", Data::Memory);
    config.client_urls = vec![format!("http://{}", listener.local_addr()?)];
    let node = Node::open(config).await?;
    let shutdown = CancellationToken::new();
    let signal = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            signal.cancel();
        }
    });
    serve(node.clone(), listener, ServerOptions::default(), shutdown).await?;
    node.shutdown().await?;
    Ok(())
}
