//! `pull`, and getting an image that another command wants.

use crate::commands::progress::Bars;
use crate::{AlreadyTold, Context};
use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use sampan_runtime::image::pull::{Progress, Step, pull};
use sampan_runtime::image::{Image, ImageError, Images, Platform, Reference, Resolved};
use sampan_runtime::registry::Registries;
use sampan_runtime::store::Store;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

// The arguments of `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Print the image's name and nothing else
    #[arg(short, long)]
    quiet: bool,
    /// Of an image for several platforms, take this one: os/architecture
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// The image's name
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

/// When `run` and `create` pull.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// When the image is not here
    #[default]
    Missing,
    /// Whether it is here or not
    Always,
    /// Not at all
    Never,
}

impl PullArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let given: Reference = self.name.parse()?;
        // An alias says what a name means here; whether that is here already is not asked by who pulls.
        let reference = look(&store, &given.to_string(), true)?.err().unwrap_or_else(|| given.clone());
        let version = reference.pinned();
        let version = version.tag().or(version.digest()).unwrap_or_default();
        if !self.quiet {
            if given.digest().is_none() && !self.name.rsplit('/').next().unwrap_or_default().contains(':') {
                println!("Using default tag: {}", given.tag().unwrap_or_default());
            }
            println!("{version}: Pulling from {}", reference.path());
        }
        let progress: Arc<dyn Progress> = if self.quiet { Arc::new(()) } else { Arc::new(Layers::default()) };
        let pulled = pull(&store, &Registries::from_env(), &reference, self.platform.as_ref(), &progress)?;
        drop(progress);
        if let Some(warning) = &pulled.warning {
            eprintln!("sampan: {} is here and cannot be run: {warning}", pulled.name.familiar());
        }
        if !self.quiet {
            let status = if pulled.is_new { "Downloaded newer image for" } else { "Image is up to date for" };
            println!("Digest: {}\nStatus: {status} {}", pulled.digest, pulled.name.familiar());
        }
        println!("{}", pulled.name);
        Ok(ExitCode::SUCCESS)
    }
}

/// The image that a command asks for, pulled if the policy says so. What a user should know goes to standard error.
pub fn find(store: &Store, name: &str, policy: Policy, quiet: bool) -> Result<Image> {
    let reference = match look(store, name, policy == Policy::Always)? {
        Ok(image) => return Ok(*image),
        Err(reference) => reference,
    };
    if policy == Policy::Never {
        return Err(ImageError::NotFound { name: reference.familiar() }.into());
    }
    if policy == Policy::Missing && !quiet {
        eprintln!("Unable to find image '{}' locally", reference.familiar());
    }
    fetch(store, &reference, None, quiet)
}

/// An image that `FROM` names: what an alias means, or pulled; `anew` if it is here too.
pub fn bring(store: &Store, name: &str, platform: Option<&str>, anew: bool) -> Result<Image> {
    let reference = match look(store, name, anew)? {
        Ok(image) => return Ok(*image),
        Err(reference) => reference,
    };
    match fetch(store, &reference, platform, false) {
        Err(error) if error.is::<AlreadyTold>() => bail!("and it could not be pulled"),
        other => other,
    }
}

/// The image of this name, or what is to be pulled; says so where an alias made something else of the name.
fn look(store: &Store, name: &str, anew: bool) -> Result<Result<Box<Image>, Reference>> {
    let (found, warning) = match Images::new(store).resolve(name, anew)? {
        Resolved::Here { image, warning } => (Ok(image), warning),
        Resolved::Elsewhere { reference, warning } => (Err(reference), warning),
    };
    warning.iter().for_each(|warning| eprintln!("sampan: {warning}"));
    Ok(found)
}

/// Pulls in a process of its own: this one is to become a keeper, which has one thread and little memory. Its output goes
/// to our standard error, since standard output is the container's.
fn fetch(store: &Store, reference: &Reference, platform: Option<&str>, quiet: bool) -> Result<Image> {
    let mut child = Command::new("/proc/self/exe");
    child.arg("pull").args(quiet.then_some("--quiet")).args(platform.map(|platform| format!("--platform={platform}")));
    child.arg(reference.to_string()).env("SAMPAN_ROOT", store.root());
    let stdout = if quiet { Stdio::null() } else { std::io::stderr().as_fd().try_clone_to_owned()?.into() };
    let status = child.stdin(Stdio::null()).stdout(stdout).status().context("cannot run `sampan pull`")?;
    match status.success() {
        true => Ok(Images::new(store).find(&reference.pinned().to_string())?),
        false => Err(AlreadyTold.into()),
    }
}

/// Shows how a pull goes on: bars on a terminal, a line for each change elsewhere.
#[derive(Default)]
struct Layers {
    bars: Bars,
    told: Mutex<BTreeSet<(String, &'static str)>>,
}

impl Progress for Layers {
    fn layer(&self, digest: &str, step: Step) {
        let words = match step {
            Step::Wanted(size) => {
                self.bars.begin(digest, size);
                "Pulling fs layer"
            }
            Step::Exists => "Already exists",
            Step::Has(bytes) => {
                self.bars.at(digest, bytes);
                return;
            }
            Step::Downloaded => "Download complete",
            Step::Unpacking => "Extracting",
            Step::Done => "Pull complete",
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let key = |words| (digest.to_owned(), words);
        // What was here is not pulled, though it may be unpacked.
        let hidden = words == "Extracting" && !self.bars.is_terminal()
            || words == "Pull complete" && told.contains(&key("Already exists"));
        if !hidden && told.insert(key(words)) {
            self.bars.say(digest, words, matches!(step, Step::Exists | Step::Done));
        }
    }
}
