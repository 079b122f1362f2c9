//! What can be done to a store, and what follows from it.

use super::Chance;
use super::ledger::Ledger;
use crate::registry::Registry;
use crate::{Dir, OrFail};

/// A command, and what it is for.
#[derive(Debug)]
pub struct Deed {
    /// Its kind: those of a kind take the same time.
    pub kind: &'static str,
    /// The command line.
    pub line: String,
    /// What is so when it is acknowledged.
    pub wish: Wish,
}

/// What is so after a command.
#[derive(Debug, Clone)]
pub enum Wish {
    /// There is an image of this name.
    Image(String),
    /// No image has this name.
    NoImage(String),
    /// There is a container of this name, which runs or not.
    Container(String, bool),
    /// No container has this name.
    NoContainer(String),
    /// A container has a file with this content.
    File(String, String, String),
}

impl Deed {
    /// One that makes sense in this state of the store.
    pub fn pick(chance: &mut Chance, ledger: &Ledger, registry: &Registry, dir: &Dir) -> Self {
        loop {
            if let Some(deed) = Self::try_pick(chance, ledger, registry, dir) {
                return deed;
            }
        }
    }

    fn try_pick(chance: &mut Chance, ledger: &Ledger, registry: &Registry, dir: &Dir) -> Option<Self> {
        let deed = |kind, line: String, wish| Some(Self { kind, line, wish });
        let free = |chance: &mut Chance| {
            let name = format!("box{}", chance.below(6));
            (!ledger.has_container(&name)).then_some(name)
        };
        let image = |chance: &mut Chance| {
            // Those that have the probe in them.
            let all: Vec<String> =
                ledger.images().filter(|name| !name.contains("loaded") && !name.contains("hello")).collect();
            chance.one(&all).cloned()
        };
        match chance.below(16) {
            0 | 1 => {
                let name = registry.name(&format!("pulled{}", chance.below(2)));
                deed("pull", format!("pull -q {name}"), Wish::Image(format!("{name}:latest")))
            }
            2 | 3 => {
                let (name, content) = (format!("built{}", chance.below(3)), chance.below(4));
                let context = dir.join(format!("context{content}"));
                if !context.exists() {
                    std::fs::create_dir(&context).or_fail("cannot make a context");
                    let text = format!(
                        "FROM probe\nCOPY f /f\nLABEL n={content}\nRUN [\"/probe.wasm\", \"write\", \"/w\", \"{content}\"]\n"
                    );
                    std::fs::write(context.join("Dockerfile"), text).or_fail("cannot write a Dockerfile");
                    std::fs::write(context.join("f"), format!("content {content}")).or_fail("cannot write a file");
                }
                let line = format!("build -q -t {name} '{}'", context.display());
                deed("build", line, Wish::Image(format!("{name}:latest")))
            }
            4 => deed("load", format!("load -q -i '{dir}/loaded.tar'"), Wish::Image("loaded:latest".into())),
            5 => {
                let from = ledger.a_container(chance, None)?;
                let name = format!("committed{}", chance.below(2));
                deed("commit", format!("commit {from} {name}"), Wish::Image(format!("{name}:latest")))
            }
            6 | 7 => {
                let (name, image) = (free(chance)?, image(chance)?);
                let line = format!("create --name {name} -v data{}:/data -v /more {image} forever", chance.below(2));
                deed("create", line, Wish::Container(name, false))
            }
            8 | 9 => {
                let (name, image) = (free(chance)?, image(chance)?);
                let line = format!("run -d --name {name} -v /more {image} forever");
                deed("run", line, Wish::Container(name, true))
            }
            10 => {
                let name = ledger.a_container(chance, Some(false))?;
                deed("start", format!("start {name}"), Wish::Container(name, true))
            }
            11 => {
                let name = ledger.a_container(chance, Some(true))?;
                deed("stop", format!("stop {name}"), Wish::Container(name, false))
            }
            12 => {
                let name = ledger.a_container(chance, None)?;
                deed("rm", format!("rm -f -v {name}"), Wish::NoContainer(name))
            }
            13 | 14 => {
                let (name, n) = (ledger.a_container(chance, None)?, chance.below(1000));
                let (file, content) = (dir.join("copied"), format!("{n}").repeat(2000));
                std::fs::write(&file, &content).or_fail("cannot write a file");
                let line = format!("cp -q '{}' {name}:/copied{}", file.display(), n % 3);
                deed("cp", line, Wish::File(name, format!("copied{}", n % 3), content))
            }
            _ => {
                let all: Vec<String> =
                    ledger.images().filter(|name| !matches!(name.as_str(), "hello:latest" | "probe:latest")).collect();
                let name = chance.one(&all)?.clone();
                deed("rmi", format!("rmi -f {name}"), Wish::NoImage(name))
            }
        }
    }
}
