//! Floating point numbers as Go prints them.

/// Go's `%g`: the fewest digits that read back as the same number, or `precision` significant digits without the
/// zeros at their end; with an exponent where the number is very large or very small.
pub fn general(value: f64, precision: Option<usize>) -> String {
    let Some(decimal) = Decimal::new(value, precision.map(|precision| precision.max(1) - 1)) else {
        return not_finite(value);
    };
    let limit = precision.map_or(6, |precision| i32::try_from(precision.max(1)).unwrap_or(i32::MAX));
    if decimal.exponent < -4 || decimal.exponent >= limit { decimal.scientific() } else { decimal.plain() }
}

/// Go's `%e`: one digit, the fraction and an exponent of at least two digits.
pub fn scientific(value: f64, precision: usize) -> String {
    Decimal::new(value, Some(precision))
        .map_or_else(|| not_finite(value), |decimal| decimal.padded(precision).scientific())
}

/// Go's `%f`.
pub fn fixed(value: f64, precision: usize) -> String {
    if value.is_finite() { format!("{value:.precision$}") } else { not_finite(value) }
}

fn not_finite(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN",
        _ if value > 0.0 => "+Inf",
        _ => "-Inf",
    }
    .to_owned()
}

/// `[-]d.ddd × 10^exponent`, without zeros at the end of its digits.
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i32,
}

impl Decimal {
    /// Takes apart what Rust's own `{:e}` says; none for infinities and NaN.
    fn new(value: f64, fraction: Option<usize>) -> Option<Self> {
        let text = match fraction {
            Some(fraction) => format!("{value:.fraction$e}"),
            None => format!("{value:e}"),
        };
        let (mantissa, exponent) = text.split_once('e')?;
        let digits = mantissa.trim_start_matches('-').replace('.', "");
        let digits = match digits.trim_end_matches('0') {
            "" => "0",
            digits => digits,
        };
        Some(Self { negative: mantissa.starts_with('-'), digits: digits.to_owned(), exponent: exponent.parse().ok()? })
    }

    fn padded(mut self, fraction: usize) -> Self {
        while self.digits.len() <= fraction {
            self.digits.push('0');
        }
        self
    }

    fn scientific(&self) -> String {
        let sign = if self.negative { "-" } else { "" };
        let (first, rest) = self.digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let exponent_sign = if self.exponent < 0 { '-' } else { '+' };
        format!("{sign}{first}{point}{rest}e{exponent_sign}{:02}", self.exponent.unsigned_abs())
    }

    fn plain(&self) -> String {
        let sign = if self.negative { "-" } else { "" };
        let Ok(whole) = usize::try_from(self.exponent) else {
            let zeros = usize::try_from(self.exponent.unsigned_abs()).unwrap_or_default() - 1;
            return format!("{sign}0.{}{}", "0".repeat(zeros), self.digits);
        };
        match self.digits.split_at_checked(whole + 1) {
            Some((whole, "")) => format!("{sign}{whole}"),
            Some((whole, fraction)) => format!("{sign}{whole}.{fraction}"),
            None => format!("{sign}{}{}", self.digits, "0".repeat(whole + 1 - self.digits.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_go_prints() {
        for (value, precision, expected) in [
            (0.0, None, "0"),
            (1.5, None, "1.5"),
            (-12.0, None, "-12"),
            (0.00012, None, "0.00012"),
            (0.000012, None, "1.2e-05"),
            (123456789.0, None, "1.23456789e+08"),
            (123456.5, None, "123456.5"),
            (1e6, None, "1e+06"),
            (999.9, Some(3), "1e+03"),
            (18.64, Some(3), "18.6"),
            (100.0, Some(4), "100"),
            (1.0204, Some(4), "1.02"),
            (f64::INFINITY, None, "+Inf"),
        ] {
            assert_eq!(general(value, precision), expected);
        }
        assert_eq!(scientific(1234.5, 2), "1.23e+03");
        assert_eq!(scientific(2.0, 3), "2.000e+00");
        assert_eq!(fixed(1.005, 1), "1.0");
    }
}
