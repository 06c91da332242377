//! Taints and tolerations ("Taints and Tolerations" of the Kubernetes documentation).

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

impl Effect {
    /// Reads the API's name of it.
    pub fn parse(text: &str) -> Option<Effect> {
        match text {
            "NoSchedule" => Some(Effect::NoSchedule),
            "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
            "NoExecute" => Some(Effect::NoExecute),
            _ => None,
        }
    }
}

/// One taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: Effect,
}

/// How a toleration compares the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TolerationOperator {
    /// Key and value are the same.
    Equal,
    /// Any value.
    Exists,
    /// Anything this scheduler does not know tolerates nothing.
    Unknown,
}

/// One toleration of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// Empty for every key.
    pub key: String,
    pub operator: TolerationOperator,
    pub value: String,
    /// `None` for every effect.
    pub effect: Option<Effect>,
}

impl Toleration {
    /// Whether this toleration covers the taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match self.operator {
                TolerationOperator::Equal => self.value == taint.value,
                TolerationOperator::Exists => true,
                TolerationOperator::Unknown => false,
            }
    }
}

/// How one pod sees one set of taints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaintVerdict {
    /// It may run there; this many `PreferNoSchedule` taints speak against it.
    Tolerated { against: u32 },
    /// It may not.
    Untolerated,
}

/// Judges a node's taints, in their order.
pub(crate) fn judge(taints: &[Taint], tolerations: &[Toleration]) -> TaintVerdict {
    let mut against = 0;
    for taint in taints {
        if tolerations.iter().any(|toleration| toleration.tolerates(taint)) {
            continue;
        }
        match taint.effect {
            Effect::PreferNoSchedule => against += 1,
            Effect::NoSchedule | Effect::NoExecute => return TaintVerdict::Untolerated,
        }
    }
    TaintVerdict::Tolerated { against }
}

/// How many `PreferNoSchedule` taints speak against a node whose hard taints do not matter.
pub(crate) fn count_against(taints: &[Taint], tolerations: &[Toleration]) -> u32 {
    let soft = taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule);
    soft.filter(|taint| !tolerations.iter().any(|toleration| toleration.tolerates(taint))).count() as u32
}

/// Whether a pod may be placed on a cordoned node.
pub(crate) fn tolerates_cordon(tolerations: &[Toleration]) -> bool {
    let cordon =
        Taint { key: "node.kubernetes.io/unschedulable".to_string(), value: String::new(), effect: Effect::NoSchedule };
    tolerations.iter().any(|toleration| toleration.tolerates(&cordon))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: Effect) -> Taint {
        Taint { key: key.into(), value: value.into(), effect }
    }

    fn toleration(key: &str, operator: TolerationOperator, value: &str, effect: Option<Effect>) -> Toleration {
        Toleration { key: key.into(), operator, value: value.into(), effect }
    }

    #[test]
    fn tolerations_match_by_key_value_and_effect() {
        use TolerationOperator::{Equal, Exists, Unknown};
        let gpu = taint("gpu", "yes", Effect::NoSchedule);
        for (key, operator, value, effect, want) in [
            ("gpu", Equal, "yes", None, true),
            ("gpu", Equal, "no", None, false),
            ("gpu", Exists, "", Some(Effect::NoSchedule), true),
            ("gpu", Exists, "", Some(Effect::NoExecute), false),
            ("", Exists, "", None, true),
            ("disk", Exists, "", None, false),
            ("gpu", Unknown, "yes", None, false),
        ] {
            assert_eq!(toleration(key, operator, value, effect).tolerates(&gpu), want, "{key} {operator:?} {value}");
        }
    }

    #[test]
    fn preferences_count_and_hard_taints_keep_away() {
        let taints = [
            taint("a", "", Effect::PreferNoSchedule),
            taint("b", "", Effect::NoExecute),
            taint("c", "", Effect::NoSchedule),
        ];
        assert_eq!(judge(&taints, &[]), TaintVerdict::Untolerated);
        let all_hard = [
            toleration("b", TolerationOperator::Exists, "", None),
            toleration("c", TolerationOperator::Exists, "", None),
        ];
        assert_eq!(judge(&taints, &all_hard), TaintVerdict::Tolerated { against: 1 });
    }
}
