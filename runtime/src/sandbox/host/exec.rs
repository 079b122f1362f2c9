//! The host's side of what is run inside containers.

use super::{STUCK, report};
use crate::grants::Grants;
use crate::guest::engine::{self, Purpose};
use crate::guest::module::Doors;
use crate::guest::module::stream::{Handed, SharedInput, Stream};
use crate::guest::process::{Lent, Loader, Seat};
use crate::guest::state::{Stdio, Surroundings};
use crate::guest::stdio::Input;
use crate::guest::{Control, Ending, KILLED, Pressed, Program, Stop, command};
use crate::sandbox::asking::Asking;
use crate::sandbox::exec::{ExecNews, ExecOrder, ExecStart, Streams};
use crate::sandbox::wire::Report;
use futures::FutureExt;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wasmtime::Engine;

/// How long the end of a container waits for that of what is run inside it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The running containers, as far as something can be run inside them. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Rooms(Arc<Mutex<HashMap<String, Room>>>);

#[derive(Debug)]
struct Room {
    surroundings: Arc<Surroundings>,
    /// Of its own program.
    control: Control,
    execs: HashMap<String, (Control, Seat)>,
    /// Everything that is run inside has a clone, so that its end can be waited for.
    alive: Sender<()>,
    ends: Receiver<()>,
}

impl Rooms {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Room>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets programs be run inside a container.
    pub(super) fn open(&self, id: &str, surroundings: &Arc<Surroundings>, control: &Control) {
        let (alive, ends) = channel();
        let (surroundings, control) = (Arc::clone(surroundings), control.clone());
        self.all().insert(id.to_owned(), Room { surroundings, control, execs: HashMap::new(), alive, ends });
    }

    /// Ends what is run inside a container that has ended itself.
    pub(super) fn close(&self, id: &str) {
        let Some(room) = self.all().remove(id) else { return };
        room.surroundings.seat.leave();
        if room.execs.is_empty() {
            return;
        }
        for (control, _) in room.execs.values() {
            control.stop(Stop::AtOnce);
        }
        drop(room.alive);
        // Nobody sends anything: this is the end of the last one.
        let _ = room.ends.recv_timeout(PATIENCE);
        // Who is stuck must not hold the container's output.
        (room.surroundings.output.closer())();
    }

    /// Does what the keeper asks.
    pub(super) fn take(&self, order: ExecOrder, fds: Vec<OwnedFd>, asking: &Asking) {
        match order {
            ExecOrder::Start(start) => self.start(*start, fds, asking),
            ExecOrder::Kill { id, exec } => self.kill(id, exec, asking),
            ExecOrder::Key { id, exec, signal } => self.key(id, exec, signal, asking),
        }
    }

    fn start(&self, start: ExecStart, fds: Vec<OwnedFd>, asking: &Asking) {
        let (id, exec) = (start.id.clone(), start.exec.clone());
        let control = Control::default();
        let room = {
            let mut all = self.all();
            all.get_mut(&id).map(|room| {
                let seat = room.surroundings.seat.roster().seat();
                room.execs.insert(exec.clone(), (control.clone(), seat.clone()));
                (Arc::clone(&room.surroundings), room.alive.clone(), seat)
            })
        };
        let ended = |asking: &Asking, message: Option<String>, code: u8| {
            let news = ExecNews::Ended { code, message };
            report(asking.socket(), &Report::Exec { id: id.clone(), exec: exec.clone(), news });
        };
        let Some((surroundings, alive, seat)) = room else {
            return ended(asking, Some("the container does not run".to_owned()), 126);
        };
        let (rooms, reports) = (self.clone(), asking.clone());
        let (container, name) = (id.clone(), exec.clone());
        let live = move || {
            let ending = live(start, fds, &surroundings, &seat, &control, &reports);
            seat.leave();
            drop(surroundings);
            if let Some(room) = rooms.all().get_mut(&container) {
                room.execs.remove(&name);
            }
            if control.end() {
                let news = ExecNews::Ended { code: ending.code, message: ending.message };
                report(reports.socket(), &Report::Exec { id: container, exec: name, news });
            }
            drop(alive);
        };
        if let Err(e) = std::thread::Builder::new().name("exec".into()).stack_size(1 << 20).spawn(live) {
            ended(asking, Some(format!("cannot start a thread for the program: {e}")), 126);
        }
    }

    /// A key at a terminal: programs that the first one has started end by it; when there are none, it is its own.
    fn key(&self, id: String, exec: String, signal: u8, asking: &Asking) {
        let control = self.all().get(&id).and_then(|room| match exec.as_str() {
            "" => Some(room.control.clone()),
            exec => room.execs.get(exec).map(|(control, _)| control.clone()),
        });
        let Some(control) = control else { return };
        let deadly = (control.press(signal) == Pressed::Deadly).then_some(signal);
        report(asking.socket(), &Report::Exec { id, exec, news: ExecNews::Pressed { deadly } });
    }

    /// Ends one at once. What is stuck where nothing reaches it is given up.
    fn kill(&self, id: String, exec: String, asking: &Asking) {
        let known = self.all().get(&id).and_then(|room| room.execs.get(&exec).cloned());
        let Some((control, seat)) = known else { return };
        control.stop(Stop::AtOnce);
        let asking = asking.clone();
        let watch = move || {
            std::thread::sleep(STUCK);
            if !control.has_ended() && control.give_up() {
                seat.leave();
                let news = ExecNews::Ended { code: KILLED, message: None };
                report(asking.socket(), &Report::Exec { id, exec, news });
            }
        };
        let _ = std::thread::Builder::new().name("watch".into()).stack_size(64 << 10).spawn(watch);
    }
}

/// From the code to the exit code.
fn live(
    start: ExecStart,
    fds: Vec<OwnedFd>,
    ours: &Surroundings,
    seat: &Seat,
    control: &Control,
    asking: &Asking,
) -> Ending {
    let failed = |message: String| Ending::told(126, message);
    let mut fds = fds.into_iter();
    let Some(code) = fds.next() else { return failed("the keeper sent no code".to_owned()) };
    // Code that answers requests is compiled for other settings, so this has an engine of its own.
    let engine = match engine::engine(Purpose::Command) {
        Ok(engine) => engine,
        Err(e) => return failed(format!("cannot set up the engine: {e:#}")),
    };
    let ExecStart { id, exec, args, env, cwd, description, streams, lent } = start;
    let program = match open(&engine, code, description) {
        Ok(program) => program,
        Err(e) => return failed(format!("cannot map the compiled code: {e:#}")),
    };
    let Some(stdio) = stdio(streams, fds) else { return failed("the keeper sent too few descriptors".to_owned()) };
    let errors = stdio[2].clone();
    let lent = (!lent.is_empty()).then(|| Arc::new(Lent::new(program.clone(), lent)));
    let grants = Grants { args, env, cwd, spawn: true, ..ours.grants.clone() };
    seat.show(0, &grants);
    let surroundings = Arc::new(Surroundings {
        grants,
        preopens: ours.preopens.clone(),
        network: ours.network.clone(),
        output: ours.output.clone(),
        input: None,
        stdio: Some(stdio),
        loader: Some(asking.container(&id) as Arc<dyn Loader>),
        lent,
        account: Arc::clone(&ours.account),
        seat: seat.clone(),
    });
    // The container's listening sockets are not its to close.
    control.doors(|| false);
    let mut started = false;
    let tell = || {
        started = true;
        report(asking.socket(), &Report::Exec { id, exec, news: ExecNews::Started });
    };
    let ending = command::run(&program, &surroundings, control, Doors::new(), tell);
    if let (true, Some(words)) = (started, &ending.message) {
        let _ = errors.write(format!("{words}\n").as_bytes()).now_or_never();
    }
    ending
}

fn open(engine: &Engine, code: OwnedFd, description: crate::guest::Description) -> wasmtime::Result<Program> {
    if description.kind.is_service() {
        wasmtime::bail!("it is a {}, and a command was wanted", description.kind);
    }
    Program::open(engine, File::from(code), description)
}

/// The streams that came along; a missing one is empty, and takes everything.
fn stdio(streams: Streams, mut fds: impl Iterator<Item = OwnedFd>) -> Option<Stdio> {
    let handed = |fd: OwnedFd| Stream::Handed(Arc::new(Handed { file: File::from(fd), terminal: false }));
    match streams {
        Streams::Each(which) => {
            let [input, output, errors] = which.map(|comes| if comes { fds.next().map(Some) } else { Some(None) });
            Some([
                input?.map_or(Stream::Null, |fd| Stream::Input(SharedInput::new(&Input::new(fd)))),
                output?.map_or(Stream::Null, handed),
                errors?.map_or(Stream::Null, handed),
            ])
        }
        Streams::Terminal => at_terminal(fds.next()?).ok().map(|(_, stdio)| stdio),
    }
}

/// The streams of a program that has a terminal, and what closes its input.
pub(super) fn at_terminal(terminal: OwnedFd) -> std::io::Result<(Input, Stdio)> {
    let input = Input::new(terminal.try_clone()?);
    let output = Stream::Handed(Arc::new(Handed { file: File::from(terminal), terminal: true }));
    let stdio = [Stream::Input(SharedInput::of_terminal(&input)), output.clone(), output];
    Ok((input, stdio))
}
