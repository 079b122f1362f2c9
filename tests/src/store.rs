//! Where a test's images and containers lie.

use crate::command::words;
use crate::needs::is_root;
use crate::{Container, Dir, OrFail, Run, fail, tree};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The user that a test becomes to do without root.
pub const NOBODY: u32 = 65534;

/// A store of images and containers, and the command that works on it.
#[derive(Debug)]
pub struct Store {
    sampan: PathBuf,
    root: PathBuf,
    run: PathBuf,
    /// What stands before each command, and its variables.
    wrapper: String,
    env: Vec<(&'static str, OsString)>,
    /// The directory of a store that goes away with its value.
    dir: Option<Dir>,
}

impl Store {
    /// The store that all tests share, with these samples' images in it.
    ///
    /// It is kept for the next run of the same binary; each image is built once, whoever asks first.
    #[track_caller]
    #[must_use]
    pub fn shared(samples: &[&str]) -> &'static Self {
        static SHARED: OnceLock<(Store, File)> = OnceLock::new();
        let (store, _in_use) = SHARED.get_or_init(open_shared);
        for sample in samples {
            store.build_once(sample);
        }
        store
    }

    /// A store of a test's own with these samples' images; it goes away with its value, and what runs in it too.
    #[track_caller]
    #[must_use]
    pub fn fresh(samples: &[&str]) -> Self {
        let dir = Dir::new();
        let root = dir.join("store");
        let run = usual_run_dir(&root);
        let wrapper = String::new();
        let store = Self { sampan: binary().to_owned(), root, run, wrapper, env: vec![], dir: Some(dir) };
        store.with(samples)
    }

    /// A fresh store in a directory that is there already and goes away by itself.
    #[track_caller]
    #[must_use]
    pub fn at(dir: &Path, samples: &[&str]) -> Self {
        let root = dir.join("store");
        let run = usual_run_dir(&root);
        let wrapper = String::new();
        let store = Self { sampan: binary().to_owned(), root, run, wrapper, env: vec![], dir: None };
        store.with(samples)
    }

    /// A fresh store of a user who is not root, who is nobody if we are.
    #[track_caller]
    #[must_use]
    pub fn rootless(samples: &[&str]) -> Self {
        if !is_root() {
            return Self::fresh(samples);
        }
        let dir = Dir::new();
        chown(dir.path(), Some(NOBODY), Some(NOBODY)).or_fail("cannot give a directory away");
        // Where the binary and the samples lie may be closed to others, such as in /root.
        let sampan = dir.join("sampan");
        std::fs::hard_link(binary(), &sampan)
            .or_else(|_| std::fs::copy(binary(), &sampan).map(drop))
            .or_fail("cannot copy the binary");
        let run = dir.join("run");
        let env = vec![("XDG_RUNTIME_DIR", run.clone().into()), ("HOME", dir.path().into())];
        let root = dir.join("store");
        let run = run.join("sampan").join(run_name(&root));
        Self { sampan, root, run, wrapper: become_user(NOBODY), env, dir: Some(dir) }.with(samples)
    }

    /// The same store, as another user comes to it.
    #[must_use]
    pub fn as_user(&self, user: u32) -> Self {
        let (sampan, root, run) = (self.sampan.clone(), self.root.clone(), self.run.clone());
        Self { sampan, root, run, wrapper: become_user(user), env: self.env.clone(), dir: None }
    }

    #[track_caller]
    fn with(self, samples: &[&str]) -> Self {
        for sample in samples {
            self.build(sample);
        }
        self
    }

    /// The root of the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of its sockets and of what runs now.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// A command: `store.sampan("run --rm hello")`. What stands between single quotes is one word.
    pub fn sampan(&self, line: impl AsRef<str>) -> Run {
        let program = self.sampan.clone().into_os_string();
        self.run([program].into_iter().chain(words(line.as_ref()).into_iter().map(OsString::from)))
    }

    /// A shell script, for which `sampan` is a command like any other.
    pub fn shell(&self, script: &str) -> Run {
        let mut path = self.sampan.parent().map(|dir| dir.as_os_str().to_owned()).unwrap_or_default();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        self.run(["sh", "-euc", script].map(OsString::from)).env("PATH", path)
    }

    fn run(&self, command: impl IntoIterator<Item = OsString>) -> Run {
        let wrapper = words(&self.wrapper).into_iter().map(OsString::from);
        let mut run = Run::new(wrapper.chain(command))
            .env("SAMPAN_ROOT", &self.root)
            .env("SAMPAN_CERTS_D", offline())
            // This machine's own is none of a test's business.
            .env("SAMPAN_CONFIG", "/dev/null");
        for (name, value) in &self.env {
            run = run.env(name, value);
        }
        run
    }

    /// A name for a container, which is removed when the value is dropped.
    #[must_use]
    pub fn container(&self, hint: &str) -> Container<'_> {
        Container::new(self, hint)
    }

    /// A container that runs in the background: `store.detached("-p 8000 web")`.
    #[track_caller]
    #[must_use]
    pub fn detached(&self, line: impl AsRef<str>) -> Container<'_> {
        let container = self.container("test");
        self.sampan(format!("run -d --name {container} {}", line.as_ref())).ok();
        container
    }

    /// Builds an image from a Dockerfile and what else is in its context, and returns its id.
    #[track_caller]
    pub fn build_from(&self, tag: &str, context: &Dir) -> String {
        self.sampan(format!("build -q -t {tag} '{context}'")).ok().line()
    }

    /// All that is in the store and in its run directory, to be compared before and after: but for compiled code, and a
    /// lock that is made when it is first needed.
    #[must_use]
    pub fn tree(&self) -> BTreeSet<String> {
        let mut all = tree(&self.root, &["code"]);
        all.remove("names.lock");
        all.extend(tree(&self.run, &[]).into_iter().map(|path| format!("run: {path}")));
        all
    }

    /// The processes that work on this store: by the variable that they have from us.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let ours = format!("SAMPAN_ROOT={}", self.root.display());
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let is_ours = |pid: &u32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|variable| variable == ours.as_bytes())
        };
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    #[track_caller]
    fn build(&self, sample: &str) {
        let mut context = sample_file(sample).parent().map(Path::to_owned).unwrap_or_default();
        if self.env.is_empty() {
            self.sampan("build -q -t").arg(sample).arg(context).ok();
            return;
        }
        let copy = Dir::new();
        for name in ["Dockerfile".to_owned(), format!("{sample}.wasm")] {
            std::fs::copy(context.join(&name), copy.join(&name)).or_fail("cannot copy a sample");
        }
        copy.path().clone_into(&mut context);
        self.sampan("build -q -t").arg(sample).arg(context).ok();
    }

    /// Builds a sample's image unless somebody has; others who want it wait, those in other processes too.
    #[track_caller]
    fn build_once(&self, sample: &str) {
        let place = self.root.with_file_name(format!("{sample}.built"));
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&place);
        let file = file.as_mut().or_fail(place.display());
        file.lock().or_fail(place.display());
        let wanted = stamp(&sample_file(sample));
        if std::fs::read_to_string(&place).is_ok_and(|built| built == wanted) {
            return;
        }
        self.build(sample);
        std::fs::write(&place, wanted).or_fail(place.display());
    }

    /// Ends and removes every container.
    fn sweep(&self) {
        let all = self.sampan("ps -aq --no-trunc").run().stdout;
        if !all.is_empty() {
            let _ = self.sampan(format!("rm -f -v {}", all.replace('\n', " "))).run();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.dir.is_some() && self.root.exists() {
            self.sweep();
            let _ = std::fs::remove_dir_all(&self.run);
        }
    }
}

/// What runs a command as another user.
fn become_user(user: u32) -> String {
    format!("setpriv --reuid={user} --regid={user} --clear-groups")
}

/// The binary that is tested.
#[track_caller]
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let target = repository().join("target");
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let usual = target.join(triple).join("release/sampan");
        let path = std::env::var_os("SAMPAN_BIN").map_or(usual, PathBuf::from);
        path.canonicalize()
            .or_fail(format_args!("{} is missing: `make build` makes it, or SAMPAN_BIN names another", path.display()))
    })
}

/// Where registries are for a test that has none: Docker Hub is at a port where nobody listens, so that no test leaves
/// this machine.
#[track_caller]
fn offline() -> &'static Path {
    static OFFLINE: OnceLock<PathBuf> = OnceLock::new();
    OFFLINE.get_or_init(|| {
        let dir = repository().join("target/e2e-offline");
        let place = dir.join("docker.io");
        std::fs::create_dir_all(&place).or_fail(place.display());
        // Beside its place, since other processes do the same.
        let beside = place.join(format!("hosts.{}", std::process::id()));
        std::fs::write(&beside, "server = \"http://127.0.0.1:9\"\n").or_fail(beside.display());
        std::fs::rename(&beside, place.join("hosts.toml")).or_fail(place.display());
        dir
    })
}

/// A sample's Wasm file.
#[track_caller]
#[must_use]
pub fn sample_file(sample: &str) -> PathBuf {
    let path = repository().join("samples").join(sample).join(format!("{sample}.wasm"));
    match path.is_file() {
        true => path,
        false => fail(format_args!("{} is missing: `samples/build.sh {sample}` makes it", path.display())),
    }
}

fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A file's identity, as far as a changed file has another one.
fn stamp(path: &Path) -> String {
    let meta = path.metadata().or_fail(path.display());
    format!("{:x}-{:x}-{:x}", meta.size(), meta.mtime(), meta.mtime_nsec())
}

/// Opens the shared store, with a lock that says that it is in use. There is one for each build of the binary: code that
/// another one has compiled would hide a compiler that is broken.
fn open_shared() -> (Store, File) {
    let all = repository().join("target/e2e");
    let dir = all.join(stamp(binary()));
    std::fs::create_dir_all(&dir).or_fail(dir.display());
    let open = |dir: &Path| {
        let root = dir.join("store");
        let run = usual_run_dir(&root);
        Store { sampan: binary().to_owned(), root, run, wrapper: String::new(), env: vec![], dir: None }
    };
    for entry in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        let found = open(&entry.path());
        // Who uses a store holds this lock with others; so alone one has it of a store that nobody uses.
        let Ok(lock) = File::create(entry.path().join("in-use")) else { continue };
        if lock.try_lock().is_ok() {
            found.sweep();
            if entry.path() != dir {
                let _ = std::fs::remove_dir_all(entry.path());
                let _ = std::fs::remove_dir_all(&found.run);
            }
        }
    }
    let lock = File::create(dir.join("in-use")).or_fail(dir.display());
    lock.lock_shared().or_fail(dir.display());
    // A file that only its owner may read is tested as such where that matters; the way to it is open.
    let _ = std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755));
    (open(&dir), lock)
}

/// The run directory that belongs to a root which is not the usual one.
fn usual_run_dir(root: &Path) -> PathBuf {
    let of_user = || match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Path::new(&dir).join("sampan"),
        None => PathBuf::from(format!("/tmp/sampan-run-{}", rustix::process::geteuid().as_raw())),
    };
    let all = if is_root() { PathBuf::from("/run/sampan") } else { of_user() };
    all.join(run_name(root))
}

/// Its name is a hash of the root's path (FNV-1a), since a socket's path is short.
fn run_name(root: &Path) -> String {
    let bytes = root.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("r-{hash:08x}")
}
