//! The same on the machine that runs the shell's tests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// What a program is to be made of, as in a container.
pub struct Program<'a> {
    pub path: &'a str,
    pub args: &'a [String],
    pub env: &'a [String],
    pub stdio: [Option<&'a File>; 3],
}

pub fn hard_link(old: &Path, new: &Path) -> Result<()> {
    std::fs::hard_link(old, new)
}

static CHILDREN: Mutex<BTreeMap<u32, Child>> = Mutex::new(BTreeMap::new());

pub fn spawn(program: &Program<'_>) -> Result<u32> {
    let mut command = Command::new(program.path);
    let (zero, rest) = program.args.split_first().ok_or(ErrorKind::InvalidInput)?;
    command.arg0(zero).args(rest).env_clear();
    command.envs(program.env.iter().filter_map(|v| v.split_once('=')));
    let stream = |n: usize| match program.stdio[n] {
        Some(file) => file.try_clone().map(Stdio::from),
        None => Ok(Stdio::null()),
    };
    command.stdin(stream(0)?).stdout(stream(1)?).stderr(stream(2)?);
    let child = command.spawn()?;
    let id = child.id();
    CHILDREN.lock().map_err(|_| ErrorKind::Other)?.insert(id, child);
    Ok(id)
}

pub fn pipe() -> Result<(File, File)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((File::from(std::os::fd::OwnedFd::from(reader)), File::from(std::os::fd::OwnedFd::from(writer))))
}

pub fn wait(id: u32, hang: bool) -> Result<Option<(u32, i32)>> {
    let mut children = CHILDREN.lock().map_err(|_| ErrorKind::Other)?;
    let id = if id == 0 { *children.keys().next().ok_or(Error::from_raw_os_error(10))? } else { id };
    let child = children.get_mut(&id).ok_or(Error::from_raw_os_error(10))?;
    let status = if hang { Some(child.wait()?) } else { child.try_wait()? };
    let Some(status) = status else { return Ok(None) };
    children.remove(&id);
    Ok(Some((id, status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))))
}

pub fn kill(id: u32, _: u32) -> Result<()> {
    let mut children = CHILDREN.lock().map_err(|_| ErrorKind::Other)?;
    children.get_mut(&id).ok_or(Error::from_raw_os_error(3))?.kill()
}

pub fn id() -> u32 {
    std::process::id()
}

pub fn is_not_executable(error: &Error) -> bool {
    error.raw_os_error() == Some(8)
}

pub fn exit(code: i32) -> ! {
    std::process::exit(code & 0xff)
}
