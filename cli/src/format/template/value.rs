//! What Go's templates think of values: their text, their truth and their order.

use serde_json::{Map, Number, Value};
use std::cmp::Ordering;

use crate::format::float;

/// A number as templates reckon with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Numeric {
    /// An integer.
    Integer(i128),
    /// A fraction, or what is too large for an integer.
    Float(f64),
}

impl Numeric {
    /// The number of a JSON number.
    pub fn of(number: &Number) -> Self {
        match number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)) {
            Some(integer) => Self::Integer(integer),
            None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
        }
    }

    fn float(self) -> f64 {
        match self {
            #[allow(clippy::cast_precision_loss, reason = "it is compared with a number that has no more precision")]
            Self::Integer(integer) => integer as f64,
            Self::Float(float) => float,
        }
    }
}

/// The text that `{{.}}` prints.
pub fn text(value: &Value) -> String {
    if value.is_null() { "<no value>".to_owned() } else { nested_text(value) }
}

/// The text of a value inside of another, and of an argument of `print`: Go's `%v`.
pub fn nested_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => match Numeric::of(number) {
            Numeric::Integer(integer) => integer.to_string(),
            Numeric::Float(value) => float::general(value, None),
        },
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(nested_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries = sorted(map).into_iter().map(|(key, value)| format!("{key}:{}", nested_text(value)));
            format!("map[{}]", entries.collect::<Vec<_>>().join(" "))
        }
    }
}

/// Whether `if` and `with` take the value for true: it is not zero and not empty.
pub fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => Numeric::of(number).float() != 0.0,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// The entries in the order of their keys, which is the order of Go's templates.
pub fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

/// What the value is, for the messages of errors.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "no value",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// Whether the values are equal; an error if they cannot be compared.
pub fn equal(left: &Value, right: &Value) -> Result<bool, String> {
    match (left, right) {
        (Value::Null, other) | (other, Value::Null) => Ok(other.is_null()),
        (Value::Bool(left), Value::Bool(right)) => Ok(left == right),
        _ => Ok(compare(left, right)? == Some(Ordering::Equal)),
    }
}

/// The order of two strings or two numbers; none if one is not a number at all.
pub fn compare(left: &Value, right: &Value) -> Result<Option<Ordering>, String> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Ok(Some(left.cmp(right))),
        (Value::Number(left), Value::Number(right)) => Ok(match (Numeric::of(left), Numeric::of(right)) {
            (Numeric::Integer(left), Numeric::Integer(right)) => Some(left.cmp(&right)),
            (left, right) => left.float().partial_cmp(&right.float()),
        }),
        _ => Err(format!("incompatible types for comparison: {} and {}", kind(left), kind(right))),
    }
}
