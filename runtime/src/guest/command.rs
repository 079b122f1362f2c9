//! Running a command: one call of its entry, on a thread of its own, until it returns or is stopped.

use super::account::{self, Metered, OutOfMemory};
use super::cpu::Cpu;
use super::module::{self, Doors, Parts};
use super::process::Processes;
use super::state::{PlainState, Surroundings};
use super::{Control, Ending, Interrupted, KILLED, Kind, Mapped, Program, STOPPED, Stop, TRAPPED, linker};
use crate::grants::Protocol;
use crate::network::own;
use rustix::net::{Shutdown, shutdown, sockopt};
use std::sync::{Arc, Weak};
use wasmtime::{Linker, Store, UpdateDeadline};
use wasmtime_wasi::I32Exit;

/// Runs the command to its end. `listeners` are the sockets that a WASI 0.1 server is handed, none for any other.
/// `started` is called when the guest's first instruction is next.
#[must_use]
pub fn run(
    program: &Program,
    surroundings: &Arc<Surroundings>,
    control: &Control,
    listeners: Doors,
    started: impl FnOnce(),
) -> Ending {
    let cpu = surroundings.account.cpu();
    cpu.enter();
    let runtime = match runtime(cpu) {
        Ok(runtime) => runtime,
        Err(e) => return Ending::told(126, format!("cannot set up the sandbox: {e}")),
    };
    control.watch(&program.engine);
    // Weak, so that the output pipe closes with the guest and not with its handle, and a socket when the guest wants.
    let doors = Arc::downgrade(surroundings);
    let handed: Vec<_> = listeners.iter().flat_map(|(_, sockets)| sockets.iter().map(Arc::downgrade)).collect();
    control.doors(move || {
        let sockets = handed.iter().filter_map(Weak::upgrade);
        let closed = sockets.filter(|socket| shutdown(socket, Shutdown::Both).is_ok()).count();
        (closed > 0) | doors.upgrade().is_some_and(|surroundings| close_doors(&surroundings))
    });
    let loader = surroundings.loader.as_ref().filter(|_| program.spawns());
    let processes = loader.map(|loader| Processes::new(&program.engine, surroundings, control, Arc::clone(loader)));
    if let (Some(stdio), Some(processes)) = (&surroundings.stdio, &processes) {
        control.keys(processes.keys(&stdio[0]));
    }
    let ending = runtime.block_on(async {
        let guest = call(program, surroundings, control, processes.as_ref(), listeners, started);
        let killed = async {
            control.wait(Stop::Gently).await;
            // What can see that it should end gets the time to do so; the rest is interrupted at once.
            if control.close_doors() {
                control.wait(Stop::AtOnce).await;
            }
        };
        let ending = tokio::select! {
            biased;
            ending = guest => ending,
            () = killed => interrupted(control),
        };
        if let Some(processes) = &processes {
            processes.end().await;
        }
        ending
    });
    // A read of standard input may hang on a thread of the runtime for ever.
    runtime.shutdown_background();
    ending
}

/// A runtime of the calling thread, whose other threads work for the container too.
pub(super) fn runtime(cpu: &Arc<Cpu>) -> std::io::Result<tokio::runtime::Runtime> {
    let (enter, leave) = (Arc::clone(cpu), Arc::clone(cpu));
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.on_thread_start(move || enter.enter()).on_thread_stop(move || leave.leave());
    builder.enable_all().build()
}

fn interrupted(control: &Control) -> Ending {
    Ending::code(if control.asked() == Stop::AtOnce { KILLED } else { STOPPED })
}

async fn call(
    program: &Program,
    surroundings: &Arc<Surroundings>,
    control: &Control,
    processes: Option<&Processes>,
    listeners: Doors,
    started: impl FnOnce(),
) -> Ending {
    let result = match &program.code {
        Mapped::Module(module)
            if processes.is_some()
                || !listeners.is_empty()
                || surroundings.grants.limits.of_files()
                || surroundings.stdio.is_some() =>
        {
            call_with_descriptors(program, module, surroundings, control, processes, listeners, started).await
        }
        Mapped::Module(module) => call_module(program, module, surroundings, control, started).await,
        Mapped::Component(component) => {
            let process = processes.map(|processes| (processes, processes.first()));
            call_component(program, component, surroundings, control, process, started).await
        }
    };
    match result {
        Ok(code) => Ending::code(code),
        Err(error) => ending_of(&error, control),
    }
}

/// What an error of the engine means for the container.
pub(super) fn ending_of(error: &wasmtime::Error, control: &Control) -> Ending {
    if let Some(I32Exit(code)) = error.downcast_ref() {
        // Only the low byte reaches a parent on Unix, and so with Docker.
        return Ending::code(code.to_le_bytes()[0]);
    }
    if error.is::<Interrupted>() {
        return interrupted(control);
    }
    if let Some(refused) = error.downcast_ref::<OutOfMemory>() {
        return Ending { out_of_memory: true, ..Ending::told(KILLED, refused.to_string()) };
    }
    if error.is::<wasmtime::Trap>() || error.is::<wasmtime::WasmBacktrace>() {
        return Ending::told(TRAPPED, trap_text(error));
    }
    Ending::told(126, format!("{error:#}"))
}

/// A trap in words: what happened, then where, a frame a line, with the names that the module has.
fn trap_text(error: &wasmtime::Error) -> String {
    let cause = format!("the program trapped: {}", error.root_cause());
    match error.downcast_ref::<wasmtime::WasmBacktrace>() {
        Some(backtrace) => format!("{cause}\n{backtrace}"),
        None => cause,
    }
}

async fn call_module(
    program: &Program,
    module: &wasmtime::Module,
    surroundings: &Surroundings,
    control: &Control,
    started: impl FnOnce(),
) -> wasmtime::Result<u8> {
    let mut linker = Linker::new(&program.engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |state: &mut PlainState| &mut state.wasi)?;
    exit_with_any_code(&mut linker)?;
    let mut store = Store::new(&program.engine, surroundings.module_state()?);
    account::meter(&mut store);
    watch_epoch(&mut store, control);
    let instance = linker.instantiate_async(&mut store, module).await?;
    let entry = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    started();
    entry.call_async(&mut store, ()).await?;
    Ok(0)
}

/// The crate's own `proc_exit` traps on codes from 126 up; ours go up to 255 as any program's. From here on the linker
/// takes what shadows the crate's.
pub(super) fn exit_with_any_code<T: 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.func_wrap(module::WASI, "proc_exit", |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) })?;
    Ok(())
}

/// A module that starts others, is handed sockets, or may have so many of both: not all of its descriptors are the crate's.
async fn call_with_descriptors(
    program: &Program,
    module: &wasmtime::Module,
    surroundings: &Surroundings,
    control: &Control,
    processes: Option<&Processes>,
    doors: Doors,
    started: impl FnOnce(),
) -> wasmtime::Result<u8> {
    let linked = match processes {
        Some(processes) => processes.link(module)?,
        None => module::linker(&program.engine)?.instantiate_pre(module)?,
    };
    let parts = Parts {
        stdio: module::first_stdio(surroundings),
        doors,
        doors_wait: !program.description.must_not_wait(),
        process: processes.map(|processes| (processes.clone(), processes.first())),
    };
    module::run(&program.engine, &linked, surroundings, parts, control, started).await
}

pub(super) async fn call_component(
    program: &Program,
    component: &wasmtime::component::Component,
    surroundings: &Arc<Surroundings>,
    control: &Control,
    process: Option<(&Processes, u32)>,
    started: impl FnOnce(),
) -> wasmtime::Result<u8> {
    let linker = linker::component(&program.engine, &program.description, &surroundings.grants.limits)?;
    let state = match process {
        Some((processes, id)) => surroundings.process_state(processes, id)?,
        None => surroundings.component_state(true)?,
    };
    let mut store = Store::new(&program.engine, state);
    account::meter(&mut store);
    watch_epoch(&mut store, control);
    let returned = if program.kind() == Kind::Command3 {
        use wasmtime_wasi::p3::bindings::Command;
        let command = Command::instantiate_async(&mut store, component, &linker).await?;
        started();
        store.run_concurrent(async |accessor| command.wasi_cli_run().call_run(accessor).await).await??
    } else {
        use wasmtime_wasi::p2::bindings::Command;
        let command = Command::instantiate_async(&mut store, component, &linker).await?;
        started();
        command.wasi_cli_run().call_run(&mut store).await?
    };
    Ok(u8::from(returned.is_err()))
}

/// Lets a change of the epoch end a guest that is to be stopped, and hold up one that is ahead of its share, and no other.
pub(super) fn watch_epoch<T: Metered>(store: &mut Store<T>, control: &Control) {
    let asked = control.clone();
    let cpu = Arc::clone(store.data_mut().meter().account().cpu());
    cpu.pace(store.engine());
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| match asked.asked() {
        Stop::AtOnce => Err(Interrupted.into()),
        // A gentle stop is decided outside the guest, so let the executor look.
        Stop::Gently => Ok(UpdateDeadline::Yield(1)),
        Stop::No => Ok(cpu.due().map_or(UpdateDeadline::Continue(1), |wait| UpdateDeadline::YieldCustom(1, wait))),
    });
    if control.asked() != Stop::No {
        // Asked before the deadline was set, which may have been after the epoch changed for it.
        store.set_epoch_deadline(0);
    }
}

/// Closes what a well-behaved command waits on: standard input and listening sockets. False when there is neither.
fn close_doors(surroundings: &Surroundings) -> bool {
    let mut any = false;
    if let Some(input) = &surroundings.input {
        input.close();
        any = true;
    }
    for bound in surroundings.network.listeners() {
        if bound.protocol == Protocol::Tcp && !bound.guest.ip().is_loopback() {
            any |= close_listener(bound.real);
        }
    }
    any
}

/// Ends a listening socket of this process; whoever waits on it sees an error.
fn close_listener(address: std::net::SocketAddr) -> bool {
    let listeners = own::sockets_at(address).filter(|fd| sockopt::socket_acceptconn(fd) == Ok(true));
    listeners.filter(|fd| shutdown(fd, Shutdown::Both).is_ok()).count() > 0
}
