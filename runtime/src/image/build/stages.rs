//! Which stages a build needs, and in which order.

use super::args::Args;
use super::bases::NamedContext;
use super::dockerfile::{Dockerfile, Step};
use super::instruction::Instruction;
use super::{BuildError, Problem, expand};
use crate::image::Images;
use crate::store::Store;

/// What FROM, or a COPY of another place, takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Scratch,
    Stage(usize),
    Named(NamedContext),
    Image(String),
}

/// A Dockerfile, and what its names mean.
#[derive(Debug)]
pub(super) struct Stages<'a> {
    pub dockerfile: &'a Dockerfile,
    pub contexts: &'a [(String, NamedContext)],
    pub args: &'a Args,
    pub store: &'a Store,
}

impl Stages<'_> {
    /// The stage that `--target` names, or the last.
    pub fn target(&self, wanted: Option<&str>) -> Result<usize, BuildError> {
        let Some(name) = wanted else { return Ok(self.dockerfile.stages.len().saturating_sub(1)) };
        self.dockerfile.find(name).ok_or_else(|| {
            self.dockerfile.failed(Problem::NoStage { name: name.to_owned(), known: self.dockerfile.names() })
        })
    }

    /// The stages that this one needs, in the order in which they can be built; itself last.
    pub fn needed(&self, target: usize) -> Result<Vec<usize>, BuildError> {
        let mut order = Vec::new();
        self.visit(target, &mut Vec::new(), &mut order)?;
        Ok(order)
    }

    fn visit(&self, index: usize, path: &mut Vec<usize>, order: &mut Vec<usize>) -> Result<(), BuildError> {
        if order.contains(&index) {
            return Ok(());
        }
        path.push(index);
        for (needed, step) in self.needs(index)? {
            if path.contains(&needed) {
                let circle = path.iter().skip_while(|stage| **stage != needed).chain([&needed]);
                let names: Vec<String> = circle.map(|stage| self.dockerfile.stage_name(*stage)).collect();
                return Err(step.failed(Problem::Circular { path: names.join(" needs ") }));
            }
            self.visit(needed, path, order)?;
        }
        path.pop();
        order.push(index);
        Ok(())
    }

    /// The stages that a stage itself names, and where.
    fn needs(&self, index: usize) -> Result<Vec<(usize, &Step)>, BuildError> {
        let Some(stage) = self.dockerfile.stages.get(index) else { return Ok(Vec::new()) };
        if self.replaced(index).is_some() {
            return Ok(Vec::new());
        }
        let mut needs = Vec::new();
        if let Origin::Stage(base) = self.base(index).map_err(|problem| stage.begin.failed(problem))? {
            needs.push((base, &stage.begin));
        }
        for step in &stage.steps {
            if let Instruction::Copy(copy) = &step.instruction
                && let Some(from) = &copy.from
                && let Origin::Stage(other) = self.origin(from).map_err(|problem| step.failed(problem))?
            {
                needs.push((other, step));
            }
        }
        Ok(needs)
    }

    /// What FROM of a stage means.
    pub fn base(&self, index: usize) -> Result<Origin, Problem> {
        let Some(stage) = self.dockerfile.stages.get(index) else { return Ok(Origin::Scratch) };
        let escape = self.dockerfile.escape;
        let name = expand::word(&stage.from.image, escape, &|name| self.args.global(name))?;
        match name.as_str() {
            "" => return Err(Problem::Syntax(format!("FROM {} names no image", stage.from.image))),
            "scratch" => return Ok(Origin::Scratch),
            _ => {}
        }
        if let Some(context) = self.named(&name) {
            return Ok(Origin::Named(context));
        }
        match self.dockerfile.find(&name) {
            Some(earlier) if earlier < index => Ok(Origin::Stage(earlier)),
            // A stage that begins later hides no image; where there is no such image, it is what was meant.
            Some(later) if Images::new(self.store).find(&name).is_err() => {
                let mut order = Vec::new();
                // What is needed of it may lead back here.
                if later == index || self.visit(later, &mut vec![index], &mut order).is_err() {
                    let names = [index, later, index].map(|stage| self.dockerfile.stage_name(stage));
                    let path = if later == index {
                        names.get(..2).unwrap_or_default().join(" needs ")
                    } else {
                        names.join(" needs ")
                    };
                    return Err(Problem::Circular { path });
                }
                let line = self.dockerfile.stages.get(later).map_or(0, |stage| stage.begin.at.line);
                Err(Problem::Syntax(format!(
                    "FROM {name}: the stage {name} begins later, at line {line}; put it first"
                )))
            }
            _ => Ok(Origin::Image(name)),
        }
    }

    /// What `--from` of COPY means.
    pub fn origin(&self, name: &str) -> Result<Origin, Problem> {
        if name.contains('$') {
            return Err(Problem::Syntax(format!(
                "COPY --from={name}: there are no variables here; give the stage a name: FROM $IMAGE AS NAME"
            )));
        }
        match (self.named(name), self.dockerfile.find(name)) {
            (Some(context), None) => Ok(Origin::Named(context)),
            (_, Some(stage)) => Ok(Origin::Stage(stage)),
            (None, None) if name.parse::<usize>().is_ok() => {
                Err(Problem::NoStage { name: name.to_owned(), known: self.dockerfile.names() })
            }
            (None, None) => Ok(Origin::Image(name.to_owned())),
        }
    }

    /// What the user gave in place of a stage.
    pub fn replaced(&self, index: usize) -> Option<NamedContext> {
        self.named(self.dockerfile.stages.get(index)?.from.name.as_deref()?)
    }

    fn named(&self, name: &str) -> Option<NamedContext> {
        let found = self.contexts.iter().rev().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, context)| context.clone())
    }
}
