//! Child processes that end with the test, and what they print.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::poll;

/// Lines shown of a program when its test fails.
const LAST: usize = 12;

/// A running program; killed when dropped. Its output is kept and can be waited for.
pub struct Program {
    child: Child,
    name: String,
    output: Arc<Mutex<String>>,
    /// Those that read what it prints; they end with it.
    collectors: Vec<JoinHandle<()>>,
    errors: Option<Arc<Mutex<String>>>,
}

/// Has the command end at an interrupt even where the tests run in a shell's background, which ignores them.
fn interruptible(command: &mut Command) -> &mut Command {
    let listen = || {
        // SAFETY: signal(2) may be called between fork and exec, and takes no memory.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        Ok(())
    };
    // SAFETY: the closure calls nothing but signal(2).
    unsafe { command.pre_exec(listen) }
}

impl Program {
    /// Starts `command` with its output collected.
    pub fn start(name: &str, command: &mut Command) -> Program {
        // One pipe for both streams, so that what is printed is seen in its order.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let both = (writer.try_clone().expect("a pipe"), writer);
        let spawned = interruptible(command).stdin(Stdio::null()).stdout(both.0).stderr(both.1).spawn();
        let child = spawned.unwrap_or_else(|error| panic!("{name}: {error}"));
        // The command would hold the pipe open after the program's end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let output = Arc::new(Mutex::new(String::new()));
        let collectors = vec![collect(reader, output.clone())];
        Program { child, name: name.into(), output, collectors, errors: None }
    }

    /// Starts `command` with standard input to write to, and with standard error kept apart.
    pub fn start_with_input(name: &str, command: &mut Command) -> (Program, ChildStdin) {
        let streams = interruptible(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let (output, errors) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(String::new())));
        let collectors = vec![
            collect(child.stdout.take().expect("piped"), output.clone()),
            collect(child.stderr.take().expect("piped"), errors.clone()),
        ];
        let input = child.stdin.take().expect("piped");
        (Program { child, name: name.into(), output, collectors, errors: Some(errors) }, input)
    }

    /// What it printed to standard error, where that is kept apart.
    pub fn errors(&self) -> String {
        self.errors.as_ref().map_or(String::new(), |errors| errors.lock().expect("errors").clone())
    }

    /// How it ended, if it has and all its output is collected.
    pub fn try_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("wait");
        // The collectors hold the output until they have read its end.
        let mut collected = [Some(&self.output), self.errors.as_ref()].into_iter().flatten();
        status.filter(|_| collected.all(|output| Arc::strong_count(output) == 1))
    }

    /// Waits for a line that contains `text`.
    pub fn wait_for(&mut self, text: &str, seconds: u64) {
        self.wait_for_line(text, seconds, |line| line.contains(text));
    }

    /// Waits for the line that says so, and no other that has the word in it.
    pub fn wait_until_ready(&mut self, seconds: u64) {
        self.wait_for_line("ready", seconds, |line| line == "ready");
    }

    fn wait_for_line(&mut self, text: &str, seconds: u64, found: impl Fn(&str) -> bool) {
        poll::until(&format!("{} prints {text:?}", self.name), seconds, || {
            let output = self.output();
            if output.lines().any(&found) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("{} ended with {status} before it printed {text:?}:\n{output}", self.name);
            }
            Err(output)
        });
    }

    /// Everything printed so far, standard output and standard error together, in the order of printing.
    pub fn output(&self) -> String {
        self.output.lock().expect("output").clone()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("pid");
        // SAFETY: kill(2) has no memory effects; the child has not been waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "{}", std::io::Error::last_os_error());
    }

    /// Kills it at once, as a power cut would.
    pub fn kill(mut self) {
        self.signal(libc::SIGKILL);
        self.child.wait().expect("wait");
    }

    /// Waits for it to end by itself, and for the last that it printed.
    pub fn ended(&mut self, seconds: u64) -> ExitStatus {
        poll::until(&format!("{} ends", self.name), seconds, || {
            let status =
                self.child.try_wait().expect("wait").filter(|_| self.collectors.iter().all(JoinHandle::is_finished));
            status.ok_or_else(|| self.output.lock().expect("output").clone())
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let output = self.output();
            let errors = self.errors();
            let lines: Vec<_> = output.lines().chain(errors.lines()).collect();
            eprintln!("--- {} printed last:\n{}", self.name, lines[lines.len().saturating_sub(LAST)..].join("\n"));
        }
    }
}

fn collect(stream: impl Read + Send + 'static, output: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            output.lock().expect("output").push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}
