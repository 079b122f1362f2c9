//! The cgroup that somebody else wants a sandbox to be in, of either version (cgroups(7)): kubelet limits and counts whole
//! pods by it. Our own limits are a container's, and need none.

use std::io;
use std::path::{Path, PathBuf};

/// The controllers whose hierarchies of version 1 are entered. A new `cpuset` takes nobody before it is set up, and the rest
/// limits what no Wasm program has.
const CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "blkio"];

/// Where hierarchies are mounted, by the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    let hierarchy = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, place) = (mount.next()?, mount.next()?);
        let (kind, rest) = source.split_once(' ')?;
        let options = rest.rsplit(' ').next().unwrap_or_default();
        let is_ours = match kind {
            "cgroup2" => true,
            "cgroup" => options.split(',').any(|option| CONTROLLERS.contains(&option)),
            _ => false,
        };
        (is_ours && root == "/").then(|| PathBuf::from(place))
    };
    mounts.lines().filter_map(hierarchy).collect()
}

/// The places of a cgroup.
fn places(cgroup: &str) -> io::Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let beneath = cgroup.trim_start_matches('/');
    if beneath.is_empty()
        || Path::new(beneath).components().any(|part| !matches!(part, std::path::Component::Normal(_)))
    {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no path of a cgroup"));
    }
    Ok(hierarchies(&mounts).into_iter().map(|hierarchy| hierarchy.join(beneath)).collect())
}

/// Moves this process into a cgroup, which is made anew: what an earlier sandbox of that name has left counts no more. Where
/// no cgroups are mounted nothing is done.
///
/// # Errors
/// When it cannot be made or entered.
pub(super) fn join(cgroup: &str) -> io::Result<()> {
    for place in places(cgroup)? {
        let enter = || {
            let _ = std::fs::remove_dir(&place);
            std::fs::create_dir_all(&place)?;
            std::fs::write(place.join("cgroup.procs"), "0")
        };
        enter().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", place.display())))?;
    }
    Ok(())
}

/// Removes a cgroup that nobody is in any more.
pub fn remove(cgroup: &str) {
    for place in places(cgroup).unwrap_or_default() {
        let _ = std::fs::remove_dir(place);
    }
}

/// The last part of the path of a cgroup that is a sandbox's own begins so.
pub const OWN: &str = "sampan-";

/// Whether the kernel has killed somebody in this sandbox's own cgroup because there was no memory. In another that may
/// have been anybody.
pub(super) fn was_out_of_memory() -> bool {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let (mine, mounts) = (read("/proc/self/cgroup".as_ref()), read("/proc/self/mountinfo".as_ref()));
    hierarchies(&mounts).iter().any(|hierarchy| {
        let paths = mine.lines().filter_map(|line| line.rsplit_once(':').map(|(_, path)| path));
        let own = |path: &&str| path.rsplit('/').next().is_some_and(|name| name.starts_with(OWN));
        paths.filter(own).any(|path| {
            let place = hierarchy.join(path.trim_start_matches('/'));
            // The names of version 2 and of version 1.
            ["memory.events", "memory.oom_control"].iter().any(|name| has_killed(&read(&place.join(name))))
        })
    })
}

fn has_killed(events: &str) -> bool {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.is_some_and(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                      33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                      35 31 0:32 /inner /other/memory rw - cgroup cgroup rw,memory\n\
                      36 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(hierarchies(mounts), ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified"].map(PathBuf::from));
    }

    #[test]
    fn no_path_leads_out() {
        for bad in ["", "/", "/a/../b", "a/./../b"] {
            assert_eq!(join(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        }
    }

    #[test]
    fn the_kernels_kills_are_counted() {
        assert!(has_killed("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n"));
        assert!(has_killed("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"));
        assert!(!has_killed("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n") && !has_killed(""));
    }
}
