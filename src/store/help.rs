//! Usage, help and version.

use super::flags::{FLAGS, Flag, Meaning, Section};
#[cfg(test)]
use super::value::Kind;

/// What is printed beside a mistake.
pub fn usage() -> String {
    "Usage:

  etcd [flags]
    Start an etcd server.

  etcd --version
    Show the version of etcd.

  etcd -h | --help
    Show the help information about etcd.

  etcd --config-file
    Path to the server configuration file. Where one is given, other flags and the environment are ignored.
    Durations in it are whole numbers of nanoseconds.
"
    .to_owned()
}

/// Every flag, by section.
pub fn help() -> String {
    let mut text = String::new();
    for (section, title) in [
        (Section::Member, "Member"),
        (Section::Clustering, "Clustering"),
        (Section::Security, "Security"),
        (Section::Auth, "Auth"),
        (Section::Monitoring, "Profiling and Monitoring"),
        (Section::Logging, "Logging"),
        (Section::Tracing, "Distributed tracing"),
        (Section::Features, "Features"),
        (Section::Unsafe, "Unsafe feature"),
    ] {
        text.push_str(&format!("\n{title}:\n"));
        for flag in FLAGS.iter().filter(|flag| flag.section == section) {
            text.push_str(&entry(flag));
        }
    }
    text
}

fn entry(flag: &Flag) -> String {
    let none = if flag.meaning == Meaning::None { " No effect here." } else { "" };
    format!("  --{} '{}'\n    {}{none}\n", flag.name, flag.default, flag.help)
}

/// What `--version` prints: first the lines that tools read of etcd, then what this is.
pub fn version() -> String {
    let os = std::env::consts::OS;
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "etcd Version: {}\nGit SHA: Not provided\nGo Version: none (Rust)\nGo OS/Arch: {os}/{arch}\nKelson Version: {}\n",
        kelson_etcd::ETCD_VERSION,
        env!("CARGO_PKG_VERSION"),
    )
}

/// The flags as the rows of a Markdown table, for the documentation.
#[cfg(test)]
pub fn table() -> String {
    let mut text = String::from("| flag | takes | default | meaning |\n|---|---|---|---|\n");
    for flag in FLAGS.iter().filter(|flag| flag.meaning != Meaning::Past) {
        let takes = match flag.kind {
            Kind::Bool => "switch".to_owned(),
            Kind::Uint | Kind::Uint32 | Kind::Int => "number".to_owned(),
            Kind::Duration => "duration".to_owned(),
            Kind::Urls | Kind::Origins => "URLs".to_owned(),
            Kind::List | Kind::Set | Kind::ManyOf(_) => "list".to_owned(),
            Kind::OneOf(known) => known.join(" or "),
            Kind::Features => "gates".to_owned(),
            Kind::Text | Kind::Ignored => "text".to_owned(),
        };
        let default = if flag.default.is_empty() { String::new() } else { format!("`{}`", flag.default) };
        let none = if flag.meaning == Meaning::None { "**no effect.** " } else { "" };
        text.push_str(&format!(
            "| `--{}` | {takes} | {default} | {none}{} |\n",
            flag.name,
            flag.help.replace('|', "\\|")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_begins_as_etcds_does() {
        assert!(version().starts_with("etcd Version: 3.7.3\nGit SHA: "));
    }

    #[test]
    fn help_lists_every_flag_that_is_not_of_the_past() {
        let help = help() + &usage();
        for flag in FLAGS.iter().filter(|flag| flag.meaning != Meaning::Past) {
            assert!(help.contains(&format!("--{}", flag.name)), "{}", flag.name);
        }
    }

    #[test]
    fn the_documented_table_is_this_one() {
        let documentation = include_str!("../../docs/flags.md");
        assert!(documentation.contains(&table()), "docs/flags.md should hold:\n{}", table());
    }
}
