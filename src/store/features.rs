//! etcd's feature gates: known by name, with their defaults.

use std::collections::BTreeMap;

use super::value::parse_bool;

/// How far a feature is, which `AllAlpha` and `AllBeta` go by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
}

/// Name, stage, default. What each of them means here is in the documentation of the flags.
const FEATURES: &[(&str, Stage, bool)] = &[
    ("CompactHashCheck", Stage::Alpha, false),
    ("FastLeaseKeepAlive", Stage::Beta, true),
    ("InitialCorruptCheck", Stage::Alpha, false),
    ("LeaseCheckpoint", Stage::Alpha, false),
    ("LeaseCheckpointPersist", Stage::Alpha, false),
    ("PriorityRequest", Stage::Alpha, false),
    ("SetMemberLocalAddr", Stage::Alpha, false),
    ("StopGRPCServiceOnDefrag", Stage::Alpha, false),
    ("TxnModeWriteWithSharedBuffer", Stage::Beta, true),
];

/// What was asked for, by name; `AllAlpha` and `AllBeta` are spread over the features that were not named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    asked: BTreeMap<&'static str, bool>,
}

impl Features {
    /// Reads `A=true,B=false`.
    ///
    /// # Errors
    /// etcd's text for what is wrong.
    pub fn parse(text: &str) -> Result<Features, String> {
        let mut asked = BTreeMap::new();
        let mut all = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("missing bool value for {pair}"));
            };
            let (name, value) = (name.trim(), value.trim());
            let Some(on) = parse_bool(value) else {
                return Err(format!(
                    "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
                ));
            };
            match name {
                "AllAlpha" => all.push((Stage::Alpha, on)),
                "AllBeta" => all.push((Stage::Beta, on)),
                _ => match FEATURES.iter().find(|(known, ..)| *known == name) {
                    Some((known, ..)) => drop(asked.insert(*known, on)),
                    None => return Err(format!("unrecognized feature gate: {name}")),
                },
            }
        }
        for (stage, on) in all {
            for (name, ..) in FEATURES.iter().filter(|(_, of, _)| *of == stage) {
                asked.entry(name).or_insert(on);
            }
        }
        Ok(Features { asked })
    }

    /// Whether a feature is on. Of a name that is none: off.
    pub fn enabled(&self, name: &str) -> bool {
        let default = FEATURES.iter().find(|(known, ..)| *known == name).is_some_and(|(.., default)| *default);
        self.asked.get(name).copied().unwrap_or(default)
    }
}

impl std::fmt::Display for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs: Vec<_> = self.asked.iter().map(|(name, on)| format!("{name}={on}")).collect();
        f.write_str(&pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_gates_and_refuses_in_etcds_words() {
        let gates = Features::parse("AllAlpha=true, LeaseCheckpoint=false").unwrap();
        assert!(gates.enabled("PriorityRequest") && !gates.enabled("LeaseCheckpoint"));
        assert!(Features::default().enabled("FastLeaseKeepAlive"));
        assert!(!Features::parse("AllBeta=false").unwrap().enabled("FastLeaseKeepAlive"));
        assert_eq!(Features::parse("Foo=true"), Err("unrecognized feature gate: Foo".into()));
        assert_eq!(Features::parse("AllAlpha"), Err("missing bool value for AllAlpha".into()));
    }
}
