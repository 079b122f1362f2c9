//! What containers have in the run directory: it should be there while they run, and not when they do not.

use crate::check::{Finding, Report, names_in};
use crate::container::record::Status;
use crate::container::remove::is_old;
use crate::container::{find, id};
use crate::store::{Lock, Store, files};
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a container that runs may be without its control socket: it is opened right after the start.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn check(store: &Store, report: &mut Report) {
    let run = store.run_path();
    for name in names_in(run) {
        let place = run.join(&name);
        if is_short_id(&name) {
            check_place(store, &name, &place, report);
        } else if name.strip_prefix('x').is_some_and(is_short_id) && nobody_listens(&place) {
            let finding = Finding::left("the streams of an exec", "its client was killed", &place);
            report.mend(finding, || files::remove_tree(&place).map(|()| true));
        }
    }
    for network in names_in(&run.join("networks")) {
        let dir = run.join("networks").join(network);
        for file in names_in(&dir).into_iter().filter(|name| name.ends_with(".json") && !name.starts_with('.')) {
            let member = dir.join(&file);
            let bundle = store.containers().join(file.trim_end_matches(".json"));
            if Lock::is_held(&bundle.join("lock")) || !member.exists() {
                continue;
            }
            let finding = Finding::left("a network's member", "its sandbox was killed", &member);
            report.mend(finding, || std::fs::remove_file(&member).map(|()| true));
        }
    }
}

fn is_short_id(name: &str) -> bool {
    name.len() == 12 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The place of a container that runs, did, or is gone.
fn check_place(store: &Store, short: &str, place: &Path, report: &mut Report) {
    let owners = || names_in(&store.containers()).into_iter().filter(|id| id::short(id) == short);
    let dirs: Vec<PathBuf> = owners().map(|id| store.containers().join(id)).collect();
    let Some(dir) = dirs.first() else {
        // A container's directory is there before its run and after it.
        if place.exists() && owners().next().is_none() {
            let finding = Finding::left("a run", "its container is gone", place);
            report.mend(finding, || files::remove_tree(place).map(|()| true));
        }
        return;
    };
    let lock = dir.join("lock");
    if !Lock::is_held(&lock) {
        // Whoever holds the lock may be starting or ending at this moment.
        let Ok(Some(_lock)) = Lock::try_take(&lock) else { return };
        if !place.exists() || !dir.exists() {
            return;
        }
        let finding = Finding::left("a run", "its container does not run", place);
        return report.mend(finding, || files::remove_tree(place).map(|()| true));
    }
    let running = || match find(store, short).map(|container| (container.status(store), container)) {
        Ok((Status::Running(running), container)) => Some((running.keeper, container.record.name)),
        _ => None,
    };
    let socket = crate::container::socket(place);
    let begun = Instant::now();
    while !socket.exists() {
        let Some((keeper, name)) = running() else { return };
        if begun.elapsed() > PATIENCE {
            let advice = format!("nothing can reach it any more: end its process {keeper}, and start it again");
            report.note(Finding::wrong(format!("container {name}"), "its control socket is lost", &socket, advice));
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether nobody has these FIFOs open: who made them does, both ends.
fn nobody_listens(dir: &Path) -> bool {
    let closed = |name: &String| {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(dir.join(name), flags, Mode::empty()).is_err_and(|e| e == rustix::io::Errno::NXIO)
    };
    std::fs::metadata(dir).is_ok_and(|meta| is_old(&meta)) && names_in(dir).iter().all(closed)
}
