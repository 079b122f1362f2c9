//! The keeper's side of what is run inside containers.

use super::{Keeper, Kept, State};
use crate::container::{PATH, id, search};
use crate::grants::Grants;
use crate::guest::KILLED;
use crate::guest::code::{self, Code};
use crate::guest::process::find;
use crate::guest::script;
use crate::image::{ImageError, Images, directories_at, find_in_layers};
use crate::rootfs::{self, Preopen};
use crate::sandbox::exec::{ExecError, ExecNews, ExecOrder, ExecSpec, ExecStart, ExecStdio, Streams};
use crate::sandbox::snapshot::{Exit, Phase};
use crate::sandbox::terminal::{Key, Terminal};
use crate::sandbox::wire::{self, Order};
use crate::sandbox::{SandboxError, system};
use crate::store::{Store, files};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Something that is run inside a container.
#[derive(Debug)]
pub(super) struct Exec {
    phase: Phase,
    /// The signal that ended it, in a way.
    signal: Option<u8>,
    /// Whether nobody asks for its end any more.
    forgotten: bool,
    terminal: Option<Terminal>,
}

/// A place for what is to be run. It is free again, and what runs there ends, unless it is kept.
struct Place<'k> {
    keeper: &'k Keeper,
    key: (String, String),
    kept: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (id, exec) = &self.key;
        if matches!(self.keeper.look_exec(id, exec), Ok(Phase::Starting | Phase::Running)) {
            let _ = self.keeper.kill_exec(id, exec, 9);
            if let Some(exec) = self.keeper.state().execs.get_mut(&self.key) {
                exec.forgotten = true;
                return;
            }
        }
        self.keeper.state().execs.remove(&self.key);
    }
}

/// What is found before the host is asked.
struct Ready {
    code: Code,
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    lent: Vec<PathBuf>,
    /// Words for its user.
    note: Option<String>,
}

impl Keeper {
    /// Runs a program inside a running container, and waits for its end. When the future is dropped, the program ends.
    ///
    /// # Errors
    /// As [`Keeper::start_exec`].
    pub async fn exec(&self, store: &Store, id: &str, spec: ExecSpec, stdio: ExecStdio) -> Result<Exit, ExecError> {
        let exec = id::new_id().map_err(system("draw a name"))?;
        let mut place = self.begin_exec(store, id, &exec, spec, stdio).await?;
        let exit = self.wait_exec(id, &exec).await;
        place.kept = true;
        self.state().execs.remove(&place.key);
        exit
    }

    /// Starts a program inside a running container under a name, and returns when its first instruction is next.
    ///
    /// # Errors
    /// When the container does not run, the name is taken, or the program is not there or cannot be run.
    pub async fn start_exec(
        &self,
        store: &Store,
        id: &str,
        exec: &str,
        spec: ExecSpec,
        stdio: ExecStdio,
    ) -> Result<(), ExecError> {
        self.begin_exec(store, id, exec, spec, stdio).await?.kept = true;
        Ok(())
    }

    async fn begin_exec(
        &self,
        store: &Store,
        id: &str,
        exec: &str,
        spec: ExecSpec,
        stdio: ExecStdio,
    ) -> Result<Place<'_>, ExecError> {
        let (bundle, tree) = self.inside(id)?;
        if self.is_paused() {
            let (id, phase, wanted) = (id.to_owned(), "paused", "run into; unpause it first");
            return Err(SandboxError::Phase { id, phase, wanted }.into());
        }
        let key = (id.to_owned(), exec.to_owned());
        {
            let mut state = self.state();
            if state.execs.contains_key(&key) {
                return Err(ExecError::Taken { id: key.0, exec: key.1 });
            }
            // Not on its way before the host has heard of it.
            let terminal = match &stdio {
                ExecStdio::Terminal(_, terminal) => Some(terminal.clone()),
                ExecStdio::Streams(_) => None,
            };
            let made = Exec { phase: Phase::Created, signal: None, forgotten: false, terminal };
            state.execs.insert(key.clone(), made);
        }
        let place = Place { keeper: self, key, kept: false };
        let rootless = self.0.rootless;
        let its_store = store.clone();
        // Compiling takes a while, and the keeper has others to look after.
        let finding = tokio::task::spawn_blocking(move || ready(&its_store, &bundle, &tree, rootless, spec));
        let ready = finding.await.map_err(|e| system("look for the program")(std::io::Error::other(e)))??;
        if let (Some(note), Some(errors)) = (&ready.note, stdio.errors().and_then(|fd| fd.try_clone().ok())) {
            let _ = File::from(errors).write_all(note.as_bytes());
        }
        self.hand_over(store, &place.key, ready, &stdio)?;
        // What the host has now is the only one.
        drop(stdio);
        let begun = |phase: &Phase| matches!(phase, Phase::Running | Phase::Ended(_));
        match self.until_exec(&place.key, begun).await? {
            Phase::Ended(Exit { code: 126, message: Some(message), .. }) => Err(ExecError::NotStarted(message)),
            _ => Ok(place),
        }
    }

    /// The bundle and the tree of a running container.
    fn inside(&self, id: &str) -> Result<(PathBuf, PathBuf), ExecError> {
        let state = self.state();
        let kept = state.containers.get(id).ok_or_else(|| SandboxError::NoContainer(id.to_owned()))?;
        match &kept.snapshot.phase {
            Phase::Running => Ok((kept.snapshot.bundle.clone(), self.0.trees.join(kept.snapshot.tree.to_string()))),
            other => {
                let phase = other.word();
                Err(SandboxError::Phase { id: id.to_owned(), phase, wanted: "entered" }.into())
            }
        }
    }

    fn hand_over(
        &self,
        store: &Store,
        (id, exec): &(String, String),
        ready: Ready,
        stdio: &ExecStdio,
    ) -> Result<(), ExecError> {
        let (streams, handed): (Streams, Vec<BorrowedFd<'_>>) = match stdio {
            ExecStdio::Streams(all) => {
                let [input, output, errors] = all;
                let which = [input.is_some(), output.is_some(), errors.is_some()];
                (Streams::Each(which), all.iter().flatten().map(AsFd::as_fd).collect())
            }
            ExecStdio::Terminal(guest, _) => (Streams::Terminal, vec![guest.as_fd()]),
        };
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(ready.code.file.as_fd()).chain(handed).collect();
        let Ready { args, env, cwd, lent, .. } = ready;
        let description = ready.code.description.clone();
        let start = ExecStart { id: id.clone(), exec: exec.clone(), args, env, cwd, description, streams, lent };
        let mut state = self.state();
        if let Some(kept) = state.containers.get_mut(id) {
            kept.answers.allow_programs(store);
        }
        let lives = |kept: &Kept| matches!(kept.snapshot.phase, Phase::Running);
        let runs = state.containers.get(id).is_some_and(lives);
        let key = (id.clone(), exec.clone());
        let Some(known) = state.execs.get_mut(&key).filter(|_| runs) else { return Err(SandboxError::Gone.into()) };
        known.phase = Phase::Starting;
        drop(state);
        let order = Order::Exec(ExecOrder::Start(Box::new(start)));
        wire::send(self.0.socket.as_fd(), &order, &fds).map_err(system("hand the program to the sandbox"))?;
        Ok(())
    }

    /// Where something that is run inside a container is in its life.
    ///
    /// # Errors
    /// When there is no such thing.
    pub fn look_exec(&self, id: &str, exec: &str) -> Result<Phase, ExecError> {
        let key = (id.to_owned(), exec.to_owned());
        let state = self.state();
        match state.execs.get(&key) {
            Some(known) => Ok(known.phase.clone()),
            None => Err(ExecError::NotFound { id: key.0, exec: key.1 }),
        }
    }

    /// Waits for the end of something that is run inside a container.
    ///
    /// # Errors
    /// When there is no such thing.
    pub async fn wait_exec(&self, id: &str, exec: &str) -> Result<Exit, ExecError> {
        let key = (id.to_owned(), exec.to_owned());
        match self.until_exec(&key, |phase| matches!(phase, Phase::Ended(_))).await? {
            Phase::Ended(exit) => Ok(exit),
            _ => Err(SandboxError::Gone.into()),
        }
    }

    async fn until_exec(
        &self,
        (id, exec): &(String, String),
        done: impl Fn(&Phase) -> bool,
    ) -> Result<Phase, ExecError> {
        let mut changes = self.0.changed.subscribe();
        loop {
            let phase = self.look_exec(id, exec)?;
            if done(&phase) {
                return Ok(phase);
            }
            if changes.changed().await.is_err() {
                return Err(SandboxError::Gone.into());
            }
        }
    }

    /// Ends something that is run inside a container, as a signal would that it has no handler for; 0 only looks
    /// whether it is there.
    ///
    /// # Errors
    /// When there is no such thing.
    pub fn kill_exec(&self, id: &str, exec: &str, signal: u8) -> Result<(), ExecError> {
        self.look_exec(id, exec)?;
        let key = (id.to_owned(), exec.to_owned());
        if let Some(known) = self.state().execs.get_mut(&key)
            && signal != 0
        {
            known.signal.get_or_insert(signal);
        }
        if signal != 0 {
            let order = Order::Exec(ExecOrder::Kill { id: key.0, exec: key.1 });
            let _ = wire::send(self.0.socket.as_fd(), &order, &[]);
        }
        Ok(())
    }

    /// Forgets something that has ended, and says how.
    ///
    /// # Errors
    /// When it runs, or there is no such thing.
    pub fn forget_exec(&self, id: &str, exec: &str) -> Result<Option<Exit>, ExecError> {
        let exit = match self.look_exec(id, exec)? {
            Phase::Ended(exit) => Some(exit),
            Phase::Created => None,
            _ => {
                let (id, phase) = (format!("{id}/{exec}"), "running");
                return Err(SandboxError::Phase { id, phase, wanted: "deleted" }.into());
            }
        };
        self.state().execs.remove(&(id.to_owned(), exec.to_owned()));
        Ok(exit)
    }

    /// Tells of a key at the terminal of what is run inside a container, or of its own program, whose name is empty.
    pub(in crate::sandbox) fn key(&self, id: &str, exec: &str, signal: Key) {
        let order = ExecOrder::Key { id: id.to_owned(), exec: exec.to_owned(), signal };
        let _ = wire::send(self.0.socket.as_fd(), &Order::Exec(order), &[]);
    }

    /// The names of what is run inside a container, and has not ended.
    #[must_use]
    pub fn execs(&self, id: &str) -> Vec<String> {
        let state = self.state();
        let runs = |exec: &Exec| matches!(exec.phase, Phase::Starting | Phase::Running);
        let ours = state.execs.iter().filter(|((container, _), exec)| container == id && runs(exec));
        ours.map(|((_, exec), _)| exec.clone()).collect()
    }

    pub(super) fn exec_news(&self, id: String, exec: String, news: ExecNews) {
        let mut state = self.state();
        if exec.is_empty() {
            return self.container_news(&mut state, &id, &news);
        }
        let key = (id, exec);
        let Some(known) = state.execs.get_mut(&key) else { return };
        match news {
            ExecNews::Started => {
                if matches!(known.phase, Phase::Starting) {
                    known.phase = Phase::Running;
                }
            }
            ExecNews::Ended { code, message } => {
                if !matches!(known.phase, Phase::Ended(_)) {
                    let code = known.signal.map_or(code, |signal| 128_u8.saturating_add(signal));
                    known.phase =
                        Phase::Ended(Exit { code, out_of_memory: false, at: jiff::Timestamp::now(), message });
                }
                if known.forgotten {
                    state.execs.remove(&key);
                }
            }
            ExecNews::Pressed { deadly } => {
                if let Some(terminal) = &known.terminal {
                    terminal.pressed();
                }
                drop(state);
                if let Some(signal) = deadly {
                    let _ = self.kill_exec(&key.0, &key.1, signal);
                }
            }
        }
    }

    /// What became of a key at a container's own terminal.
    fn container_news(&self, state: &mut State, id: &str, news: &ExecNews) {
        let Some(kept) = state.containers.get_mut(id) else { return };
        match news {
            ExecNews::Pressed { deadly } => {
                if let Some(recorder) = &kept.streams.recorder {
                    recorder.terminal().pressed();
                }
                if let Some(signal) = deadly {
                    kept.streams.pressed.get_or_insert(*signal);
                    let _ = wire::send(self.0.socket.as_fd(), &Order::Kill(id.to_owned()), &[]);
                }
            }
            ExecNews::Started | ExecNews::Ended { .. } => {}
        }
    }

    /// What was run inside a container that has ended has ended too.
    pub(super) fn end_execs(&self, id: &str) {
        for exec in self.execs(id) {
            let _ = self.kill_exec(id, &exec, 9);
            self.exec_news(id.to_owned(), exec, ExecNews::Ended { code: KILLED, message: None });
        }
    }
}

/// Finds the program, and has its code made ready.
fn ready(
    store: &Store,
    bundle: &Path,
    tree: &Path,
    rootless: Option<bool>,
    spec: ExecSpec,
) -> Result<Ready, ExecError> {
    let config = files::read_json(&bundle.join("config.json")).map_err(|e| ExecError::Bundle(e.to_string()))?;
    let grants = Grants::from_spec(&config).map_err(|e| ExecError::Bundle(e.to_string()))?;
    let preopens = match rootless {
        Some(_) => vec![rootfs::preopen(tree)],
        None => rootfs::fallback(&grants, bundle)?,
    };
    let cwd = spec.cwd.unwrap_or(grants.cwd);
    if !find::is_directory(&preopens, &cwd) {
        return Err(ExecError::NoDirectory(cwd));
    }
    let mut env = grants.env;
    let secrets = rootfs::secrets::variables(&grants.secrets).map_err(|e| ExecError::Bundle(e.to_string()))?;
    for variable in secrets.into_iter().chain(spec.env) {
        crate::container::set_variable(&mut env, variable);
    }
    if cwd != "/" || env.iter().any(|variable| variable.starts_with("PWD=")) {
        // Programs for WASI 0.1 have no other way to learn it.
        crate::container::set_variable(&mut env, format!("PWD={cwd}"));
    }
    let name = spec.args.first().filter(|name| !name.is_empty()).ok_or(ExecError::NoCommand)?.clone();
    if let Some(digest) = &spec.module {
        let code = code::cached(store, digest).ok_or_else(|| ExecError::NotExecutable {
            program: name,
            reason: format!("the code of {digest} is not in the cache: it was swept away meanwhile; try again"),
        })?;
        return Ok(Ready { code, args: spec.args, env, cwd, lent: vec![], note: None });
    }
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(PATH).to_owned();
    if let Some(found) = along(&preopens, &cwd, &path, &name, &spec.args)? {
        let Some((code, _)) = code::prepare_open(store, found.file, true).map_err(|e| named(&name, e))? else {
            return Err(ExecError::NotExecutable { program: name, reason: "it was not compiled".to_owned() });
        };
        if code.description.kind.is_service() {
            let reason = format!("it is a {}, and a command was wanted", code.description.kind);
            return Err(ExecError::NotExecutable { program: name, reason });
        }
        return Ok(Ready { code, args: found.args, env, cwd, lent: vec![], note: None });
    }
    let searched = if name.contains('/') { String::new() } else { format!(" (searched PATH={path})") };
    let missing = |hint| ExecError::NoProgram { program: name.clone(), searched: searched.clone(), hint };
    if !spec.toolbox {
        return Err(missing(""));
    }
    match toolbox(store, &name)? {
        Toolbox::NotInstalled => Err(missing(
            ", and there is no image \"toolbox\" here that could lend its own: build it from samples/toolbox, or load it",
        )),
        Toolbox::Lacks => Err(missing(", nor in the image \"toolbox\"")),
        Toolbox::Has(code, lent) => {
            if !path.split(':').any(|dir| dir == "/bin") {
                crate::container::set_variable(&mut env, format!("PATH={path}:/bin"));
            }
            let note = Some(format!("sampan: {name} is not in the container: that of the image \"toolbox\" is run\n"));
            Ok(Ready { code, args: spec.args, env, cwd, lent, note })
        }
    }
}

/// An error of compiling names the program as its user knows it.
fn named(name: &str, error: code::CodeError) -> ExecError {
    match error {
        code::CodeError::Compile { source, .. } => code::CodeError::Compile { path: name.into(), source }.into(),
        other => other.into(),
    }
}

/// Looks a program up as a shell would; `None` when it is not there.
fn along(
    preopens: &[Preopen],
    cwd: &str,
    path: &str,
    name: &str,
    args: &[String],
) -> Result<Option<find::Found>, ExecError> {
    let (found, why_not) = (RefCell::new(None), Cell::new(None));
    let look = |place: &Path| -> Result<Option<PathBuf>, Infallible> {
        let place = place.to_string_lossy();
        match find::find(preopens, "/", &place, args.to_vec()) {
            Ok(program) => found.replace(Some(program)),
            Err(Errno::NOENT | Errno::NOTDIR) if !find::exists(preopens, &place) => None,
            Err(errno) => {
                why_not.set(Some(errno));
                None
            }
        };
        Ok(found.borrow().is_some().then(|| PathBuf::from(&*place)))
    };
    let Ok(_) = search(name, cwd, path, look);
    let reason = match (found.take(), why_not.get()) {
        (Some(found), _) => return Ok(Some(found)),
        (None, None) => return Ok(None),
        (None, Some(Errno::NOENT | Errno::NOTDIR)) => {
            "it is a script, and the container has no program for its first line"
        }
        (None, Some(Errno::ACCESS)) => {
            "permission denied: a file that may be read was wanted, and Wasm in it or a script"
        }
        (None, Some(Errno::NOEXEC)) => "it is neither Wasm nor a script that names its interpreter",
        (None, Some(Errno::LOOP)) => "too many scripts or links, each of which leads to the next",
        (None, Some(_)) => "it cannot be read",
    };
    Err(ExecError::NotExecutable { program: name.to_owned(), reason: reason.to_owned() })
}

/// A program as the toolbox has it.
enum Toolbox {
    NotInstalled,
    Lacks,
    /// Its code, and all paths that lead to it.
    Has(Code, Vec<PathBuf>),
}

/// Looks a program up in the image `toolbox`.
fn toolbox(store: &Store, name: &str) -> Result<Toolbox, ExecError> {
    let images = Images::new(store);
    let image = match images.find("toolbox") {
        Ok(image) => image,
        Err(ImageError::NotFound { .. }) => return Ok(Toolbox::NotInstalled),
        Err(error) => return Err(error.into()),
    };
    let layers = images.layer_dirs(&image)?;
    let env = image.config.config().as_ref().and_then(|config| config.env().clone()).unwrap_or_default();
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(PATH);
    let look = |path: &Path| find_in_layers(&layers, &path.to_string_lossy());
    let Some((program, _)) = search(name, "/", path, look)? else { return Ok(Toolbox::Lacks) };
    if script::start_of(&program).is_ok_and(|start| start.starts_with(b"#!")) {
        return Ok(Toolbox::Lacks);
    }
    let mut lent = BTreeSet::new();
    for dir in path.split(':').filter(|dir| !dir.is_empty()) {
        for merged in directories_at(&layers, Path::new(dir))? {
            let names = std::fs::read_dir(&merged).into_iter().flatten().flatten();
            lent.extend(names.map(|entry| rootfs::normalize(dir).join(entry.file_name())));
        }
    }
    // Its other names are links to it, of either kind.
    let id = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    let own = id(&program);
    lent.retain(|path| look(path).is_ok_and(|found| found.is_some_and(|found| own.is_some() && id(&found) == own)));
    Ok(Toolbox::Has(code::prepare(store, &program).map_err(|e| named(name, e))?, lent.into_iter().collect()))
}
