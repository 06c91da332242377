//! `kelson explain`: why a pod is where it is, or nowhere, from the live state of the cluster.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};
use kelson_controllers::scheduler::{Explanation, NodeVerdict, explain};

use crate::cli::Output;
use crate::folder;
use crate::parts;

/// What to explain.
#[derive(Subcommand)]
pub enum Explain {
    /// Per filter and score, why each node would or would not be chosen for a pod now.
    Pod(Pod),
}

/// `kelson explain pod`.
#[derive(Args)]
pub struct Pod {
    /// The pod's name.
    name: String,
    /// Its namespace.
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
    /// How to reach the API server, and as whom [default: $KUBECONFIG, or that of `kelson dev`].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Show at most this many nodes that take the pod, and as many that do not; 0 for all of them.
    #[arg(long, default_value_t = 10, value_name = "N")]
    limit: usize,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Reads the cluster and prints what it says.
pub async fn run(what: Explain) -> Result<()> {
    let Explain::Pod(options) = what;
    let named = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
    let kubeconfig = match options.kubeconfig.clone().or(named) {
        Some(file) => file,
        None => folder::default()?.join("kubeconfig"),
    };
    let (client, _) = parts::client(&kubeconfig, "kelson-explain")?;
    let explained = explain(&client, &options.namespace, &options.name).await;
    let explained = explained.with_context(|| format!("pod {}/{}", options.namespace, options.name))?;
    match options.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&explained)?),
        Output::Table => print(&explained, options.limit, std::io::stdout().is_terminal()),
    }
    Ok(())
}

fn print(explained: &Explanation, limit: usize, colours: bool) {
    let limit = if limit == 0 { usize::MAX } else { limit };
    println!("pod {}/{} ({})", explained.namespace, explained.name, explained.scheduler_name);
    match &explained.node {
        Some(node) => println!("bound to {node}; below, what each node would say if it were to be placed anew"),
        None => println!("not bound; what each node says now"),
    }
    if let Some(held) = &explained.held {
        println!("not placed: {held}");
    }
    if let Some(message) = &explained.message {
        println!("{message}");
    }
    let (feasible, rejected): (Vec<_>, Vec<_>) = explained.nodes.iter().partition(|node| node.total.is_some());
    if !feasible.is_empty() {
        println!(
            "\n{} of {} nodes take it. Each score is weighted; the highest sum wins.",
            feasible.len(),
            explained.nodes.len()
        );
        println!("{}", scored(&feasible, limit, explained.node.as_deref(), colours));
        rest(feasible.len(), limit);
    }
    if !rejected.is_empty() {
        println!("\n{} of {} nodes do not.", rejected.len(), explained.nodes.len());
        println!("{}", refused(&rejected, limit));
        rest(rejected.len(), limit);
    }
}

fn rest(count: usize, limit: usize) {
    if count > limit {
        println!("... and {} more (--limit 0 shows all)", count - limit);
    }
}

fn table(colours: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if colours {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

/// Nodes with their weighted scores, the pod's own one marked.
fn scored(nodes: &[&NodeVerdict], limit: usize, own: Option<&str>, colours: bool) -> Table {
    let mut table = table(colours);
    let Some(first) = nodes.first() else { return table };
    let heads = first.scores.iter().map(|score| {
        let short = score.plugin.trim_start_matches("NodeResources");
        if score.weight == 1 { short.to_string() } else { format!("{short} x{}", score.weight) }
    });
    let bold = |text: String| if colours { Cell::new(text).add_attribute(Attribute::Bold) } else { Cell::new(text) };
    table.set_header(["NODE".to_string(), "TOTAL".into()].into_iter().chain(heads).map(bold));
    let best = first.total;
    for node in nodes.iter().take(limit) {
        let mark = if own == Some(node.node.as_str()) { " *" } else { "" };
        let mut name = Cell::new(format!("{}{mark}", node.node));
        if colours && node.total == best {
            name = name.fg(Color::Green);
        }
        let total = Cell::new(node.total.unwrap_or_default());
        let scores = node.scores.iter().map(|score| Cell::new(score.score * score.weight));
        table.add_row([name, total].into_iter().chain(scores));
    }
    for figures in table.column_iter_mut().skip(1) {
        figures.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Nodes that refuse, those with the same reasons together.
fn refused(nodes: &[&NodeVerdict], limit: usize) -> Table {
    let mut table = table(false);
    table.set_header(["NODES", "FILTER", "REASON", "WHICH"]);
    let mut alike: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for node in nodes {
        let Some(rejected) = &node.rejected else { continue };
        alike.entry((&rejected.filter, rejected.reasons.join(", "))).or_default().push(&node.node);
    }
    for ((filter, reasons), names) in alike {
        let more = if names.len() > limit { ", ..." } else { "" };
        let which = names.iter().take(limit).copied().collect::<Vec<_>>().join(", ") + more;
        table.add_row([names.len().to_string(), filter.to_string(), reasons, which]);
    }
    table
}
