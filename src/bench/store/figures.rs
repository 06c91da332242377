//! Figures of one run, their medians, and the ratios of two sides.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Figures of a run by name; the names are fields of the JSON report, and end with their unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    /// Notes a figure; one that is no number is left out.
    pub fn set(&mut self, name: &str, figure: f64) {
        if figure.is_finite() {
            self.0.insert(name.to_owned(), figure);
        }
    }

    /// Notes the percentiles of a histogram of microseconds, under three names.
    pub fn set_latency(&mut self, [p50, p99, p99_9]: [&str; 3], latencies: &Histogram<u64>) {
        for (name, quantile) in [(p50, 0.5), (p99, 0.99), (p99_9, 0.999)] {
            if !latencies.is_empty() {
                self.set(name, latencies.value_at_quantile(quantile) as f64 / 1e3);
            }
        }
    }

    /// A figure, if the run has it.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// Of each figure the median over all runs that have it.
    pub fn median(runs: &[Figures]) -> Figures {
        let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, figure) in runs.iter().flat_map(|run| &run.0) {
            all.entry(name).or_default().push(*figure);
        }
        Figures(all.into_iter().filter_map(|(name, figures)| Some((name.to_owned(), median(figures)?))).collect())
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let upper = *figures.get(figures.len() / 2)?;
    let lower = *figures.get(figures.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    Higher,
    Lower,
}

/// Name of a ratio, the figure that it compares, and which way is better.
const RATIOS: &[(&str, &str, Better)] = &[
    ("cpu_ratio", "cpu_us", Better::Lower),
    ("throughput_ratio", "throughput", Better::Higher),
    ("p99_ratio", "p99_ms", Better::Lower),
    ("rss_ratio", "rss_mib", Better::Lower),
    ("p50_ratio", "p50_ms", Better::Lower),
    ("p99_9_ratio", "p99_9_ms", Better::Lower),
    ("peak_p50_ratio", "peak_p50_ms", Better::Lower),
    ("peak_p99_ratio", "peak_p99_ms", Better::Lower),
    ("peak_p99_9_ratio", "peak_p99_9_ms", Better::Lower),
    ("written_ratio", "written_per_stored", Better::Lower),
    ("event_p99_ratio", "event_p99_ms", Better::Lower),
    ("p99_growth_ratio", "p99_growth", Better::Lower),
    ("caught_up_ratio", "caught_up_seconds", Better::Lower),
    ("restart_ratio", "restart_seconds", Better::Lower),
    ("restarted_rss_ratio", "restarted_rss_mib", Better::Lower),
    ("throughput_kept_ratio", "throughput_kept", Better::Higher),
    ("goodput_share_ratio", "goodput_share", Better::Higher),
];

/// The first so many of [`RATIOS`] are in every comparison; `null` where a side has no such figure.
const ALWAYS: usize = 4;

/// Ratios of our figures to a peer's: more than 1 means that ours are better, whatever the figure.
pub fn ratios(ours: &Figures, peer: &Figures) -> Vec<(&'static str, Option<f64>)> {
    let ratio = |name, better| {
        let (ours, peer) = (ours.get(name)?, peer.get(name)?);
        let (over, under) = if better == Better::Higher { (ours, peer) } else { (peer, ours) };
        (under > 0.0).then_some(over / under)
    };
    let all = RATIOS.iter().enumerate().map(|(at, (name, figure, better))| (at, *name, ratio(figure, *better)));
    all.filter(|(at, _, ratio)| *at < ALWAYS || ratio.is_some()).map(|(_, name, ratio)| (name, ratio)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(all: &[(&'static str, f64)]) -> Figures {
        Figures(all.iter().map(|(name, figure)| (name.to_string(), *figure)).collect())
    }

    #[test]
    fn more_than_one_means_that_ours_is_better() {
        let ours = figures(&[("throughput", 30.0), ("cpu_us", 10.0), ("p99_ms", 4.0), ("rss_mib", 300.0)]);
        let peer = figures(&[("throughput", 10.0), ("cpu_us", 100.0), ("p99_ms", 2.0), ("rss_mib", 150.0)]);
        let of = |name: &str| ratios(&ours, &peer).into_iter().find(|(found, _)| *found == name).unwrap().1.unwrap();
        assert_eq!(of("throughput_ratio"), 3.0);
        assert_eq!(of("cpu_ratio"), 10.0);
        assert_eq!(of("p99_ratio"), 0.5);
        assert_eq!(of("rss_ratio"), 0.5);
    }

    #[test]
    fn a_ratio_without_both_figures_is_null_and_never_infinite() {
        let ours = figures(&[("throughput", 30.0), ("cpu_us", 0.0)]);
        let peer = figures(&[("cpu_us", 9.0), ("written_per_stored", 2.0)]);
        let all = ratios(&ours, &peer);
        let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["cpu_ratio", "throughput_ratio", "p99_ratio", "rss_ratio"]);
        assert!(all.iter().all(|(_, ratio)| ratio.is_none()), "{all:?}");
        let mut none = Figures::default();
        none.set("throughput", f64::NAN);
        none.set("cpu_us", 1.0 / 0.0);
        assert_eq!(none, Figures::default());
    }

    #[test]
    fn the_median_of_each_figure_is_its_own() {
        let runs = [
            figures(&[("throughput", 9.0), ("p99_ms", 1.0)]),
            figures(&[("throughput", 1.0), ("p99_ms", 3.0)]),
            figures(&[("throughput", 2.0)]),
        ];
        assert_eq!(Figures::median(&runs), figures(&[("throughput", 2.0), ("p99_ms", 2.0)]));
        assert_eq!(Figures::median(&[]), Figures::default());
        assert_eq!(Figures::median(&runs[..1]), runs[0]);
    }
}
