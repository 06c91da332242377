//! Listening on URLs.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use kelson_etcd::Socket;
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::net::{TcpListener, UnixListener};

use super::url::Url;

/// Connections that wait to be accepted; more are refused by the system.
const BACKLOG: i32 = 4096;

/// How sockets are bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub reuse_port: bool,
}

/// Listens on a URL, and says where: a port 0 becomes the one that was free.
///
/// # Errors
/// Go's text: what could not be done at which address.
pub fn listen(url: &Url, options: Options) -> Result<(Socket, String), String> {
    if url.is_unix() {
        let path = url.address();
        let socket = unix(Path::new(&path)).map_err(|error| format!("listen unix {path}: bind: {}", plain(&error)))?;
        return Ok((socket, path));
    }
    let (host, port) = url.host_port()?;
    let Ok(number) = port.parse::<u16>() else {
        return Err(format!("listen tcp: address {port}: invalid port"));
    };
    let resolved = (host, number).to_socket_addrs().map_err(|error| format!("listen tcp: lookup {host}: {error}"))?;
    let mut resolved: Vec<_> = resolved.collect();
    // A name with addresses of both kinds is listened to on the older one, as Go does.
    resolved.sort_by_key(SocketAddr::is_ipv6);
    let address = *resolved.first().ok_or_else(|| format!("listen tcp: lookup {host}: no such host"))?;
    let bound = tcp(address, options).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (local, listener) = bound.map_err(|error| format!("listen tcp {address}: bind: {}", plain(&error)))?;
    Ok((Socket::Tcp(listener), local.to_string()))
}

fn tcp(address: SocketAddr, options: Options) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Go sets it on every listener, so that a restart need not wait for connections of before to be forgotten.
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() && !address.ip().is_unspecified() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A socket's file that is left over from before is replaced, as etcd does.
fn unix(path: &Path) -> io::Result<Socket> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(Socket::Unix(UnixListener::bind(path)?, path.to_path_buf()))
}

/// An error without the number that the standard library appends.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Result<(Socket, String), String> {
        listen(&Url::parse(text).unwrap(), Options::default())
    }

    #[tokio::test]
    async fn addresses_are_bound_and_said() {
        let (_socket, address) = at("http://127.0.0.1:0").unwrap();
        let taken = at(&format!("http://{address}")).unwrap_err();
        assert_eq!(taken, format!("listen tcp {address}: bind: address already in use"));
        assert_eq!(at("http://127.0.0.1:99999").unwrap_err(), "listen tcp: address 99999: invalid port");
        let nowhere = at("http://198.51.100.1:1").unwrap_err();
        assert!(nowhere.starts_with("listen tcp 198.51.100.1:1: bind: "), "{nowhere}");
    }

    #[tokio::test]
    async fn ports_can_be_shared_where_that_is_wanted() {
        let options = Options { reuse_port: true };
        let (_first, address) = listen(&Url::parse("http://127.0.0.1:0").unwrap(), options).unwrap();
        listen(&Url::parse(&format!("http://{address}")).unwrap(), options).unwrap();
    }

    #[tokio::test]
    async fn a_sockets_file_is_replaced_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd.sock");
        std::fs::write(&path, "left over").unwrap();
        let (socket, address) = at(&format!("unix://{}", path.display())).unwrap();
        assert_eq!(address, path.display().to_string());
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }
}
