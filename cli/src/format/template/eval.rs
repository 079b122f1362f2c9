//! Carries out the tree of a template over a value.

use serde_json::Value;
use std::borrow::Cow;
use std::ops::Range;

use super::Fault;
use super::ast::{Base, Branch, Command, Node, Operand, Pipeline};
use super::functions::{Call, Function};
use super::value::{is_true, kind, sorted, text};

/// Values are borrowed from the object that is rendered as long as no function made them.
type Val<'v> = Cow<'v, Value>;

/// What a map gives for a key it lacks. Other than a `null` that is there, it has all fields, and they are missing too.
static MISSING: Value = Value::Null;

/// Renders a template over an object, or over the `headings` of a table. What was printed before a fault is given too.
pub fn render(nodes: &[Node], root: &Value, headings: bool) -> (String, Option<Fault>) {
    let variables = vec![("$", Cow::Borrowed(root))];
    let mut renderer = Renderer { root, headings, variables, printed: String::new() };
    let fault = renderer.nodes(nodes, &Cow::Borrowed(root)).err();
    (renderer.printed, fault)
}

/// A range over a number counts no further than this.
const MOST: i64 = 1_000_000;

/// What to do behind a node.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Renderer<'t, 'v> {
    root: &'v Value,
    headings: bool,
    /// The innermost last.
    variables: Vec<(&'t str, Val<'v>)>,
    printed: String,
}

impl<'t, 'v> Renderer<'t, 'v> {
    fn nodes(&mut self, nodes: &'t [Node], dot: &Val<'v>) -> Result<Flow, Fault> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &'t Node, dot: &Val<'v>) -> Result<Flow, Fault> {
        let known = self.variables.len();
        let flow = match node {
            Node::Text(text) => {
                self.printed.push_str(text);
                Flow::On
            }
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.printed.push_str(&text(&value));
                }
                // The variables of an action are there up to the end of what is around it.
                return Ok(Flow::On);
            }
            Node::If(branch) | Node::With(branch) => {
                let value = self.pipeline(&branch.pipeline, dot)?;
                let dot = if matches!(node, Node::With(_)) && is_true(&value) { &value } else { dot };
                self.nodes(if is_true(&value) { &branch.then } else { &branch.otherwise }, dot)?
            }
            Node::Range(branch) => self.range(branch, dot)?,
            Node::Break => Flow::Break,
            Node::Continue => Flow::Continue,
        };
        self.variables.truncate(known);
        Ok(flow)
    }

    fn range(&mut self, branch: &'t Branch, dot: &Val<'v>) -> Result<Flow, Fault> {
        let pipeline = &branch.pipeline;
        let value = self.commands(pipeline, dot)?;
        let Some(entries) = entries(&value) else {
            let what = kind(&value);
            return Err(Fault::new(span(pipeline), format!("range can't iterate over {what}")));
        };
        if entries.is_empty() {
            return self.nodes(&branch.otherwise, dot);
        }
        for (key, item) in entries {
            let known = self.variables.len();
            match pipeline.variables.as_slice() {
                [value] => self.set(value, pipeline.assigns, item.clone()),
                [name, value] => {
                    self.set(name, pipeline.assigns, Cow::Owned(key));
                    self.set(value, pipeline.assigns, item.clone());
                }
                _ => {}
            }
            let flow = self.nodes(&branch.then, &item)?;
            self.variables.truncate(known);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn set(&mut self, name: &'t str, assigns: bool, value: Val<'v>) {
        match self.variables.iter_mut().rfind(|(known, _)| assigns && *known == name) {
            Some((_, old)) => *old = value,
            None => self.variables.push((name, value)),
        }
    }

    fn pipeline(&mut self, pipeline: &'t Pipeline, dot: &Val<'v>) -> Result<Val<'v>, Fault> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, pipeline.assigns, value.clone());
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &'t Pipeline, dot: &Val<'v>) -> Result<Val<'v>, Fault> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        // The parser lets no pipeline be without a command.
        Ok(value.unwrap_or(Cow::Owned(Value::Null)))
    }

    fn command(&mut self, command: &'t Command, dot: &Val<'v>, piped: Option<Val<'v>>) -> Result<Val<'v>, Fault> {
        let Command { head, arguments } = command;
        if let Base::Function(function) = head.base {
            return self.call(function, head, arguments, dot, piped);
        }
        if arguments.is_empty() && piped.is_none() {
            return self.operand(head, dot);
        }
        let mut values = arguments.iter().map(|argument| self.operand(argument, dot)).collect::<Result<Vec<_>, _>>()?;
        values.extend(piped);
        match (head.fields.as_slice(), values.as_slice()) {
            ([.., field], [argument]) if let Value::String(name) = argument.as_ref() => {
                self.method(head, field, name, dot)
            }
            _ => Err(Fault::new(head.at.clone(), "can't give argument to non-function")),
        }
    }

    /// `.Label "name"`: a method in Docker, and here the entry of a map, if there is one.
    fn method(&mut self, head: &'t Operand, field: &str, name: &str, dot: &Val<'v>) -> Result<Val<'v>, Fault> {
        if self.headings && field == "Label" {
            let last = name.rsplit('.').next().unwrap_or(name);
            return Ok(Cow::Owned(last.replace(['-', '_'], " ").into()));
        }
        match self.operand(head, dot)?.as_ref() {
            Value::Object(map) => Ok(Cow::Owned(map.get(name).cloned().unwrap_or_else(|| "".into()))),
            _ => Err(Fault::new(head.at.clone(), "can't give argument to non-function")),
        }
    }

    fn call(
        &mut self,
        function: &Function,
        head: &Operand,
        arguments: &'t [Operand],
        dot: &Val<'v>,
        piped: Option<Val<'v>>,
    ) -> Result<Val<'v>, Fault> {
        let fault = |message: String| Fault::new(head.at.clone(), message);
        let mut values = Vec::new();
        for argument in arguments {
            let value = self.operand(argument, dot)?;
            if matches!(function.call, Call::Until(truth) if is_true(&value) == truth) {
                return Ok(value);
            }
            values.push(value);
        }
        values.extend(piped);
        if self.headings && function.keeps_headings && !values.is_empty() {
            return Ok(values.swap_remove(0));
        }
        match function.call {
            Call::Until(_) => values.pop().ok_or_else(|| fault("it wants one argument at least".to_owned())),
            Call::Eager(call) => {
                let values: Vec<_> = values.iter().map(AsRef::as_ref).collect();
                call(&values).map(Cow::Owned).map_err(fault)
            }
        }
    }

    fn operand(&mut self, operand: &'t Operand, dot: &Val<'v>) -> Result<Val<'v>, Fault> {
        let base = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Variable(name) => {
                let found = self.variables.iter().rfind(|(known, _)| known == name);
                found.map(|(_, value)| value.clone()).unwrap_or(Cow::Owned(Value::Null))
            }
            Base::Literal(value) => Cow::Owned(value.clone()),
            Base::Function(function) => self.call(function, operand, &[], dot, None)?,
            Base::Group(pipeline) => self.pipeline(pipeline, dot)?,
        };
        operand.fields.iter().try_fold(base, |value, name| self.field(value, name, &operand.at))
    }

    fn field(&self, value: Val<'v>, name: &str, at: &Range<usize>) -> Result<Val<'v>, Fault> {
        let is = |other| matches!(value, Cow::Borrowed(value) if std::ptr::eq(value, other));
        let fault = |message| Err(Fault::new(at.clone(), message));
        match (value.as_ref(), child(&value, name)) {
            (_, Some(item)) => Ok(item),
            (Value::Object(map), None) if is(self.root) => {
                let names: Vec<_> = sorted(map).into_iter().map(|(name, _)| name.as_str()).collect();
                let message = format!("there is no field {name:?}; the fields are {}", names.join(", "));
                Err(Fault { unknown_field: true, ..Fault::new(at.clone(), message) })
            }
            (Value::Object(_), None) => Ok(Cow::Borrowed(&MISSING)),
            (Value::Null, None) if is(&MISSING) => Ok(value),
            (Value::Null, None) => fault(format!("there is no value to take the field {name:?} from")),
            (value, None) => fault(format!("can't evaluate field {name:?} in {}", kind(value))),
        }
    }
}

/// The field of a map, borrowed if the map is.
fn child<'v>(value: &Val<'v>, name: &str) -> Option<Val<'v>> {
    match value {
        Cow::Borrowed(value) => value.as_object()?.get(name).map(Cow::Borrowed),
        Cow::Owned(value) => value.as_object()?.get(name).cloned().map(Cow::Owned),
    }
}

/// The keys and items of what a range goes over; none if it cannot.
fn entries<'v>(value: &Val<'v>) -> Option<Vec<(Value, Val<'v>)>> {
    Some(match value {
        Cow::Borrowed(Value::Array(items)) => {
            items.iter().enumerate().map(|(place, item)| (place.into(), Cow::Borrowed(item))).collect()
        }
        Cow::Borrowed(Value::Object(map)) => {
            sorted(map).into_iter().map(|(key, item)| (key.as_str().into(), Cow::Borrowed(item))).collect()
        }
        Cow::Owned(Value::Array(items)) => {
            items.iter().enumerate().map(|(place, item)| (place.into(), Cow::Owned(item.clone()))).collect()
        }
        Cow::Owned(Value::Object(map)) => {
            sorted(map).into_iter().map(|(key, item)| (key.as_str().into(), Cow::Owned(item.clone()))).collect()
        }
        value => match value.as_ref() {
            Value::Null => Vec::new(),
            // A range over a number counts from zero.
            Value::Number(number) => {
                (0..number.as_i64()?.min(MOST)).map(|number| (number.into(), Cow::Owned(number.into()))).collect()
            }
            _ => return None,
        },
    })
}

/// Where a pipeline stands, without its variables.
fn span(pipeline: &Pipeline) -> Range<usize> {
    let end = |command: &Command| command.arguments.last().unwrap_or(&command.head).at.end;
    match pipeline.commands.as_slice() {
        [first, .., last] => first.head.at.start..end(last),
        [only] => only.head.at.start..end(only),
        [] => 0..0,
    }
}
