//! The system's journal as a place for logs: its native protocol, one datagram per entry.

use std::io;
use std::os::unix::net::UnixDatagram;

use super::log::Level;

const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to the journal.
pub struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Connects.
    ///
    /// # Errors
    /// Where there is no journal.
    pub fn connect() -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        Ok(Journal { socket })
    }

    /// Writes one entry. `line` must not hold line breaks; an entry too large for a datagram is lost.
    ///
    /// # Errors
    /// Of the socket.
    pub fn write(&self, level: Level, line: &str) -> io::Result<()> {
        self.socket.send(entry(level, line).as_bytes()).map(drop)
    }
}

fn entry(level: Level, line: &str) -> String {
    // The priorities of syslog.
    let priority = match level {
        Level::Debug => 7,
        Level::Info => 6,
        Level::Warn => 4,
        Level::Error => 3,
        Level::DPanic | Level::Panic | Level::Fatal => 2,
    };
    format!("MESSAGE={line}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=etcd\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_datagram_of_fields() {
        assert_eq!(entry(Level::Warn, "{}"), "MESSAGE={}\nPRIORITY=4\nSYSLOG_IDENTIFIER=etcd\n");
    }
}
