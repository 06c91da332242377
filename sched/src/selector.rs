//! Node selectors and node affinity terms, compiled against the labels that nodes carry now.

use std::sync::Arc;

use crate::intern::{Interner, Symbol};

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    /// The label is an integer greater than the requirement's only value.
    Gt,
    /// The label is an integer less than the requirement's only value.
    Lt,
}

impl Operator {
    /// Reads the API's name of it.
    pub fn parse(text: &str) -> Option<Operator> {
        match text {
            "In" => Some(Operator::In),
            "NotIn" => Some(Operator::NotIn),
            "Exists" => Some(Operator::Exists),
            "DoesNotExist" => Some(Operator::DoesNotExist),
            "Gt" => Some(Operator::Gt),
            "Lt" => Some(Operator::Lt),
            _ => None,
        }
    }
}

/// One entry of `matchExpressions` or `matchFields`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    pub key: Arc<str>,
    pub operator: Operator,
    pub values: Vec<Arc<str>>,
}

/// One term: all its requirements hold. A term without any matches no node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSelectorTerm {
    /// On labels.
    pub expressions: Vec<Requirement>,
    /// On fields; the API knows `metadata.name` only.
    pub fields: Vec<Requirement>,
}

impl NodeSelectorTerm {
    /// Whether there is no requirement.
    pub fn is_empty(&self) -> bool {
        self.expressions.is_empty() && self.fields.is_empty()
    }
}

/// The field that `matchFields` can name.
pub(crate) const NAME_FIELD: &str = "metadata.name";

/// Labels of a node: pairs of symbols, sorted by key.
pub(crate) type Labels = [(Symbol, Symbol)];

/// The value of a label.
fn label(labels: &Labels, key: Symbol) -> Option<Symbol> {
    labels.binary_search_by_key(&key, |(have, _)| *have).ok().map(|at| labels[at].1)
}

/// A requirement with its strings resolved; valid until a node's labels change.
#[derive(Debug)]
enum Test {
    In(Symbol, Vec<Symbol>),
    NotIn(Symbol, Vec<Symbol>),
    Exists(Symbol),
    DoesNotExist(Symbol),
    Compare(Symbol, i64, bool),
    Name(Vec<Arc<str>>, bool),
    /// True of every node, or of none.
    Constant(bool),
}

impl Test {
    fn compile(requirement: &Requirement, interner: &Interner) -> Test {
        let key = interner.find(&requirement.key);
        // A value that no node carries cannot be equal to any node's.
        let values = || requirement.values.iter().filter_map(|value| interner.find(value)).collect();
        match (requirement.operator, key) {
            (Operator::In, Some(key)) => Test::In(key, values()),
            (Operator::NotIn, Some(key)) => Test::NotIn(key, values()),
            (Operator::Exists, Some(key)) => Test::Exists(key),
            (Operator::DoesNotExist, Some(key)) => Test::DoesNotExist(key),
            (Operator::Gt | Operator::Lt, Some(key)) => match requirement.values.as_slice() {
                [bound] => bound.parse().map_or(Test::Constant(false), |bound| {
                    Test::Compare(key, bound, requirement.operator == Operator::Gt)
                }),
                _ => Test::Constant(false),
            },
            (operator, None) => Test::Constant(matches!(operator, Operator::NotIn | Operator::DoesNotExist)),
        }
    }

    fn field(requirement: &Requirement) -> Test {
        match (&*requirement.key, requirement.operator) {
            (NAME_FIELD, Operator::In) => Test::Name(requirement.values.clone(), true),
            (NAME_FIELD, Operator::NotIn) => Test::Name(requirement.values.clone(), false),
            _ => Test::Constant(false),
        }
    }

    fn holds(&self, name: &str, labels: &Labels, interner: &Interner) -> bool {
        match self {
            Test::In(key, values) => label(labels, *key).is_some_and(|value| values.contains(&value)),
            Test::NotIn(key, values) => label(labels, *key).is_none_or(|value| !values.contains(&value)),
            Test::Exists(key) => label(labels, *key).is_some(),
            Test::DoesNotExist(key) => label(labels, *key).is_none(),
            Test::Compare(key, bound, greater) => label(labels, *key)
                .and_then(|value| interner.text(value).parse::<i64>().ok())
                .is_some_and(|value| if *greater { value > *bound } else { value < *bound }),
            Test::Name(names, wanted) => names.iter().any(|have| &**have == name) == *wanted,
            Test::Constant(holds) => *holds,
        }
    }
}

/// A compiled term.
#[derive(Debug)]
pub(crate) struct Term(Vec<Test>);

impl Term {
    pub fn compile(term: &NodeSelectorTerm, interner: &Interner) -> Term {
        if term.is_empty() {
            return Term(vec![Test::Constant(false)]);
        }
        let expressions = term.expressions.iter().map(|requirement| Test::compile(requirement, interner));
        Term(expressions.chain(term.fields.iter().map(Test::field)).collect())
    }

    pub fn matches(&self, name: &str, labels: &Labels, interner: &Interner) -> bool {
        self.0.iter().all(|test| test.holds(name, labels, interner))
    }
}

/// A compiled `nodeSelector` and required node affinity.
#[derive(Debug)]
pub(crate) struct Required {
    pairs: Option<Vec<(Symbol, Symbol)>>,
    terms: Option<Vec<Term>>,
}

impl Required {
    pub fn compile(
        selector: &[(Arc<str>, Arc<str>)],
        terms: Option<&[NodeSelectorTerm]>,
        interner: &Interner,
    ) -> Required {
        let pair = |(key, value): &(Arc<str>, Arc<str>)| Some((interner.find(key)?, interner.find(value)?));
        Required {
            pairs: selector.iter().map(pair).collect(),
            terms: terms.map(|terms| terms.iter().map(|term| Term::compile(term, interner)).collect()),
        }
    }

    pub fn matches(&self, name: &str, labels: &Labels, interner: &Interner) -> bool {
        let Some(pairs) = &self.pairs else { return false };
        pairs.iter().all(|(key, value)| label(labels, *key) == Some(*value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels, interner)))
    }
}

/// The only nodes that required terms leave, where every term names nodes: what a DaemonSet's pods carry. Sorted.
/// `None`: terms do not restrict by name. Empty: the terms contradict themselves.
pub(crate) fn named_nodes(terms: &[NodeSelectorTerm]) -> Option<Vec<Arc<str>>> {
    let mut names: Vec<Arc<str>> = Vec::new();
    if terms.is_empty() {
        return None;
    }
    for term in terms {
        let mut of_term: Option<Vec<Arc<str>>> = None;
        let named = term.fields.iter().filter(|field| &*field.key == NAME_FIELD && field.operator == Operator::In);
        for field in named {
            of_term = Some(match of_term {
                None => field.values.clone(),
                Some(before) => before.into_iter().filter(|name| field.values.contains(name)).collect(),
            });
        }
        names.extend(of_term?);
    }
    names.sort_unstable();
    names.dedup();
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
        Requirement { key: key.into(), operator, values: values.iter().map(|value| (*value).into()).collect() }
    }

    #[test]
    fn every_operator_on_present_and_absent_labels() {
        let mut interner = Interner::default();
        let mut labels = [("zone", "a"), ("cores", "8")].map(|(key, value)| (interner.hold(key), interner.hold(value)));
        labels.sort_unstable();
        for (key, operator, values, want) in [
            ("zone", Operator::In, &["b", "a"][..], true),
            ("zone", Operator::In, &["b"], false),
            ("disk", Operator::In, &["b"], false),
            ("zone", Operator::NotIn, &["a"], false),
            ("zone", Operator::NotIn, &["b"], true),
            ("disk", Operator::NotIn, &["a"], true),
            ("zone", Operator::Exists, &[], true),
            ("disk", Operator::Exists, &[], false),
            ("zone", Operator::DoesNotExist, &[], false),
            ("disk", Operator::DoesNotExist, &[], true),
            ("cores", Operator::Gt, &["7"], true),
            ("cores", Operator::Gt, &["8"], false),
            ("cores", Operator::Lt, &["9"], true),
            ("zone", Operator::Lt, &["9"], false),
            ("cores", Operator::Lt, &["many"], false),
            ("disk", Operator::Gt, &["1"], false),
        ] {
            let term = NodeSelectorTerm { expressions: vec![requirement(key, operator, values)], fields: vec![] };
            let got = Term::compile(&term, &interner).matches("n1", &labels, &interner);
            assert_eq!(got, want, "{key} {operator:?} {values:?}");
        }
        let nothing = Term::compile(&NodeSelectorTerm::default(), &interner);
        assert!(!nothing.matches("n1", &labels, &interner), "an empty term matches no node");
    }

    #[test]
    fn terms_that_name_nodes_are_found() {
        let by_name = |names: &[&str]| NodeSelectorTerm {
            expressions: vec![],
            fields: vec![requirement(NAME_FIELD, Operator::In, names)],
        };
        assert_eq!(named_nodes(&[by_name(&["b"]), by_name(&["a"])]), Some(vec!["a".into(), "b".into()]));
        assert_eq!(named_nodes(&[by_name(&["b"]), NodeSelectorTerm::default()]), None);
        let mut contradiction = by_name(&["a"]);
        contradiction.fields.push(requirement(NAME_FIELD, Operator::In, &["b"]));
        assert_eq!(named_nodes(&[contradiction]), Some(vec![]));
    }
}
