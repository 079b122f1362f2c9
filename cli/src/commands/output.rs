//! `build --output`: what a build writes besides the image.

use anyhow::{Context as _, Result, anyhow, bail};
use sampan_runtime::guest::Kind;
use sampan_runtime::guest::code::Code;
use sampan_runtime::image::build::{Interfaces, write_artifact, write_dir, write_tar};
use sampan_runtime::image::exchange::ArchiveFormat;
use sampan_runtime::image::{Image, Images, Reference};
use sampan_runtime::store::Store;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    kind: OutputKind,
    dest: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OutputKind {
    /// The files, in a directory.
    Local,
    /// The files, in a tar archive.
    Tar,
    /// The image, in an OCI archive.
    Oci,
    /// The image, in a Docker archive.
    Docker,
    /// The program, as a Wasm artifact in an OCI archive.
    Artifact,
}

impl FromStr for Output {
    type Err = anyhow::Error;

    /// `type=…,dest=…`; a path alone is a directory for the files, and `-` their archive on standard output.
    fn from_str(text: &str) -> Result<Self> {
        let (mut kind, mut dest) = (None, None);
        if !text.contains('=') {
            let kind = if text == "-" { OutputKind::Tar } else { OutputKind::Local };
            return Ok(Self { kind, dest: PathBuf::from(text) });
        }
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("type", "local")) => kind = Some(OutputKind::Local),
                Some(("type", "tar")) => kind = Some(OutputKind::Tar),
                Some(("type", "oci")) => kind = Some(OutputKind::Oci),
                Some(("type", "docker")) => kind = Some(OutputKind::Docker),
                Some(("type", "artifact")) => kind = Some(OutputKind::Artifact),
                Some(("type", other)) => {
                    bail!("--output {text}: type={other} is none of local, tar, oci, docker and artifact")
                }
                Some(("dest", path)) if !path.is_empty() => dest = Some(PathBuf::from(path)),
                _ => bail!(
                    "--output {text}: {part:?} is not understood; write type=local|tar|oci|docker|artifact,dest=PATH"
                ),
            }
        }
        let kind = kind.ok_or_else(|| anyhow!("--output {text}: say which type=local|tar|oci|docker|artifact"))?;
        let dest = match (kind, dest) {
            (_, Some(dest)) => dest,
            (OutputKind::Local, None) => bail!("--output {text}: say where, with dest=DIR"),
            (_, None) => PathBuf::from("-"),
        };
        Ok(Self { kind, dest })
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dest.display())
    }
}

impl Output {
    /// Whether it goes to standard output, where nothing else may be then.
    pub fn is_standard_output(&self) -> bool {
        self.kind != OutputKind::Local && self.dest == Path::new("-")
    }

    /// Writes it, with the names that the build has given. `program` is where the image's program is, and its code.
    pub fn write(
        &self,
        store: &Store,
        image: &Image,
        names: &[Reference],
        program: Option<(&Path, &Code)>,
    ) -> Result<()> {
        match self.kind {
            OutputKind::Local => Ok(write_dir(store, image, &self.dest)?),
            OutputKind::Tar => self.archive(|out| Ok(write_tar(store, image, out)?)),
            OutputKind::Oci => self.save(store, image, names, ArchiveFormat::Oci),
            OutputKind::Docker => self.save(store, image, names, ArchiveFormat::Docker),
            OutputKind::Artifact => {
                let Some((path, code)) = program else {
                    bail!("--output type=artifact: the image names no program that could be the artifact")
                };
                let description = &code.description;
                let interfaces = Interfaces { imports: &description.imports, exports: &description.exports };
                let component = (description.kind != Kind::Module).then_some(interfaces);
                let name = names.first().map(|name| name.pinned().familiar());
                self.archive(|out| Ok(write_artifact(image, path, component, name.as_deref(), out)?))
            }
        }
    }

    /// What else the image is called here is none of the archive's business: the same build writes the same one.
    fn save(&self, store: &Store, image: &Image, names: &[Reference], format: ArchiveFormat) -> Result<()> {
        let names: Vec<String> = match names {
            [] => vec![image.id.clone()],
            names => names.iter().map(|name| name.pinned().familiar()).collect(),
        };
        self.archive(|out| Ok(Images::new(store).save(&names, format, out)?))
    }

    /// Writes an archive to its place, whole or not at all.
    fn archive(&self, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        if self.is_standard_output() {
            let out = std::io::stdout().lock();
            if out.is_terminal() {
                bail!("an archive is not for a terminal: send standard output elsewhere, or say dest=FILE");
            }
            return write(&mut BufWriter::new(out));
        }
        let mut beside = self.dest.clone().into_os_string();
        beside.push(format!(".{}", std::process::id()));
        let failed = || format!("cannot write {}", self.dest.display());
        let file = File::create(&beside).with_context(failed)?;
        let written = write(&mut BufWriter::new(file));
        match written.and_then(|()| std::fs::rename(&beside, &self.dest).with_context(failed)) {
            Ok(()) => Ok(()),
            Err(error) => {
                let _ = std::fs::remove_file(&beside);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_written_as_docker_has_them() {
        let output = |text: &str| text.parse::<Output>().map_err(|e| e.to_string());
        let is = |kind, dest: &str| Ok(Output { kind, dest: dest.into() });
        assert_eq!(output("out"), is(OutputKind::Local, "out"));
        assert_eq!(output("-"), is(OutputKind::Tar, "-"));
        assert_eq!(output("type=tar"), is(OutputKind::Tar, "-"));
        assert_eq!(output("dest=x,type=artifact"), is(OutputKind::Artifact, "x"));
        assert!(output("type=local").unwrap_err().contains("dest=DIR"));
        assert!(output("type=image,name=x").unwrap_err().contains("none of local, tar, oci, docker and artifact"));
        assert!(output("dest=x").unwrap_err().contains("say which"));
        assert!(output("type=tar,x=y").unwrap_err().contains("\"x=y\""));
    }
}
