//! Ending by a signal as etcd does: close everything, then let the signal do what it does to other programs, so that
//! whoever waits for this process sees by which one it ended.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for an end.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Interrupt,
    Terminate,
}

impl Asked {
    /// Go's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Asked::Interrupt => "interrupt",
            Asked::Terminate => "terminated",
        }
    }

    fn number(self) -> i32 {
        match self {
            Asked::Interrupt => libc::SIGINT,
            Asked::Terminate => libc::SIGTERM,
        }
    }
}

impl Signals {
    /// Begins to listen; until then the signals end the process at once.
    ///
    /// # Errors
    /// If the process may not listen for signals.
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
        }
    }
}

/// Ends the process by a signal that was listened to; with status 0 where the kernel would not do that, which is for the
/// first process of a container.
pub fn end(by: Asked) -> ! {
    if std::process::id() == 1 {
        std::process::exit(0);
    }
    let number = by.number();
    // SAFETY: signal(2) with SIG_DFL and raise(3) touch no memory of this process; the default action of both signals
    // is to end it.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        libc::raise(number);
    }
    // A signal that is blocked does not arrive.
    std::process::exit(128 + number)
}
