//! One process: from its code to its exit code, on a thread of its own.

use super::{Processes, Request, Seat};
use crate::grants::Grants;
use crate::guest::command::{self, ending_of};
use crate::guest::module::stream::Stream;
use crate::guest::module::{self, Doors, ModuleState, Parts};
use crate::guest::state::Surroundings;
use crate::guest::{Control, Ending, KILLED, Mapped, Program, Stop};
use rustix::io::Errno;
use std::sync::{Arc, OnceLock};
use wasmtime::InstancePre;

/// A program that can be started any number of times.
pub(super) struct Loaded {
    program: Program,
    /// A module with its imports, linked at its first start.
    linked: OnceLock<InstancePre<ModuleState>>,
}

impl Loaded {
    pub(super) fn new(program: Program) -> Self {
        Self { program, linked: OnceLock::new() }
    }
}

/// Starts the process of this number as a child of that one; it has its place in the table.
///
/// # Errors
/// EAGAIN when the system has no thread for it.
pub(super) fn start(
    processes: &Processes,
    (seat, parent): (Seat, u32),
    loaded: &Arc<Loaded>,
    request: Request,
    args: Vec<String>,
    control: Control,
) -> Result<(), Errno> {
    let stdio = request.stdio.map(|stream| stream.unwrap_or(Stream::Null));
    let ours = &processes.0.surroundings;
    let mut env = request.env;
    // A program for WASI 0.1 has no other way to learn it.
    env.retain(|variable| !variable.starts_with("PWD="));
    env.push(format!("PWD={}", request.cwd));
    let surroundings = Arc::new(Surroundings {
        grants: Grants { args, env, cwd: request.cwd, ..ours.grants.clone() },
        preopens: ours.preopens.clone(),
        network: ours.network.clone(),
        output: ours.output.clone(),
        input: None,
        stdio: Some(stdio),
        loader: None,
        account: Arc::clone(&ours.account),
        lent: None,
        seat: seat.clone(),
    });
    seat.show(parent, &surroundings.grants);
    let (processes, loaded) = (processes.clone(), Arc::clone(loaded));
    let live = move || {
        control.watch(&processes.0.engine);
        let cpu = Arc::clone(surroundings.account.cpu());
        cpu.enter();
        let code = live(&processes, seat.number(), &loaded, surroundings, &control);
        cpu.leave();
        seat.leave();
        processes.ended(seat.number(), code);
    };
    std::thread::Builder::new().name("process".into()).stack_size(1 << 20).spawn(live).map_err(|_| Errno::AGAIN)?;
    Ok(())
}

fn live(processes: &Processes, id: u32, loaded: &Loaded, surroundings: Arc<Surroundings>, control: &Control) -> u8 {
    let Ok(runtime) = command::runtime(surroundings.account.cpu()) else { return 126 };
    let code = runtime.block_on(async {
        let guest = call(processes, id, loaded, &surroundings, control);
        let ending = tokio::select! {
            biased;
            ending = guest => ending,
            () = control.wait(Stop::AtOnce) => Ending::code(KILLED),
        };
        if ending.out_of_memory {
            surroundings.account.out_of_memory();
        }
        if let (Some(words), Some([_, _, stderr])) = (&ending.message, &surroundings.stdio) {
            // Where whoever started it looks; and if nobody takes it, the end does not wait for that.
            let words = format!("{words}\n");
            tokio::select! {
                _ = stderr.write(words.as_bytes()) => {}
                () = control.wait(Stop::AtOnce) => {}
            }
        }
        ending.code
    });
    // Its ends of pipes close before its parent hears of its end.
    drop(surroundings);
    runtime.shutdown_background();
    code
}

async fn call(
    processes: &Processes,
    id: u32,
    loaded: &Loaded,
    surroundings: &Arc<Surroundings>,
    control: &Control,
) -> Ending {
    let result = match &loaded.program.code {
        Mapped::Module(module) => {
            let linked = match loaded.linked.get() {
                Some(linked) => Ok(linked),
                None => processes.linker().and_then(|linker| {
                    let linked = linker.instantiate_pre(module)?;
                    Ok(loaded.linked.get_or_init(|| linked))
                }),
            };
            match (linked, &surroundings.stdio) {
                (Ok(linked), Some(stdio)) => {
                    let process = Some((processes.clone(), id));
                    let parts = Parts { stdio: stdio.clone(), doors: Doors::new(), doors_wait: true, process };
                    module::run(&processes.0.engine, linked, surroundings, parts, control, || {}).await
                }
                (Ok(_), None) => Ok(126),
                (Err(error), _) => Err(error),
            }
        }
        Mapped::Component(component) => {
            let process = loaded.program.spawns().then_some((processes, id));
            command::call_component(&loaded.program, component, surroundings, control, process, || {}).await
        }
    };
    match result {
        Ok(code) => Ending::code(code),
        Err(error) => ending_of(&error, control),
    }
}

impl Processes {
    /// A module that imports the interface, with its imports.
    ///
    /// # Errors
    /// When it imports something else too that is not there.
    pub fn link(&self, module: &wasmtime::Module) -> wasmtime::Result<InstancePre<ModuleState>> {
        self.linker()?.instantiate_pre(module)
    }
}
