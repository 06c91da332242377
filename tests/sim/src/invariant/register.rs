//! What clients saw of each register can be explained by one order, each request taking effect between its call and its
//! answer.

use crate::{
    client::{REGISTERS, Told, Wanted, mark, register},
    linear::{self, Action, Call},
    truth::Truth,
};

pub fn check(told: &Told, truth: &Truth, found: &mut Vec<String>) {
    for at in 0..REGISTERS {
        let mut calls = told.registers[at].clone();
        calls.extend(told.cut.iter().filter(|cut| cut.register == at).filter_map(|cut| {
            // Without an answer: that it took effect shows in what was applied, and it did so no later than that.
            let key = if matches!(cut.wanted, Wanted::Delete) { mark(at) } else { register(at) };
            let (_, step) = truth.written(&key, cut.number)?;
            let to = Some(cut.number);
            let action = match cut.wanted {
                Wanted::Put => Action::MaybeWrite { to },
                Wanted::Delete => Action::MaybeWrite { to: None },
                Wanted::Swap { from } => Action::MaybeSwap { from, to },
            };
            Some(Call { start: cut.start, end: step.tick.max(cut.start + 1), action })
        }));
        if let Err(violation) = linear::check(&calls) {
            found.push(format!("register {at}: {violation}"));
        }
    }
}
