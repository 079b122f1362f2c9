//! `image inspect`, which knows more than `inspect` does of an image.

use crate::Context;
use crate::commands::inspect::{self, look_at_image};
use crate::commands::{filter, words};
use crate::format::table::align;
use anyhow::{Result, anyhow};
use clap::Args;
use sampan_runtime::container::{locate_in_image, program_of};
use sampan_runtime::grants::Egress;
use sampan_runtime::grants::capabilities::{self, Capability};
use sampan_runtime::guest::code;
use sampan_runtime::image::{Image, Images};
use sampan_runtime::store::Store;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Show everything known of images
#[derive(Debug, Args)]
pub struct ImageInspectArgs {
    /// Show what the image's program can ask for, what that means, and what gives it
    #[arg(long)]
    capabilities: bool,
    /// Print as "json", or through a template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// What the program of one image can ask for.
struct Capabilities {
    image: String,
    program: String,
    kind: String,
    imports: Vec<Capability>,
    exports: Vec<Capability>,
    wishes: Vec<String>,
}

impl ImageInspectArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        if !self.capabilities {
            return inspect::print(&self.images, self.format.as_deref(), |name| {
                look_at_image(&store, name)?.ok_or_else(|| anyhow!("no such image: {name}"))
            });
        }
        if let Some(format) = self.format.as_deref() {
            return inspect::print(&self.images, Some(format), |name| Ok(Capabilities::of(&store, name)?.object()));
        }
        let (mut text, mut code) = (Vec::new(), ExitCode::SUCCESS);
        for name in &self.images {
            match Capabilities::of(&store, name) {
                Ok(found) => text.push(found.text()),
                Err(error) => {
                    eprintln!("sampan: {}", words(&error));
                    code = ExitCode::FAILURE;
                }
            }
        }
        filter::print(&text.join("\n"))?;
        Ok(code)
    }
}

/// The label by which an image says whom its program calls. It is shown, and grants nothing.
const WISH: &str = "dev.sampan.allow-net";

/// The flags that an image's labels wish for.
fn wishes(image: &Image) -> Vec<String> {
    let labels = image.config.config().as_ref().and_then(|config| config.labels().clone()).unwrap_or_default();
    let wish = labels.get(WISH).and_then(|rules| Egress::parse(rules).ok()).filter(|rules| !rules.is_empty());
    wish.map(|rules| format!("--allow-net {rules}")).into_iter().collect()
}

impl Capabilities {
    fn of(store: &Store, name: &str) -> Result<Self> {
        let image = Images::new(store).find(name)?;
        let program = program_of(&image.config).unwrap_or_default().to_owned();
        let Some(path) = locate_in_image(store, &image)? else {
            return Err(match program.as_str() {
                "" => anyhow!(
                    "image {name} names no program: it is a base image, and what is built on it says what to run"
                ),
                program => anyhow!("image {name} would run {program:?}, and there is no such file in it"),
            });
        };
        let description = code::prepare(store, &path)?.description;
        Ok(Self {
            image: image.display_name(),
            program,
            kind: description.kind.to_string(),
            imports: capabilities::imports(&description),
            exports: capabilities::exports(&description),
            wishes: wishes(&image),
        })
    }

    fn text(&self) -> String {
        let mut table = "IMPORTS\tWHAT IT CAN DO\tWHAT GIVES IT\n".to_owned();
        let row = |c: &Capability| format!("{}\t{}\t{}\n", c.interface, c.means, c.given_by);
        table.extend(self.imports.iter().map(row));
        if self.imports.is_empty() {
            table += "none\tit can ask for nothing\t\n";
        }
        let mut offered = "EXPORTS\tWHAT IT IS\tWHAT USES IT\n".to_owned();
        offered.extend(self.exports.iter().map(row));
        let exports = if self.exports.is_empty() { String::new() } else { format!("\n{}", align(&offered)) };
        let wishes: String = self
            .wishes
            .iter()
            .map(|wish| format!("\nIt wishes for {wish}, which is granted by that flag alone.\n"))
            .collect();
        format!("{}: {} ({})\n\n{}{exports}{wishes}", self.image, self.program, self.kind, align(&table))
    }

    fn object(&self) -> Value {
        let list = |all: &[Capability]| {
            let object = |c: &Capability| json!({ "Interface": c.interface, "Means": c.means, "GivenBy": c.given_by });
            all.iter().map(object).collect::<Vec<_>>()
        };
        json!({
            "Image": self.image,
            "Program": self.program,
            "Kind": self.kind,
            "Imports": list(&self.imports),
            "Exports": list(&self.exports),
            "Wishes": self.wishes,
        })
    }
}
