//! A network of the test's own making: a namespace for each member, joined by a bridge, whose ways can be cut one by one.
//! Needs the right to make namespaces (root); goes when dropped.

use std::io::Write;
use std::process::{Command, Output};

/// How a slow way is, where the kernel can delay packets; else it is narrow.
const DELAY: &[&str] = &["netem", "delay", "60ms", "20ms", "loss", "2%"];
const NARROW: &[&str] = &["tbf", "rate", "512kbit", "burst", "16kb", "latency", "400ms"];

/// Hosts on one bridge, reachable from here as well.
pub struct Network {
    /// Part of all names, so that two tests do not meet.
    tag: String,
    /// Third byte of the addresses.
    subnet: u8,
    hosts: usize,
}

fn ip(arguments: &[&str]) -> Result<Output, String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() { Ok(output) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

fn run(line: &str) -> Result<(), String> {
    ip(&line.split_whitespace().collect::<Vec<_>>()).map(drop).map_err(|why| format!("ip {line}: {why}"))
}

impl Network {
    /// A network of so many hosts; `None`, with a visible line, where that is not permitted.
    pub fn new(hosts: usize) -> Option<Network> {
        let pid = std::process::id();
        let network = Network { tag: format!("kl{}", pid % 100_000), subnet: (pid % 250) as u8 + 1, hosts };
        match network.make() {
            Ok(()) => Some(network),
            Err(why) => {
                // Straight to the terminal: the test harness hides what a passing test prints.
                let _ = writeln!(std::io::stderr(), "SKIPPED: partitions and slow links ({why})");
                None
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        let (tag, bridge) = (&self.tag, format!("{}b", self.tag));
        run(&format!("link add {bridge} type bridge"))?;
        run(&format!("addr add {}/24 dev {bridge}", self.address_of(1)))?;
        run(&format!("link set {bridge} up"))?;
        for host in 0..self.hosts {
            let (space, near, address) = (self.space(host), format!("{tag}v{host}"), self.address(host));
            run(&format!("netns add {space}"))?;
            run(&format!("link add {near} type veth peer name eth0 netns {space}"))?;
            run(&format!("link set {near} master {bridge} up"))?;
            run(&format!("-n {space} addr add {address}/24 dev eth0"))?;
            run(&format!("-n {space} link set eth0 up"))?;
            run(&format!("-n {space} link set lo up"))?;
        }
        Ok(())
    }

    fn space(&self, host: usize) -> String {
        format!("{}n{host}", self.tag)
    }

    fn address_of(&self, last: usize) -> String {
        format!("10.213.{}.{last}", self.subnet)
    }

    /// Where a host is reached.
    pub fn address(&self, host: usize) -> String {
        self.address_of(host + 2)
    }

    /// A command that runs on a host.
    pub fn command(&self, host: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(host), program]);
        command
    }

    /// From now on nothing goes from one host to another; what goes the other way does.
    pub fn cut(&self, from: usize, to: usize) {
        let cut = run(&format!("-n {} route add blackhole {}/32", self.space(from), self.address(to)));
        cut.expect("a way is cut once");
    }

    /// From now on what a host sends is slow, and some of it lost where the kernel can do that.
    pub fn slow(&self, host: usize) {
        let add = |kind: &[&str]| {
            let mut command = self.command(host, "tc");
            command.args(["qdisc", "replace", "dev", "eth0", "root"]).args(kind);
            command.output().is_ok_and(|output| output.status.success())
        };
        if !add(DELAY) && !add(NARROW) {
            let _ = writeln!(std::io::stderr(), "SKIPPED: a slow way (the kernel has neither netem nor tbf)");
        }
    }

    /// All ways carry again, at full speed.
    pub fn heal(&self) {
        for host in 0..self.hosts {
            let space = self.space(host);
            // Those that there are.
            let _ = run(&format!("-n {space} route flush type blackhole"));
            let _ = self.command(host, "tc").args(["qdisc", "del", "dev", "eth0", "root"]).output();
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            let _ = run(&format!("netns del {}", self.space(host)));
        }
        let _ = run(&format!("link del {}b", self.tag));
    }
}
