//! One process: from its code to its exit code, on a thread of its own.

use super::stream::Stream;
use super::{Processes, Request};
use crate::grants::Grants;
use crate::guest::command::{self, ending_of};
use crate::guest::process::module::ModuleState;
use crate::guest::state::{Stdio, Surroundings};
use crate::guest::{Control, Ending, KILLED, Mapped, Program, Stop};
use rustix::io::Errno;
use std::sync::{Arc, OnceLock};
use wasmtime::{InstancePre, Store};

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

/// Starts the process `id`, which has its place in the table.
///
/// # Errors
/// EAGAIN when the system has no thread for it.
pub(super) fn start(
    processes: &Processes,
    id: u32,
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
    });
    let (processes, loaded) = (processes.clone(), Arc::clone(loaded));
    let live = move || {
        control.watch(&processes.0.engine);
        let code = live(&processes, id, &loaded, surroundings, &control);
        processes.ended(id, code);
    };
    std::thread::Builder::new().name("process".into()).stack_size(1 << 20).spawn(live).map_err(|_| Errno::AGAIN)?;
    Ok(())
}

fn live(processes: &Processes, id: u32, loaded: &Loaded, surroundings: Arc<Surroundings>, control: &Control) -> u8 {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 126 };
    let code = runtime.block_on(async {
        let guest = call(processes, id, loaded, &surroundings, control);
        let ending = tokio::select! {
            biased;
            ending = guest => ending,
            () = control.wait(Stop::AtOnce) => Ending { code: KILLED, message: None },
        };
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
                    run_module(processes, id, linked, surroundings, stdio.clone(), control).await
                }
                (Ok(_), None) => Ok(126),
                (Err(error), _) => Err(error),
            }
        }
        Mapped::Component(component) => {
            command::call_component(&loaded.program, component, surroundings, control, || {}).await
        }
    };
    match result {
        Ok(code) => Ending { code, message: None },
        Err(error) => ending_of(&error, control),
    }
}

/// Runs a module that has been linked with [`super::linker`], with descriptors of its own.
pub(super) async fn run_module(
    processes: &Processes,
    id: u32,
    linked: &InstancePre<ModuleState>,
    surroundings: &Surroundings,
    stdio: Stdio,
    control: &Control,
) -> wasmtime::Result<u8> {
    let state = ModuleState::new(surroundings.process_state()?, stdio, processes.clone(), id);
    let mut store = Store::new(&processes.0.engine, state);
    command::watch_epoch(&mut store, control);
    let instance = linked.instantiate_async(&mut store).await?;
    let entry = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    entry.call_async(&mut store, ()).await?;
    Ok(0)
}

impl Processes {
    /// Runs the first guest, a module that imports the interface, to its end; then the others end too.
    ///
    /// # Errors
    /// When it traps, is stopped, or says its exit code.
    pub async fn run_first(
        &self,
        module: &wasmtime::Module,
        control: &Control,
        started: impl FnOnce(),
    ) -> wasmtime::Result<u8> {
        let linked = self.linker()?.instantiate_pre(module)?;
        started();
        run_module(self, super::FIRST, &linked, &self.0.surroundings, self.first_stdio(), control).await
    }
}
