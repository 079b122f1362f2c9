//! Who is who: the numbers of programs that see each other, and what `/proc` tells of each (proc(5)).
//!
//! The files are written by the host process as programs come and go, so that they are there before a program's first
//! instruction and gone before anybody hears of its end. Containers see them by a read-only mount.

use super::FIRST;
use crate::grants::{Grants, Proc};
use rustix::fs::{AtFlags, CWD, Mode, unlinkat};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// As much of a program's arguments is shown; the files lie in memory.
const MOST: usize = 4096;
/// What there is of each.
const FILES: [&str; 3] = ["cmdline", "comm", "status"];
/// As much of its name (TASK_COMM_LEN, without the zero).
const NAME: usize = 15;

/// The numbers of programs that see each other.
#[derive(Debug)]
pub struct Roster {
    next: AtomicU32,
    /// Where each is told of, if anywhere.
    dir: Option<PathBuf>,
}

impl Roster {
    /// Of programs that are told of nowhere.
    #[must_use]
    pub fn hidden() -> Arc<Self> {
        Arc::new(Self { next: AtomicU32::new(FIRST), dir: None })
    }

    /// Of programs that are told of below a directory.
    #[must_use]
    pub fn shown(dir: PathBuf) -> Arc<Self> {
        Arc::new(Self { next: AtomicU32::new(FIRST), dir: Some(dir) })
    }

    /// The next number, for a program of which nothing is told yet.
    #[must_use]
    pub fn seat(self: &Arc<Self>) -> Seat {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Seat(Arc::new(Place { roster: Arc::clone(self), number, shown: AtomicBool::new(false) }))
    }
}

/// A program's number, which nobody else gets. Every clone is the same; what is told of it goes with the last.
#[derive(Debug, Clone)]
pub struct Seat(Arc<Place>);

#[derive(Debug)]
struct Place {
    roster: Arc<Roster>,
    number: u32,
    shown: AtomicBool,
}

impl Seat {
    /// The number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.0.number
    }

    /// Who else there is.
    #[must_use]
    pub fn roster(&self) -> &Arc<Roster> {
        &self.0.roster
    }

    /// Tells of the program, if its roster is shown. What cannot be written is not told: no program ends for that.
    pub fn show(&self, parent: u32, grants: &Grants) {
        if let (Some(dir), Some(proc)) = (self.0.dir(), &grants.proc) {
            self.0.shown.store(true, Ordering::Relaxed);
            if write(&dir, self.number(), parent, &grants.args, proc).is_err() {
                self.leave();
            }
        }
    }

    /// What the program sees as `/proc/self`, by its container's tree.
    #[must_use]
    pub fn own(&self, tree: &Path) -> Option<PathBuf> {
        self.0.shown.load(Ordering::Relaxed).then(|| tree.join("proc").join(self.number().to_string()))
    }

    /// Tells no more of the program.
    pub fn leave(&self) {
        self.0.leave();
    }
}

impl Place {
    fn dir(&self) -> Option<PathBuf> {
        self.roster.dir.as_ref().map(|dir| dir.join(self.number.to_string()))
    }

    fn leave(&self) {
        if self.shown.swap(false, Ordering::Relaxed)
            && let Some(dir) = self.dir()
        {
            // Not by what else takes a tree away, which asks more of the system than the fences let through.
            for file in FILES {
                let _ = unlinkat(CWD, dir.join(file), AtFlags::empty());
            }
            let _ = unlinkat(CWD, dir, AtFlags::REMOVEDIR);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

fn write(dir: &Path, number: u32, parent: u32, args: &[String], proc: &Proc) -> std::io::Result<()> {
    // Not mkdir(2), which the fences do not know.
    rustix::fs::mkdirat(CWD, dir, Mode::from_raw_mode(0o755))?;
    let mut line: Vec<u8> = args.iter().flat_map(|arg| arg.bytes().chain([0])).take(MOST).collect();
    if let Some(last) = line.last_mut() {
        *last = 0;
    }
    let path = args.first().map(String::as_str).unwrap_or_default();
    let mut name = path.rsplit('/').next().unwrap_or_default().replace(char::is_control, "?");
    name.truncate(name.floor_char_boundary(NAME));
    let [cmdline, comm, all] = FILES.map(|file| dir.join(file));
    std::fs::write(cmdline, line)?;
    std::fs::write(comm, format!("{name}\n"))?;
    std::fs::write(all, status(&name, number, parent, proc))
}

/// proc_pid_status(5), as far as there is something to say. It has none of the kernel's rights, and gains none.
fn status(name: &str, number: u32, parent: u32, proc: &Proc) -> String {
    let Proc { uid, gid, groups, .. } = proc;
    let groups: String = groups.iter().map(|gid| format!("{gid} ")).collect();
    let none = "0000000000000000";
    format!(
        "Name:\t{name}\nTgid:\t{number}\nPid:\t{number}\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n\
         Gid:\t{gid}\t{gid}\t{gid}\t{gid}\nGroups:\t{groups}\nCapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\n\
         CapBnd:\t{none}\nCapAmb:\t{none}\nNoNewPrivs:\t1\nSeccomp:\t2\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::tests::full;

    #[test]
    fn a_program_is_told_of_while_it_is_there() {
        let dir = crate::store::files::tests::temp_dir();
        let roster = Roster::shown(dir.clone());
        let proc = Proc { uid: 33, gid: 34, groups: vec![34, 50], ..Proc::default() };
        let grants = Grants { args: vec!["/bin/a-rather-long-name".into(), "x y".into()], proc: Some(proc), ..full() };
        let (first, second) = (roster.seat(), roster.seat());
        first.show(0, &grants);
        second.show(first.number(), &Grants { args: vec!["x".repeat(2 * MOST)], ..grants.clone() });
        let read = |path: &str| std::fs::read_to_string(dir.join(path)).unwrap();
        assert_eq!(read("1/cmdline"), "/bin/a-rather-long-name\0x y\0");
        assert_eq!(read("1/comm"), "a-rather-long-n\n");
        let status = read("2/status");
        for line in
            ["PPid:\t1\n", "Uid:\t33\t33", "Groups:\t34 50 \n", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n"]
        {
            assert!(status.contains(line), "{line:?} in {status}");
        }
        assert_eq!(read("2/cmdline").len(), MOST);
        assert_eq!(second.own(Path::new("/tree")), Some("/tree/proc/2".into()));
        second.leave();
        assert!(!dir.join("2").exists() && second.own(Path::new("/tree")).is_none());
        drop(first.clone());
        assert!(dir.join("1").exists());
        drop(first);
        assert!(!dir.join("1").exists());
        // Nothing is told where nobody looks.
        let hidden = Roster::hidden().seat();
        hidden.show(0, &grants);
        assert_eq!((hidden.number(), hidden.own(&dir)), (1, None));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
