//! Variables and parameters.

use super::{Run, Shell, Variable};

impl Shell {
    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<String> {
        self.state.variables.get(name)?.value.clone()
    }

    /// The value of a variable, a positional or a special parameter.
    pub fn parameter(&self, name: &str) -> Option<String> {
        if let Ok(number) = name.parse::<usize>() {
            return match number {
                0 => Some(self.state.name.clone()),
                n => self.positional.get(n - 1).cloned(),
            };
        }
        match name {
            "#" => Some(self.positional.len().to_string()),
            "?" => Some(self.state.status.to_string()),
            "$" => Some(self.state.id.to_string()),
            "!" => Some(self.state.last_job.to_string()).filter(|_| self.state.last_job != 0),
            "-" => Some(self.options.all().into_iter().filter(|(_, _, on)| *on).map(|(_, letter, _)| letter).collect()),
            "@" | "*" => {
                let separator = self.get("IFS").map_or_else(|| " ".to_owned(), |ifs| ifs.chars().take(1).collect());
                Some(self.positional.join(&separator)).filter(|_| !self.positional.is_empty())
            }
            "LINENO" => Some(self.line.to_string()),
            "PPID" => self.get(name).or_else(|| Some("0".to_owned())),
            _ => self.get(name),
        }
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) -> Run<()> {
        let export = self.options.allexport;
        let variable = self.state.variables.entry(name.to_owned()).or_default();
        if variable.read_only {
            return Err(self.fatal(&format!("{name}: is read only")));
        }
        variable.value = Some(value.to_owned());
        variable.exported |= export;
        if name == "OPTIND" {
            self.option_at = 0;
        }
        Ok(())
    }

    /// Takes a variable away.
    pub fn unset(&mut self, name: &str) -> Run<()> {
        if self.state.variables.get(name).is_some_and(|v| v.read_only) {
            return Err(self.fatal(&format!("{name}: is read only")));
        }
        self.state.variables.remove(name);
        Ok(())
    }

    pub(super) fn variable(&mut self, name: &str) -> &mut Variable {
        self.state.variables.entry(name.to_owned()).or_default()
    }

    /// What a program's environment is.
    pub(super) fn environment(&self, extra: &[(String, String)]) -> Vec<String> {
        let mut all: Vec<String> = self
            .state
            .variables
            .iter()
            .filter(|(name, v)| v.exported && !extra.iter().any(|(n, _)| n == *name))
            .filter_map(|(name, v)| Some(format!("{name}={}", v.value.as_ref()?)))
            .collect();
        all.extend(extra.iter().map(|(name, value)| format!("{name}={value}")));
        all.sort_unstable();
        all
    }

    /// Remembers what a variable was, for the end of the function that makes it its own.
    pub(super) fn make_local(&mut self, name: &str) {
        let old = self.state.variables.get(name).cloned();
        if let Some(locals) = self.locals.last_mut() {
            locals.entry(name.to_owned()).or_insert(old);
        }
    }

    pub(super) fn restore(&mut self, saved: impl IntoIterator<Item = (String, Option<Variable>)>) {
        for (name, old) in saved {
            match old {
                Some(old) => drop(self.state.variables.insert(name, old)),
                None => drop(self.state.variables.remove(&name)),
            }
        }
    }
}
