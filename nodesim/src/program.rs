//! What a container does, worked out from its image and command.

use crate::Millis;
use crate::config::Timings;
use crate::image::{self, Entry};
use crate::script::{Script, compile};
use crate::shell::{Next, Run, Surroundings, base};
use crate::view;

/// What a container does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Program {
    /// Runs until it is stopped; exits with the code on SIGTERM.
    Service { lines: &'static [&'static str], on_term: i32 },
    /// Prints and ends after a while with the code.
    Batch { after: Millis, code: i32, output: Output },
    /// A shell script.
    Script(Script),
}

/// What a batch program prints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Output {
    Lines(&'static [&'static str]),
    /// So many digits of pi.
    Pi(u32),
    /// One line that is all of it.
    Line(Box<str>),
}

/// SIGTERM's exit code where the process has no handler.
const TERMINATED: i32 = 128 + 15;

/// Interpreters that have nothing to do without arguments.
const SHELLS: &[&str] = &["sh", "bash", "ash", "dash", "zsh"];

impl Program {
    /// What a container does. `serves`: whether what is not known is taken to run for ever (it is restarted if it ends)
    /// or to be finite (it would be a Job otherwise).
    pub fn of(container: &view::Container, serves: bool, timings: &Timings) -> Program {
        let argv: Vec<&str> = container.command.iter().chain(&container.args).map(String::as_str).collect();
        let unknown = || match serves {
            true => Program::Service { lines: &[], on_term: TERMINATED },
            false => Program::Batch { after: timings.work, code: 0, output: Output::Lines(&[]) },
        };
        let entry = image::entry(&container.image);
        if container.command.is_empty() {
            match (entry, argv.first()) {
                (Entry::Service(lines, on_term), Some(&arg))
                    if image::repository(&container.image).ends_with("/agnhost") =>
                {
                    // The e2e suite's image does what its first argument says; these two end.
                    let finite = matches!(arg, "entrypoint-tester" | "mounttest" | "inclusterclient");
                    return match finite {
                        true => Program::Batch {
                            after: timings.work,
                            code: 0,
                            output: Output::Line(format!("{argv:?}").into()),
                        },
                        false => Program::Service { lines, on_term },
                    };
                }
                // Arguments alone do not change what a server is.
                (Entry::Service(lines, on_term), _) => return Program::Service { lines, on_term },
                (Entry::Shell, None) if container.stdin => return Program::Service { lines: &[], on_term: TERMINATED },
                (Entry::Shell, None) => return Program::Batch { after: 1, code: 0, output: Output::Lines(&[]) },
                (Entry::Prints(lines), _) => return Program::Batch { after: 1, code: 0, output: Output::Lines(lines) },
                (Entry::Unknown, None) => return unknown(),
                // The arguments of a shell image are its command; those of an unknown entry point are not.
                (Entry::Shell, Some(_)) => {}
                (Entry::Unknown, Some(arg)) if !arg.starts_with('-') && !SHELLS.contains(&base(arg)) => {
                    return unknown();
                }
                (Entry::Unknown, Some(_)) => {}
            }
        }
        let Some((program, args)) = argv.split_first() else { return unknown() };
        if SHELLS.contains(&base(program)) {
            let at = args.iter().position(|arg| arg.starts_with('-') && !arg.starts_with("--") && arg.ends_with('c'));
            return match at.and_then(|at| args.get(at + 1)) {
                Some(text) => compile(text).map_or_else(unknown, Program::Script),
                None if args.is_empty() && !container.stdin => {
                    Program::Batch { after: 1, code: 0, output: Output::Lines(&[]) }
                }
                None => unknown(),
            };
        }
        match base(program) {
            "perl" if let Some(digits) = args.iter().find_map(|arg| bpi(arg)) => {
                Program::Batch { after: timings.work.max(1), code: 0, output: Output::Pi(digits) }
            }
            "perl" | "python" | "python3" | "node" | "ruby"
                if args.iter().any(|arg| arg.starts_with("-")) && !serves =>
            {
                Program::Batch { after: timings.work, code: 0, output: Output::Lines(&[]) }
            }
            "echo" | "printf" | "sleep" | "true" | "false" | "tail" | "date" | "hostname" | "seq" | "exit" | "cat"
            | "test" | "touch" | "env" | "ls" => {
                let quoted: Vec<String> = argv.iter().map(|arg| quote(arg)).collect();
                compile(&quoted.join(" ")).map_or_else(unknown, Program::Script)
            }
            "pause" => Program::Service { lines: &[], on_term: 0 },
            _ => match entry {
                // The image's own server, called by name.
                Entry::Service(lines, on_term) => Program::Service { lines, on_term },
                _ => unknown(),
            },
        }
    }

    /// When a run ends by itself, as an offset from its start, and its code; and the files it makes meanwhile.
    pub fn outcome(&self, around: &dyn Surroundings) -> Outcome {
        match self {
            Program::Service { on_term, .. } => Outcome { exit: None, on_term: Some(*on_term), files: Vec::new() },
            Program::Batch { after, code, .. } => {
                Outcome { exit: Some((*after, *code)), on_term: Some(TERMINATED), files: Vec::new() }
            }
            Program::Script(script) => {
                let mut run = Run::new();
                let exit = loop {
                    match run.next(script, around, Millis::MAX, false) {
                        Next::Line(..) => {}
                        Next::Ended(at, code) => break Some((at, code)),
                        Next::Later(_) | Next::Forever => break None,
                    }
                };
                Outcome { exit, on_term: (!run.ignores_term).then_some(TERMINATED), files: run.files }
            }
        }
    }
}

/// What is known of a run when it starts.
pub(crate) struct Outcome {
    /// When it ends by itself, and with what code.
    pub exit: Option<(Millis, i32)>,
    /// Code on SIGTERM; `None` if the process ignores it.
    pub on_term: Option<i32>,
    /// Files that it makes (true) or removes, and when.
    pub files: Vec<(Millis, String, bool)>,
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The digits that `print bpi(2000)` asks for.
fn bpi(argument: &str) -> Option<u32> {
    let digits = argument.split_once("bpi(")?.1.split_once(')')?.0;
    Some(digits.trim().parse().unwrap_or(100).clamp(1, 5_000))
}

/// Pi with so many significant digits (Rabinowitz and Wagon's spigot).
pub(crate) fn pi(digits: u32) -> String {
    let wanted = digits as usize;
    let mut cells = vec![2u32; wanted * 10 / 3 + 16];
    let mut out: Vec<u8> = Vec::with_capacity(wanted + 8);
    // One digit more than asked, so that the last one is final when a carry can no longer reach it.
    while out.len() < wanted + 6 {
        let mut carry = 0u64;
        for at in (0..cells.len()).rev() {
            let value = u64::from(cells[at]) * 10 + carry;
            let (divisor, factor) = if at == 0 { (10, 1) } else { (2 * at as u64 + 1, at as u64) };
            cells[at] = u32::try_from(value % divisor).unwrap_or(0);
            carry = if at == 0 { value / 10 } else { value / divisor * factor };
        }
        // A digit of ten carries into the ones before it.
        if carry >= 10 {
            for digit in out.iter_mut().rev() {
                *digit += 1;
                if *digit < 10 {
                    break;
                }
                *digit = 0;
            }
        }
        out.push(u8::try_from(carry % 10).unwrap_or(0));
    }
    out.truncate(wanted);
    let mut text: String = out.iter().map(|digit| char::from(b'0' + digit)).collect();
    if text.len() > 1 {
        text.insert(1, '.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(image: &str, command: &[&str], args: &[&str], serves: bool) -> Program {
        let text = |list: &[&str]| list.iter().map(|arg| arg.to_string()).collect();
        let container = view::Container {
            image: image.into(),
            command: text(command),
            args: text(args),
            ..view::Container::default()
        };
        Program::of(&container, serves, &Timings::instant_ish())
    }

    #[test]
    fn images_and_commands_decide() {
        let service = |program: Program| matches!(program, Program::Service { .. });
        let batch = |program: Program| matches!(program, Program::Batch { code: 0, .. });
        assert!(service(program("nginx:1.27", &[], &[], true)));
        assert!(service(program("my/app", &[], &[], true)));
        assert!(batch(program("my/app", &[], &[], false)));
        assert!(service(program("my/app", &["/app/run"], &["--x"], true)));
        assert!(batch(program("busybox", &[], &[], true)));
        assert!(batch(program("hello-world", &[], &[], false)));
        assert!(service(program("registry.k8s.io/e2e-test-images/agnhost:2.53", &[], &["netexec"], false)));
        assert!(matches!(program("busybox", &["sh", "-c", "exit 3"], &[], true), Program::Script(_)));
        assert!(matches!(program("busybox", &[], &["/bin/sh", "-ec", "sleep 1"], true), Program::Script(_)));
        assert!(matches!(program("busybox", &["sleep"], &["3600"], true), Program::Script(_)));
        assert!(service(program("x/y", &["sh", "-c", "f() { x; }; f"], &[], true)), "what is not understood serves");
        let perl = program("perl:5.34", &["perl", "-Mbignum=bpi", "-wle", "print bpi(2000)"], &[], false);
        assert!(matches!(perl, Program::Batch { output: Output::Pi(2000), .. }));
    }

    #[test]
    fn pi_is_pi() {
        assert_eq!(pi(1), "3");
        assert_eq!(pi(50), "3.1415926535897932384626433832795028841971693993751");
        // Digits 762 to 767 are six nines, where carries go wrong.
        assert_eq!(&pi(800)[763..769], "999999");
    }
}
