//! Listening sockets, with errors that name the flag to change.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::net::TcpListener;

/// Listens on `address`, which came from `flag`.
///
/// # Errors
/// If the address is taken or not this machine's; the text names the address and the flag.
pub async fn on(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (change it with {flag})"))
}
