//! Integer expressions, as `$((…))` and `expr` have them.

/// Integer arithmetic with `+ - * / %`, comparisons and parentheses. `None` if it is malformed.
pub(crate) fn arithmetic(text: &str, value: &dyn Fn(&str) -> String) -> Option<i64> {
    let mut sum = Sum { text: text.as_bytes(), at: 0, depth: 0, value };
    let result = sum.comparison()?;
    sum.blank();
    (sum.at == sum.text.len()).then_some(result)
}

struct Sum<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
    value: &'a dyn Fn(&str) -> String,
}

impl Sum<'_> {
    fn blank(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn eat(&mut self, operator: &str) -> bool {
        self.blank();
        let found = self.text[self.at.min(self.text.len())..].starts_with(operator.as_bytes());
        self.at += if found { operator.len() } else { 0 };
        found
    }

    fn comparison(&mut self) -> Option<i64> {
        let left = self.terms()?;
        for (operator, holds) in [
            ("<=", i64::le as fn(&i64, &i64) -> bool),
            (">=", i64::ge),
            ("==", i64::eq),
            ("!=", i64::ne),
            ("<", i64::lt),
            (">", i64::gt),
        ] {
            if self.eat(operator) {
                return Some(i64::from(holds(&left, &self.terms()?)));
            }
        }
        Some(left)
    }

    fn terms(&mut self) -> Option<i64> {
        let mut left = self.factors()?;
        loop {
            if self.eat("+") {
                left = left.checked_add(self.factors()?)?;
            } else if self.eat("-") {
                left = left.checked_sub(self.factors()?)?;
            } else {
                return Some(left);
            }
        }
    }

    fn factors(&mut self) -> Option<i64> {
        let mut left = self.atom()?;
        loop {
            if self.eat("*") {
                left = left.checked_mul(self.atom()?)?;
            } else if self.eat("/") {
                left = left.checked_div(self.atom()?)?;
            } else if self.eat("%") {
                left = left.checked_rem(self.atom()?)?;
            } else {
                return Some(left);
            }
        }
    }

    fn atom(&mut self) -> Option<i64> {
        self.depth += 1;
        if self.depth > 64 {
            return None;
        }
        let value = if self.eat("(") {
            let inner = self.comparison()?;
            self.eat(")").then_some(inner)?
        } else if self.eat("-") {
            self.atom()?.checked_neg()?
        } else {
            self.eat("$");
            let start = self.at;
            while self.text.get(self.at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
                self.at += 1;
            }
            let word = std::str::from_utf8(&self.text[start..self.at]).ok()?;
            if word.starts_with(|c: char| c.is_ascii_digit()) {
                word.parse().ok()?
            } else {
                (!word.is_empty()).then(|| (self.value)(word).trim().parse().unwrap_or(0))?
            }
        };
        self.depth -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_worked_out_and_nonsense_is_refused() {
        let value = |text: &str| arithmetic(text, &|name| if name == "i" { "4".into() } else { String::new() });
        assert_eq!(value("1 + 2*3 - -i"), Some(11));
        assert_eq!(value("(i+1) % 3 == 2"), Some(1));
        assert_eq!(value("$i / 0"), None);
        assert_eq!(value("unknown"), Some(0));
        for bad in ["", "1 +", "(1", "1 2", "9223372036854775807*2"] {
            assert_eq!(value(bad), None, "{bad}");
        }
        assert_eq!(value(&"(".repeat(1_000)), None);
    }
}
