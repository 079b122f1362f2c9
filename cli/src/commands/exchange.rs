//! `save` and `load`.

use crate::Context;
use crate::commands::filter;
use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use sampan_runtime::container::{locate_in_layers, program_of};
use sampan_runtime::guest::Kind;
use sampan_runtime::guest::code::{self, CodeError};
use sampan_runtime::image::exchange::{Archive, ArchiveFormat};
use sampan_runtime::image::{ImageConfiguration, Images, Reference};
use sampan_runtime::store::Store;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Write images into an archive that other tools can load
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write one kind of archive only; without it the archive is both kinds at once
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Names or ids; a name without a tag means all tags of it
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An OCI image layout
    OciArchive,
    /// A Docker archive as before Docker 25
    DockerArchive,
}

/// Load images from an archive
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Read from a file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print the images' names and nothing else
    #[arg(short, long)]
    quiet: bool,
}

impl SaveArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let images = Images::new(&store);
        let format = match self.format {
            None => ArchiveFormat::Both,
            Some(Format::OciArchive) => ArchiveFormat::Oci,
            Some(Format::DockerArchive) => ArchiveFormat::Docker,
        };
        write_archive(self.output.as_deref(), "save", |out| Ok(images.save(&self.images, format, out)?))
    }
}

/// Writes an archive to a file, which is there when it is whole, or to standard output.
pub fn write_archive(
    output: Option<&Path>,
    command: &str,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<ExitCode> {
    let Some(path) = output else {
        let out = std::io::stdout();
        if out.is_terminal() {
            bail!("cowardly refusing to {command} to a terminal: use -o FILE, or redirect standard output");
        }
        let mut out = BufWriter::with_capacity(1 << 16, out.lock());
        write(&mut out)?;
        out.flush().context("cannot write to standard output")?;
        return Ok(ExitCode::SUCCESS);
    };
    let cannot = || format!("cannot write {}", path.display());
    // A pipe or a device takes it as it comes, and is not to be replaced by a file.
    if let Ok(kind) = path.metadata().map(|meta| meta.file_type())
        && (kind.is_fifo() || kind.is_char_device() || kind.is_socket())
    {
        let mut out = BufWriter::with_capacity(1 << 16, File::options().write(true).open(path).with_context(cannot)?);
        write(&mut out)?;
        out.flush().with_context(cannot)?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = path.file_name().ok_or_else(|| anyhow!("cannot write {}: it names no file", path.display()))?;
    let beside = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let fill = || -> Result<()> {
        let mut out = BufWriter::with_capacity(1 << 16, File::create(&beside).with_context(cannot)?);
        write(&mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(cannot)?;
        std::fs::rename(&beside, path).with_context(cannot)
    };
    fill().inspect_err(|_| drop(std::fs::remove_file(&beside)))?;
    Ok(ExitCode::SUCCESS)
}

impl LoadArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        let from: Box<dyn Read> = match &self.input {
            Some(path) => Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?),
            None if std::io::stdin().is_terminal() => {
                bail!("load reads an archive from standard input, and that is a terminal: use -i FILE, or redirect it")
            }
            None => Box::new(std::io::stdin().lock()),
        };
        let archive = Archive::read(&store, from)?;
        // Before they are in the store: an image that is there can be started at once, and one that cannot be is not.
        for candidate in archive.candidates() {
            let called = candidate.names.first().map_or_else(|| candidate.id.clone(), Reference::familiar);
            let compiled = compile(&store, &called, &candidate.config, &candidate.layers)?;
            if let Some((kind, time)) = compiled.filter(|_| !self.quiet) {
                let program = program_of(&candidate.config).unwrap_or_default();
                println!("Compiled {program} ({kind}) in {time:.1?}");
            }
        }
        let names: Vec<Vec<String>> =
            archive.candidates().iter().map(|c| c.names.iter().map(Reference::familiar).collect()).collect();
        let mut text = String::new();
        for (image, names) in archive.publish()?.into_iter().zip(names) {
            match names.as_slice() {
                [] => text += &format!("Loaded image ID: {}\n", image.id),
                names => text.extend(names.iter().map(|name| format!("Loaded image: {name}\n"))),
            }
        }
        filter::print(&text)
    }
}

/// Compiles the program of an image that is not in the store yet, whose layers' directories are these. A base image has
/// none, and a script is run by a program. Says what it is and how long that took.
pub fn compile(
    store: &Store,
    called: &str,
    config: &ImageConfiguration,
    layers: &[PathBuf],
) -> Result<Option<(Kind, Duration)>> {
    let Some(program) = locate_in_layers(config, layers)? else { return Ok(None) };
    let mut head = [0; 2];
    if File::open(&program).and_then(|mut file| file.read(&mut head)).is_ok() && head == *b"#!" {
        return Ok(None);
    }
    let begun = Instant::now();
    let code = code::prepare(store, &program).map_err(|error| match error {
        CodeError::Compile { source, .. } => {
            let word = program_of(config).unwrap_or_default();
            anyhow!("{called} is refused: its program {word:?} cannot be run here: {source}")
        }
        other => other.into(),
    })?;
    Ok(Some((code.description.kind, begun.elapsed())))
}
