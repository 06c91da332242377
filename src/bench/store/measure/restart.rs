//! Many keys in memory, and how soon they are served again.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kelson_benches::data::key;
use kelson_benches::{Fleet, Method, frame, source};
use kelson_wire::pb::etcdserverpb::{RangeRequest, RangeResponse};

use super::{FOLDER, LATENCY, Run, note_peak};
use crate::bench::store::figures::Figures;
use crate::bench::store::workload::Workload;

impl Run<'_> {
    /// Fills the store, ends it with SIGTERM, starts it again and asks for the last key until it answers.
    pub fn restart(&mut self) -> Result<Figures> {
        let Workload { keys, length, connections, .. } = self.workload;
        let meter = self.meter()?;
        let filled = self.fill(0, keys)?;
        let cost = self.cost(&meter)?;
        let mut figures = Figures::default();
        note_peak(&mut figures, &filled);
        cost.note(&mut figures, filled.answered as f64);
        cost.note_written(&mut figures, keys, length);
        figures.set_latency(LATENCY, &filled.latencies);
        self.note_memory(&mut figures)?;

        (self.bench.show)("restarting", 0.5);
        self.server.end()?;
        let began = Instant::now();
        self.server.start_again(self.bench.deadline)?;
        self.fleet = Fleet::connect(self.server.url(), connections, self.bench.threads, self.bench.deadline)?;
        let request = RangeRequest { key: key(FOLDER, keys - 1), ..RangeRequest::default() };
        let answer = self.fleet.call(Method::Range, frame(&request), self.bench.deadline);
        let answer: RangeResponse = source::decode(answer.context("the first read after the restart")?)?;
        figures.set("restart_seconds", began.elapsed().as_secs_f64());
        ensure!(answer.count == 1, "the last key is gone after the restart");
        if let Some(usage) = self.server.usage()? {
            figures.set("restarted_rss_mib", usage.rss_bytes as f64 / f64::from(1 << 20));
        }
        Ok(figures)
    }
}
