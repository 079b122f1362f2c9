//! Secrets: files of the host that a guest sees in memory (ramfs, which is never swapped out), or as variables.

use super::{Result, RootfsError, mount};
use crate::grants::{BindGrant, Secret, Shown};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The most bytes that a secret may have, as with Docker.
pub const MOST: u64 = 500_000;

/// The variables among them, with their values. One newline at a value's end is not part of it.
///
/// # Errors
/// When a file cannot be read, is too large, or is no text without zeros.
pub fn variables(secrets: &[Secret]) -> Result<Vec<String>> {
    let shown = secrets.iter().filter_map(|secret| match &secret.shown {
        Shown::Variable(name) => Some((secret, name)),
        Shown::File(_) => None,
    });
    shown
        .map(|(secret, name)| {
            let value = String::from_utf8(read(secret)?).ok().filter(|value| !value.contains('\0'));
            let value = value.ok_or_else(|| refused(secret, "it is no text, which a variable is".to_owned()))?;
            Ok(format!("{name}={}", value.strip_suffix('\n').unwrap_or(&value)))
        })
        .collect()
}

/// Mounts the files among them below the tree at `root`, read-only.
///
/// # Errors
/// When a file cannot be read or is too large, or the kernel refuses a mount.
pub(super) fn show(secrets: &[Secret], root: &Path) -> Result<()> {
    let shown: Vec<(&Secret, &PathBuf)> = secrets
        .iter()
        .filter_map(|secret| match &secret.shown {
            Shown::File(place) => Some((secret, place)),
            Shown::Variable(_) => None,
        })
        .collect();
    if shown.is_empty() {
        return Ok(());
    }
    let memory = mount::secret_memory()?;
    for (secret, _) in &shown {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(memory.as_fd(), &secret.id, flags, Mode::RUSR);
        let write = |file| File::from(file).write_all(&read(secret)?).map_err(RootfsError::io("write", &secret.id));
        write(file.map_err(|e| RootfsError::io("create the secret", &secret.id)(e.into()))?)?;
    }
    let dir = Path::new(Secret::DIR);
    mount::memory_below(root, &memory, dir)?;
    for (secret, place) in shown {
        let usual = dir.join(&secret.id);
        if *place != usual {
            let source = mount::resolve(root, &usual)?;
            mount::bind_below(
                root,
                &BindGrant { source, destination: place.clone(), writable: false, shallow: false },
            )?;
        }
    }
    Ok(())
}

fn refused(secret: &Secret, reason: String) -> RootfsError {
    RootfsError::Secret { id: secret.id.clone(), file: secret.source.clone(), reason }
}

fn read(secret: &Secret) -> Result<Vec<u8>> {
    let file = File::open(&secret.source).map_err(|e| refused(secret, e.to_string()))?;
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err(refused(secret, "it is no plain file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(|e| refused(secret, e.to_string()))?;
    match bytes.len() as u64 > MOST {
        true => Err(refused(secret, format!("it has more than {MOST} bytes, which is the most that a secret has"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_the_files_text() {
        let dir = crate::store::files::tests::temp_dir();
        let secret = |text: &[u8]| {
            let source = dir.join("s");
            std::fs::write(&source, text).unwrap();
            Secret { id: "s".into(), source, shown: Shown::Variable("TOKEN".into()) }
        };
        assert_eq!(variables(&[secret(b"a b\n\n")]).unwrap(), ["TOKEN=a b\n"]);
        for bad in [&b"a\0b"[..], b"\xff", &vec![b'x'; 500_001]] {
            let error = variables(&[secret(bad)]).unwrap_err().to_string();
            assert!(error.contains("secret s"), "{error}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
