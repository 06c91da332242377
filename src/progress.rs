//! Progress of something countable: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that is drawn on standard error.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    /// Tenths already printed, where there is no terminal.
    printed: Option<u64>,
}

impl Progress {
    /// Counting `what` up to `total`.
    pub fn new(what: &'static str, total: u64) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:40.cyan/blue} {pos}/{len} {elapsed}") {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_message(what);
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Progress { bar, what, printed: (!terminal).then_some(0) }
    }

    /// Bytes up to `total`; shown on a terminal only.
    pub fn bytes(what: &'static str, total: u64) -> Progress {
        Progress::drawn(what, Some(total), "{msg} {bar:40.cyan/blue} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    }

    /// Counting `what` without knowing how many there are; shown on a terminal only.
    pub fn counting(what: &'static str) -> Progress {
        Progress::drawn(what, None, "{msg} {spinner} {pos} {elapsed}")
    }

    fn drawn(what: &'static str, total: Option<u64>, template: &str) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total, target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_message(what);
        Progress { bar, what, printed: None }
    }

    /// So many are done.
    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        let total = self.bar.length().unwrap_or(0).max(1);
        if let Some(printed) = &mut self.printed
            && done * 10 / total > *printed
        {
            *printed = done * 10 / total;
            eprintln!("{} {done}/{total}", self.what);
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
