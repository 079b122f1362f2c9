//! The functions that templates can call: Go's own, and those that Docker adds.

use serde_json::Value;
use std::cmp::Ordering;

use super::printf::printf;
use super::value::{compare, equal, is_true, kind, nested_text, sorted};

/// A function of templates.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub call: Call,
    /// Whether it leaves the headings of a table as they are.
    pub keeps_headings: bool,
}

/// How a function is evaluated.
#[derive(Debug, Clone, Copy)]
pub enum Call {
    /// Over the values of its arguments.
    Eager(fn(&[&Value]) -> Outcome),
    /// The first argument with this truth, or else the last; what follows it is not evaluated.
    Until(bool),
}

/// What a function gives: a value, or what is wrong with its arguments.
pub type Outcome = Result<Value, String>;

/// The function of a name.
pub fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

const FUNCTIONS: [Function; 23] = [
    Function { name: "and", call: Call::Until(false), keeps_headings: false },
    Function { name: "or", call: Call::Until(true), keeps_headings: false },
    builtin("not", not),
    builtin("len", len),
    builtin("index", index),
    builtin("slice", slice),
    builtin("eq", eq),
    builtin("ne", |args| order(args, "ne a b", None)),
    builtin("lt", |args| order(args, "lt a b", Some((Ordering::Less, false)))),
    builtin("le", |args| order(args, "le a b", Some((Ordering::Greater, true)))),
    builtin("gt", |args| order(args, "gt a b", Some((Ordering::Greater, false)))),
    builtin("ge", |args| order(args, "ge a b", Some((Ordering::Less, true)))),
    builtin("print", print),
    builtin("println", println),
    builtin("printf", printf),
    docker("json", json),
    docker("join", join),
    docker("split", split),
    docker("lower", |args| change(args, "lower string", str::to_lowercase)),
    docker("upper", |args| change(args, "upper string", str::to_uppercase)),
    docker("title", |args| change(args, "title string", title)),
    docker("truncate", truncate),
    // Docker pads the headings too, for the columns to stay aligned.
    builtin("pad", pad),
];

const fn builtin(name: &'static str, call: fn(&[&Value]) -> Outcome) -> Function {
    Function { name, call: Call::Eager(call), keeps_headings: false }
}

const fn docker(name: &'static str, call: fn(&[&Value]) -> Outcome) -> Function {
    Function { name, call: Call::Eager(call), keeps_headings: true }
}

/// What is said to somebody who gave the wrong arguments.
pub fn misuse<T>(usage: &str, args: &[&Value]) -> Result<T, String> {
    let given: Vec<_> = args.iter().map(|value| kind(value)).collect();
    let given = if given.is_empty() { "nothing".to_owned() } else { given.join(", ") };
    Err(format!("wrong arguments: the usage is {usage:?}, and this was given: {given}"))
}

fn not(args: &[&Value]) -> Outcome {
    match args {
        [value] => Ok((!is_true(value)).into()),
        _ => misuse("not value", args),
    }
}

fn len(args: &[&Value]) -> Outcome {
    match args {
        // A list or map that Go has none of is empty, not an error.
        [Value::Null] => Ok(0.into()),
        [Value::String(text)] => Ok(text.len().into()),
        [Value::Array(items)] => Ok(items.len().into()),
        [Value::Object(map)] => Ok(map.len().into()),
        _ => misuse("len string|list|map", args),
    }
}

fn index(args: &[&Value]) -> Outcome {
    let [collection, keys @ ..] = args else {
        return misuse("index list|map key...", args);
    };
    let mut value = (*collection).clone();
    for key in keys {
        value = match (&value, key) {
            (Value::Array(items), Value::Number(_)) => {
                place(key).and_then(|place| items.get(place)).cloned().ok_or(format!("index out of range: {key}"))?
            }
            (Value::Object(map), Value::String(key)) => match map.get(key) {
                Some(value) => value.clone(),
                // Docker's maps of labels and options give an empty string for what they lack.
                None if map.values().all(Value::is_string) => "".into(),
                None => Value::Null,
            },
            (Value::String(text), Value::Number(_)) => {
                let byte = place(key).and_then(|place| text.as_bytes().get(place).copied());
                byte.map(Value::from).ok_or(format!("index out of range: {key}"))?
            }
            (value, key) => return misuse("index list|map key...", &[value, key]),
        };
    }
    Ok(value)
}

fn slice(args: &[&Value]) -> Outcome {
    const USAGE: &str = "slice string|list from to";
    let [value, bounds @ ..] = args else {
        return misuse(USAGE, args);
    };
    let length = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        _ => return misuse(USAGE, args),
    };
    let range = match bounds {
        [] => Some(0..length),
        [from] => place(from).map(|from| from..length),
        [from, to] => place(from).zip(place(to)).map(|(from, to)| from..to),
        _ => None,
    };
    let Some(range) = range else { return misuse(USAGE, args) };
    let part = match value {
        Value::String(text) => text.get(range).map(Value::from),
        Value::Array(items) => items.get(range).map(Value::from),
        _ => None,
    };
    part.ok_or_else(|| "slice: out of range".to_owned())
}

/// An index, or a number of characters.
fn place(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|number| usize::try_from(number).ok())
}

fn eq(args: &[&Value]) -> Outcome {
    let [left, rights @ ..] = args else {
        return misuse("eq a b...", args);
    };
    if rights.is_empty() {
        return misuse("eq a b...", args);
    }
    for right in rights {
        if equal(left, right)? {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

/// Compares two values: whether the order is the one wanted, or is not (`negated`); without one, whether they differ.
fn order(args: &[&Value], usage: &str, wanted: Option<(Ordering, bool)>) -> Outcome {
    match (args, wanted) {
        ([left, right], None) => Ok((!equal(left, right)?).into()),
        // No order, as with NaN, is never the wanted one.
        ([left, right], Some((wanted, negated))) => {
            Ok(compare(left, right)?.is_some_and(|order| (order == wanted) != negated).into())
        }
        _ => misuse(usage, args),
    }
}

/// Go's rule: there is a space between two operands only if neither is a string.
fn print(args: &[&Value]) -> Outcome {
    let mut printed = String::new();
    let mut after_string = true;
    for value in args {
        if !after_string && !value.is_string() {
            printed.push(' ');
        }
        after_string = value.is_string();
        printed.push_str(&nested_text(value));
    }
    Ok(printed.into())
}

fn println(args: &[&Value]) -> Outcome {
    Ok((args.iter().map(|value| nested_text(value)).collect::<Vec<_>>().join(" ") + "\n").into())
}

fn json(args: &[&Value]) -> Outcome {
    match args {
        [value] => Ok(value.to_string().into()),
        _ => misuse("json value", args),
    }
}

fn join(args: &[&Value]) -> Outcome {
    match args {
        [Value::Null, Value::String(_)] => Ok("".into()),
        [Value::Array(items), Value::String(separator)] => {
            Ok(items.iter().map(nested_text).collect::<Vec<_>>().join(separator).into())
        }
        [Value::Object(map), Value::String(separator)] => {
            let mut values: Vec<_> = sorted(map).into_iter().map(|(_, value)| nested_text(value)).collect();
            values.sort();
            Ok(values.join(separator).into())
        }
        _ => misuse("join list separator", args),
    }
}

fn split(args: &[&Value]) -> Outcome {
    match args {
        [Value::String(text), Value::String(separator)] if separator.is_empty() => {
            Ok(text.chars().map(String::from).collect())
        }
        [Value::String(text), Value::String(separator)] => Ok(text.split(separator.as_str()).collect()),
        _ => misuse("split string separator", args),
    }
}

fn change(args: &[&Value], usage: &str, change: fn(&str) -> String) -> Outcome {
    match args {
        [Value::String(text)] => Ok(change(text).into()),
        _ => misuse(usage, args),
    }
}

/// Makes the first letter of each word large.
fn title(text: &str) -> String {
    let mut in_word = false;
    let mut titled = String::with_capacity(text.len());
    for character in text.chars() {
        if in_word {
            titled.push(character);
        } else {
            titled.extend(character.to_uppercase());
        }
        in_word = character == '_' || character.is_alphanumeric();
    }
    titled
}

fn truncate(args: &[&Value]) -> Outcome {
    const USAGE: &str = "truncate string length";
    let [Value::String(text), length] = args else {
        return misuse(USAGE, args);
    };
    let Some(length) = place(length) else {
        return misuse(USAGE, args);
    };
    // Docker counts bytes and cuts characters in two; here the character is left out.
    Ok(text.get(..text.floor_char_boundary(length)).unwrap_or(text).into())
}

fn pad(args: &[&Value]) -> Outcome {
    const USAGE: &str = "pad string before after";
    /// More is no padding but a mistake, and would take all memory.
    const MOST: usize = 10_000;
    let [Value::String(text), before, after] = args else {
        return misuse(USAGE, args);
    };
    let (Some(before @ ..=MOST), Some(after @ ..=MOST)) = (place(before), place(after)) else {
        return misuse(USAGE, args);
    };
    Ok(if text.is_empty() { "".into() } else { format!("{:before$}{text}{:after$}", "", "").into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call(name: &str, args: &[Value]) -> Outcome {
        let Call::Eager(call) = find(name).unwrap().call else { panic!("{name}") };
        call(&args.iter().collect::<Vec<_>>())
    }

    #[test]
    fn does_what_go_and_docker_do() {
        for (name, args, expected) in [
            ("len", json!(["é"]), json!(2)),
            ("len", json!([null]), json!(0)),
            ("index", json!([{"a": "b"}, "c"]), json!("")),
            ("index", json!([{"a": [1]}, "c"]), json!(null)),
            ("index", json!([{"a": [1, 2]}, "a", 1]), json!(2)),
            ("index", json!(["abc", 1]), json!(98)),
            ("slice", json!(["abcdef", 1, 3]), json!("bc")),
            ("slice", json!([[1, 2, 3], 1]), json!([2, 3])),
            ("eq", json!(["a", "b", "a"]), json!(true)),
            ("eq", json!([null, "a"]), json!(false)),
            ("eq", json!([1, 1.0]), json!(true)),
            ("ne", json!([true, false]), json!(true)),
            ("le", json!([2, 2]), json!(true)),
            ("ge", json!([1, 2]), json!(false)),
            ("lt", json!(["a", "b"]), json!(true)),
            ("print", json!([1, 2, "a", 3, true]), json!("1 2a3 true")),
            ("println", json!([1, "a"]), json!("1 a\n")),
            ("json", json!([{"a": "<&>"}]), json!("{\"a\":\"<&>\"}")),
            ("join", json!([["a", 1], ", "]), json!("a, 1")),
            ("join", json!([{"x": "b", "y": "a"}, ","]), json!("a,b")),
            ("join", json!([null, ","]), json!("")),
            ("split", json!(["a,b,", ","]), json!(["a", "b", ""])),
            ("split", json!(["ab", ""]), json!(["a", "b"])),
            ("title", json!(["a b-c d_e"]), json!("A B-C D_e")),
            ("truncate", json!(["aé", 2]), json!("a")),
            ("truncate", json!(["aé", 9]), json!("aé")),
            ("pad", json!(["a", 1, 2]), json!(" a  ")),
            ("pad", json!(["", 1, 2]), json!("")),
        ] {
            let args = args.as_array().unwrap();
            assert_eq!(call(name, args).unwrap(), expected, "{name} {args:?}");
        }
    }

    #[test]
    fn tells_the_usage() {
        assert_eq!(
            call("upper", &[json!(1), json!([])]).unwrap_err(),
            "wrong arguments: the usage is \"upper string\", and this was given: a number, a list"
        );
        assert!(call("eq", &[json!("a"), json!(1)]).unwrap_err().contains("incompatible types"));
        assert!(call("index", &[json!([]), json!(0)]).unwrap_err().contains("out of range"));
        assert!(call("pad", &[json!("a"), json!(1), json!(1_000_000)]).is_err());
    }
}
