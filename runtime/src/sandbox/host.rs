//! The host process: the engine and the guests, behind the fences. The first thread takes the keeper's orders. Each
//! container has a thread; where containers share the sandbox, their services share some.

mod exec;

use super::asking::Asking;
use super::deadlines::{Deadlines, timed_out};
use super::fence::{self, Namespaces};
use super::wire::{self, Order, Report};
use crate::grants::{Grants, Port, Proc, Protocol, Sees, Sockets};
use crate::guest::account::Account;
use crate::guest::cpu;
use crate::guest::module::{self, Doors};
use crate::guest::process::{Loader, Roster, Seat};
use crate::guest::programs::Programs;
use crate::guest::service::Hall;
use crate::guest::state::Surroundings;
use crate::guest::stdio::{Channel, Input, Pipe};
use crate::guest::storage::{Measure, Storage};
use crate::guest::{
    Control, Description, Ending, KILLED, Program, STOPPED, Stop, TIMED_OUT, TRAPPED, command, service,
};
use crate::network::outside::Outside;
use crate::network::reserve::Reservation;
use crate::network::{Bound, Event, View};
use crate::rootfs::Preopen;
use exec::Rooms;
use rustix::net::RecvFlags;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Everything that one container is made of on this side of the fork.
#[derive(Debug)]
pub(super) struct Launch {
    pub id: String,
    pub grants: Grants,
    pub preopens: Vec<Preopen>,
    pub description: Description,
    pub code: File,
    pub output: OwnedFd,
    pub input: Option<OwnedFd>,
    /// The guest's end of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
    pub reserved: Vec<Reservation>,
    /// Who else it sees.
    pub roster: Arc<Roster>,
}

/// The host's life, from the fork to its end; it never returns to its caller's code. The first container starts when
/// the keeper says that its tree is ready; a sandbox that containers share has no first one.
pub(super) fn run(
    socket: OwnedFd,
    first: Option<Launch>,
    namespaces: &Result<Namespaces, String>,
    trees: &[&Path],
    low_ports: bool,
) -> ! {
    quiet_signals();
    quiet_errors();
    allow_many_files();
    keep_only(&socket, first.as_ref());
    let shared = first.is_none();
    // Mapping code needs a path, and after the fences there is none.
    // Those who will share it may need whatever they like.
    let sockets = first.as_ref().map_or_else(
        || Sockets::Any("containers of all kinds may share it".to_owned()),
        |first| Sockets::needed(&first.grants, &first.description.imports),
    );
    let mut first = first.map(|first| {
        let program = Program::map(&first.code, first.description.clone(), first.grants.http.max_instances);
        (first, program)
    });
    // In a static program the random number generator finds no getrandom(2) by name and opens /dev/urandom; it keeps it.
    drop(wasmtime_wasi::WasiCtxBuilder::new());
    let fences = fence::raise(namespaces, trees, low_ports, &sockets);
    let socket = Arc::new(socket);
    report(&socket, &Report::Fenced(fences));
    let mut running: HashMap<String, Control> = HashMap::new();
    let mut deadlines = Deadlines::default();
    let asking = Asking::new(&socket);
    let rooms = Rooms::default();
    let mut common = shared.then(InCommon::default);
    loop {
        while let Some((id, how)) = deadlines.pass(&socket) {
            if let Some(control) = running.get(&id).filter(|control| !control.has_ended()) {
                control.time_out();
                stop(&running, id, how, &socket, shared);
            }
        }
        match wire::receive::<Order>(socket.as_fd(), RecvFlags::empty()) {
            Ok(Some((Order::Begin, _))) => {
                if let Some((launch, program)) = first.take() {
                    deadlines.add(&launch);
                    start(launch, program, &asking, &rooms, None, &mut running);
                }
            }
            Ok(Some((Order::Stop(id), _))) => stop(&running, id, Stop::Gently, &socket, shared),
            Ok(Some((Order::Kill(id), _))) => stop(&running, id, Stop::AtOnce, &socket, shared),
            Ok(Some((Order::Exec(order), fds))) => rooms.take(order, fds, &asking),
            Ok(Some((Order::Limit(id, change), _))) => {
                if let Some(control) = running.get(&id) {
                    control.limit(change);
                }
            }
            Ok(Some((Order::Rest, _))) => super::rest(),
            Ok(Some((Order::Count(id), _))) => {
                let counted = running.get(&id).map(Control::counted).unwrap_or_default();
                report(&socket, &Report::Counted { id, counted });
            }
            Ok(Some((Order::Answer { ticket, answer }, fds))) => asking.answered(ticket, answer, fds),
            Ok(Some((Order::Run(order), fds))) => match joined(*order, fds, &sockets, common.as_mut()) {
                Ok((launch, program)) => {
                    deadlines.add(&launch);
                    running.retain(|_, control| !control.has_ended());
                    start(launch, program, &asking, &rooms, common.as_mut(), &mut running);
                }
                Err((id, message)) => report(&socket, &Report::Ended { id, ending: Ending::told(126, message) }),
            },
            // The keeper is gone, or its words make no sense: there is nobody to live for.
            // SAFETY: this ends the process without running anything more of it.
            Ok(None) | Err(_) => unsafe { libc::_exit(0) },
        }
    }
}

/// Signals of the terminal are for the keeper, which knows what they mean.
fn quiet_signals() {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE, libc::SIGTSTP] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// An end of a guest is an error in the engine's words, and where in the engine it was made is of no interest; with
/// `RUST_BACKTRACE` in the environment of who started the container it would be found out first, which takes 20 ms.
fn quiet_errors() {
    // SAFETY: this process has one thread, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
}

/// A server has a descriptor for each connection, and the usual limit is there for programs that use select(2).
pub(crate) fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Closes every descriptor that is not the guest's business: the keeper's lock and pipes came along with the fork.
fn keep_only(socket: &OwnedFd, launch: Option<&Launch>) {
    let mut kept = vec![socket.as_raw_fd()];
    if let Some(launch) = launch {
        kept.extend([launch.code.as_raw_fd(), launch.output.as_raw_fd()]);
        kept.extend(launch.input.iter().chain(&launch.terminal).map(AsRawFd::as_raw_fd));
        kept.extend(launch.reserved.iter().map(|r| r.socket().as_raw_fd()));
    }
    // Standard error stays, for the last words of an engine that breaks down.
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null).and_then(|()| rustix::stdio::dup2_stdout(&null));
    }
    super::close_all_but(kept);
}

/// Asks a guest to end. One without doors is interrupted at once; but a WASI 0.1 program that sleeps does so in the
/// engine's own thread, where nothing reaches it. When it is alone its process can end without it; among others it is
/// given up. In a sandbox that containers share, another may come at any moment.
fn stop(running: &HashMap<String, Control>, id: String, how: Stop, socket: &Arc<OwnedFd>, shared: bool) {
    let Some(control) = running.get(&id).filter(|control| !control.has_ended()).cloned() else { return };
    control.stop(how);
    let alone = !shared && running.iter().all(|(other, control)| *other == id || control.has_ended());
    let socket = Arc::clone(socket);
    let watch = move || {
        std::thread::sleep(STUCK);
        if control.has_ended() || (how == Stop::Gently && control.close_doors()) {
            return;
        }
        let code = match how {
            _ if control.has_timed_out() => TIMED_OUT,
            Stop::Gently => STOPPED,
            _ => KILLED,
        };
        if control.give_up() {
            // What it listens at is free again, though its thread has the sockets for ever.
            let _ = control.close_doors();
            let ending = if alone { Ending::code(code) } else { Ending::told(code, ABANDONED.to_owned()) };
            report(&socket, &Report::Ended { id, ending });
        }
        if alone {
            // SAFETY: this ends the process without running anything more of it.
            unsafe { libc::_exit(0) };
        }
    };
    // Without the thread the guest has its grace period and is killed.
    let _ = std::thread::Builder::new().name("watch".into()).stack_size(64 << 10).spawn(watch);
}

/// What is said of a container that did not come back from a call of the host.
const ABANDONED: &str = "it was in a call of the host that does not return (a file that blocks, say), so its thread was \
                         abandoned; what the call holds is held as long as the sandbox lives";

/// How long an interrupted guest may take to be gone.
const STUCK: Duration = Duration::from_millis(20);

fn report(socket: &OwnedFd, report: &Report) {
    // A keeper that is gone is noticed by the loop.
    let _ = wire::send(socket.as_fd(), report, &[]);
}

const CLOSED: &str = "this sandbox can open no such sockets as the container needs, since its first container needed none: begin a \
                      sandbox with the one that needs most, or give it a sandbox of its own";

/// What the containers of a sandbox that they share have in common.
#[derive(Debug, Default)]
struct InCommon {
    programs: Programs,
    /// Set up for the first service.
    hall: Option<Hall>,
    /// Those who see each other, by where they are told of.
    rosters: HashMap<PathBuf, Weak<Roster>>,
    /// This process, among those who see all of the sandbox: what a pause container is elsewhere.
    ours: Option<Seat>,
}

impl InCommon {
    fn hall(&mut self) -> std::io::Result<&Hall> {
        match &mut self.hall {
            Some(hall) => Ok(hall),
            hall => Ok(hall.insert(Hall::open()?)),
        }
    }

    /// Whom a container sees that looks at this directory.
    fn roster(&mut self, view: PathBuf, grants: &Grants) -> Arc<Roster> {
        if let Some(known) = self.rosters.get(&view).and_then(Weak::upgrade) {
            return known;
        }
        self.rosters.retain(|_, roster| roster.strong_count() > 0);
        let roster = Roster::shown(view.clone());
        self.rosters.insert(view, Arc::downgrade(&roster));
        if grants.proc.as_ref().is_some_and(|proc| proc.sees == Sees::Sandbox) {
            let ours = roster.seat();
            ours.show(0, &Grants { args: vec!["sampan".into()], proc: Some(Proc::default()), ..grants.clone() });
            self.ours = Some(ours);
        }
        roster
    }
}

/// Puts together a container that joins a running sandbox; no path can be opened any more, so its code is copied from
/// the descriptor, once where containers share the sandbox.
fn joined(
    order: wire::RunOrder,
    fds: Vec<OwnedFd>,
    sockets: &Sockets,
    mut common: Option<&mut InCommon>,
) -> Result<(Launch, wasmtime::Result<Program>), (String, String)> {
    let wire::RunOrder { id, digest, spec, preopens, description, reserved, view } = order;
    let fail = |message: String| (id.clone(), message);
    let grants = Grants::from_spec(&spec).map_err(|e| fail(e.to_string()))?;
    if !sockets.include(&Sockets::needed(&grants, &description.imports)) {
        return Err(fail(CLOSED.to_owned()));
    }
    let mut fds = fds.into_iter();
    let missing = || fail("the keeper sent too few descriptors".to_owned());
    let code = File::from(fds.next().ok_or_else(missing)?);
    let output = fds.next().ok_or_else(missing)?;
    let input = if grants.stdin { Some(fds.next().ok_or_else(missing)?) } else { None };
    let terminal = if grants.terminal { Some(fds.next().ok_or_else(missing)?) } else { None };
    let reserved =
        reserved.into_iter().zip(fds).map(|(parts, socket)| Reservation::from_parts(parts, socket)).collect();
    let roster = match (view, common.as_deref_mut()) {
        (Some(view), Some(common)) => common.roster(view, &grants),
        _ => Roster::hidden(),
    };
    let program = match common {
        Some(common) => code
            .try_clone()
            .map_err(Into::into)
            .and_then(|code| common.programs.get(&digest, code, description.clone())),
        None => Program::copy(&code, description.clone(), grants.http.max_instances),
    };
    Ok((Launch { id, grants, preopens, description, code, output, input, terminal, reserved, roster }, program))
}

fn start(
    launch: Launch,
    program: wasmtime::Result<Program>,
    asking: &Asking,
    rooms: &Rooms,
    common: Option<&mut InCommon>,
    running: &mut HashMap<String, Control>,
) {
    let control = Control::default();
    let id = launch.id.clone();
    running.insert(id.clone(), control.clone());
    let life = Life { id: id.clone(), timeout: launch.grants.limits.timeout, control, asking: asking.clone() };
    let rooms = rooms.clone();
    let shares = launch.grants.limits.cpu_shares;
    let takes = |program: &wasmtime::Result<Program>| program.as_ref().is_ok_and(|p| Hall::takes(p, shares));
    let spawned = match common.filter(|_| takes(&program)) {
        Some(common) => common.hall().map(|hall| {
            let places = hall.places();
            drop(hall.runtime().spawn(async move {
                let ending = live_in_hall(launch, program, &life, &rooms, places).await;
                life.end(ending, &rooms);
            }));
        }),
        None => {
            let guest = std::thread::Builder::new().name("guest".into()).stack_size(1 << 20);
            let live = move || {
                let ending = live(launch, program, &life, &rooms);
                life.end(ending, &rooms);
            };
            guest.spawn(live).map(drop)
        }
    };
    if let Err(e) = spawned {
        let ending = Ending::told(126, format!("cannot start a thread for the guest: {e}"));
        report(asking.socket(), &Report::Ended { id, ending });
    }
}

/// What is known of a container from its beginning to its end.
struct Life {
    id: String,
    timeout: Option<Duration>,
    control: Control,
    asking: Asking,
}

impl Life {
    /// Says that its first instruction is next.
    fn started(&self, ports: Vec<(Port, SocketAddr)>) {
        report(self.asking.socket(), &Report::Started { id: self.id.clone(), ports });
    }

    /// Says that it has ended, unless it has been given up.
    fn end(self, mut ending: Ending, rooms: &Rooms) {
        let Self { id, timeout, control, asking } = self;
        rooms.close(&id);
        if let Some(timeout) = timeout.filter(|_| control.has_timed_out()) {
            ending = Ending::told(TIMED_OUT, timed_out(timeout));
        }
        if control.end() {
            report(asking.socket(), &Report::Ended { id, ending });
        }
    }
}

/// A container that is ready to be run.
struct Ready {
    program: Program,
    surroundings: Arc<Surroundings>,
    /// Of a service.
    listening: Listening,
    /// Of a server that is handed its sockets.
    doors: Doors,
}

fn live(launch: Launch, program: wasmtime::Result<Program>, life: &Life, rooms: &Rooms) -> Ending {
    let ready = match ready(launch, program, life, rooms, false) {
        Ok(ready) => ready,
        Err(ending) => return ending,
    };
    let Ready { program, surroundings, listening, doors } = ready;
    let ending = if program.kind().is_service() {
        let (sockets, ports) = listening.into_iter().map(|(port, host, socket)| (socket, (port, host))).unzip();
        service::run(&program, &surroundings, &life.control, sockets, || life.started(ports))
    } else {
        let ports = surroundings.network.published().iter().map(|p| (p.port, p.host)).collect();
        command::run(&program, &surroundings, &life.control, doors, || life.started(ports))
    };
    last_words(ending, &surroundings)
}

/// The same for a service that shares a runtime with others.
async fn live_in_hall(
    launch: Launch,
    program: wasmtime::Result<Program>,
    life: &Life,
    rooms: &Rooms,
    places: Arc<Semaphore>,
) -> Ending {
    let Ready { program, surroundings, listening, .. } = match ready(launch, program, life, rooms, true) {
        Ok(ready) => ready,
        Err(ending) => return ending,
    };
    let (sockets, ports) = listening.into_iter().map(|(port, host, socket)| (socket, (port, host))).unzip();
    let started = || life.started(ports);
    let ending = service::run_in_hall(places, &program, &surroundings, &life.control, sockets, started).await;
    last_words(ending, &surroundings)
}

fn ready(
    launch: Launch,
    program: wasmtime::Result<Program>,
    life: &Life,
    rooms: &Rooms,
    in_hall: bool,
) -> Result<Ready, Ending> {
    let control = &life.control;
    let program = program.map_err(|e| Ending::told(126, format!("cannot map the compiled code: {e:#}")))?;
    let Launch { id, mut grants, preopens, output, input, terminal, reserved, roster, .. } = launch;
    let output = Pipe::new(output);
    let output = if in_hall { output.giving_way() } else { output };
    control.hush(output.closer());
    let diagnostics = output.clone();
    if let Some(shares) = grants.limits.cpu_shares
        && let Err(e) = cpu::set_niceness(0, cpu::niceness(shares))
    {
        let words = format!("it has no more than the usual share of a busy machine, and not {shares} of 1024: {e}\n");
        let _ = output.write(Channel::Diagnostic, words.as_bytes());
    }
    let tell = Box::new(move |event: &Event| {
        // Whom it calls is worth knowing, and no news for its terminal.
        let channel = if matches!(event, Event::Called(_)) { Channel::Note } else { Channel::Diagnostic };
        let _ = diagnostics.write(channel, format!("{event}\n").as_bytes());
    });
    let beyond = life.asking.container(&id);
    let view = View::new(&grants, reserved, Arc::clone(&beyond) as Arc<dyn Outside>, tell);
    control.count_refusals(view.refusals());
    let loader = program.spawns().then(|| Arc::clone(&beyond) as Arc<dyn Loader>);
    let (input, stdio) = match terminal.map(exec::at_terminal).transpose() {
        Ok(Some((input, stdio))) => (Some(input), Some(stdio)),
        Ok(None) => (input.map(Input::new), None),
        Err(e) => return Err(Ending::told(126, format!("cannot hand over the terminal: {e}"))),
    };
    let (mut listening, mut doors) = (Listening::new(), Doors::new());
    let is_service = program.kind().is_service();
    if is_service || program.takes_listeners() {
        match listen(&view) {
            Ok(opened) if is_service => listening = opened,
            Ok(opened) => doors = handed(opened),
            Err(message) => return Err(Ending::told(126, message)),
        }
    }
    if !doors.is_empty() {
        grants.env.retain(|variable| !variable.starts_with("LISTEN_"));
        grants.env.extend(module::environment(&doors));
    }
    let account = Account::new(&grants.limits);
    control.uses(&account, view.traffic());
    if let (Some(limit), Some(root)) = (grants.limits.storage, preopens.first()) {
        account.limit_storage(Storage::new(limit, &root.host, Arc::clone(&beyond) as Arc<dyn Measure>));
    }
    let seat = roster.seat();
    seat.show(0, &grants);
    let surroundings = Arc::new(Surroundings {
        grants,
        preopens,
        network: view,
        output,
        input,
        stdio,
        loader,
        lent: None,
        account,
        seat,
    });
    rooms.open(&id, &surroundings, control);
    Ok(Ready { program, surroundings, listening, doors })
}

/// Writes down why a guest broke, where its user looks first.
fn last_words(mut ending: Ending, surroundings: &Surroundings) -> Ending {
    if let Some(words) = &ending.message {
        let channel = if ending.out_of_memory { Channel::Diagnostic } else { Channel::Stderr };
        if ending.out_of_memory || ending.code == TRAPPED {
            let _ = surroundings.output.write(channel, format!("{words}\n").as_bytes());
        }
    }
    ending.out_of_memory |= surroundings.account.was_out_of_memory();
    ending
}

/// Ports of the container, and where the host listens for each.
type Listening = Vec<(Port, SocketAddr, TcpListener)>;

/// Opens the doors of a server that does not do so itself: those that were reserved for it.
fn listen(view: &View) -> Result<Listening, String> {
    let mut listening = Vec::new();
    for reserved in view.take_reserved().into_iter().filter(|r| r.publish.port.protocol == Protocol::Tcp) {
        let (port, host) = (reserved.publish.port, reserved.address);
        let fail = |e: std::io::Error| format!("cannot listen for port {port} at {host}: {e}");
        let private = reserved.private;
        let listener = reserved.listen().map_err(fail)?;
        let real = listener.local_addr().map_err(fail)?;
        let everywhere = match real.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let (protocol, guest) = (Protocol::Tcp, SocketAddr::new(everywhere, port.number));
        if !view.listeners().iter().any(|bound| bound.guest == guest && bound.protocol == protocol) {
            view.bound(Bound { protocol, guest, real, private });
        }
        listening.push((port, real, listener));
    }
    Ok(listening)
}

/// The sockets that a WASI 0.1 server is handed: those of each port, by its number.
fn handed(listening: Listening) -> Doors {
    let mut doors: BTreeMap<Port, Vec<Arc<TcpListener>>> = BTreeMap::new();
    for (port, _, socket) in listening {
        doors.entry(port).or_default().push(Arc::new(socket));
    }
    doors.into_iter().collect()
}
