//! What one instance of a guest is given by the host: its WASI context, and nothing else.

use super::account::{Account, Meter, Metered};
use super::module::{self, stream::Stream};
use super::process::component::Member;
use super::process::{Lent, Loader, Processes, Seat};
use super::stdio::{Channel, Input, Pipe};
use crate::grants::Grants;
use crate::network::View;
use crate::network::sockets::Networked;
use crate::rootfs::Preopen;
use std::sync::Arc;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// Everything that instances of one container are made from.
#[derive(Debug)]
pub struct Surroundings {
    /// What was granted.
    pub grants: Grants,
    /// The directories that stand for the tree.
    pub preopens: Vec<Preopen>,
    /// The network's view.
    pub network: View,
    /// Where output goes.
    pub output: Pipe,
    /// Where input comes from; `None` reads as empty.
    pub input: Option<Input>,
    /// The streams of a program that another has started, instead of these.
    pub stdio: Option<Stdio>,
    /// Gets the code of programs that this one starts.
    pub loader: Option<Arc<dyn Loader>>,
    /// The program's number among those that it sees.
    pub seat: Seat,
    /// What all instances of the container use together.
    pub account: Arc<Account>,
    /// What programs of its tree are looked for in when they are not there.
    pub lent: Option<Arc<Lent>>,
}

/// Standard input, output and error.
pub type Stdio = [Stream; 3];

impl Surroundings {
    /// `holders` descriptors stand before those of the directories, for what is not the crate's.
    fn builder(&self, holders: usize, blocking: bool) -> wasmtime::Result<WasiCtxBuilder> {
        let mut wasi = WasiCtxBuilder::new();
        // Before the directories, which take it over as it is.
        wasi.allow_blocking_current_thread(blocking);
        wasi.args(&self.grants.args).initial_cwd(&self.grants.cwd);
        for variable in &self.grants.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            wasi.env(name, value);
        }
        for preopen in self.preopens.iter().take(1).cycle().take(holders) {
            wasi.preopened_dir(&preopen.host, &preopen.guest, FsPerms::ReadOnly)?;
        }
        for preopen in &self.preopens {
            let rights = if preopen.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(&preopen.host, &preopen.guest, rights)?;
        }
        // What is by this name is each program's own; where nothing can be told, there is nothing.
        if let Some(own) = self.preopens.first().and_then(|tree| self.seat.own(&tree.host)) {
            let _ = wasi.preopened_dir(own, "/proc/self", FsPerms::ReadOnly);
        }
        let view = self.network.clone();
        wasi.socket_addr_check(move |address, what| {
            let permitted = view.permits(address, what);
            Box::pin(async move { permitted })
        });
        // Names are looked up by the view.
        wasi.allow_tcp(true).allow_udp(true);
        Ok(wasi)
    }

    fn with_streams(&self, blocking: bool) -> wasmtime::Result<WasiCtxBuilder> {
        if let Some(stdio) = &self.stdio {
            return self.with_stdio(blocking, stdio);
        }
        let mut wasi = self.builder(0, blocking)?;
        wasi.stdout(self.output.stream(Channel::Stdout)).stderr(self.output.stream(Channel::Stderr));
        if let Some(input) = &self.input {
            wasi.stdin(input.clone());
        }
        Ok(wasi)
    }

    fn with_stdio(&self, blocking: bool, [input, output, error]: &Stdio) -> wasmtime::Result<WasiCtxBuilder> {
        let mut wasi = self.builder(0, blocking)?;
        wasi.stdin(input.clone()).stdout(output.clone()).stderr(error.clone());
        Ok(wasi)
    }

    /// The state of a core module's instance.
    ///
    /// # Errors
    /// When a directory cannot be opened.
    pub fn module_state(&self) -> wasmtime::Result<PlainState> {
        // A command has its thread to itself, so it may as well wait there for a file.
        Ok(PlainState { wasi: self.with_streams(true)?.build_p1(), meter: Meter::new(&self.account) })
    }

    /// The same for a module whose streams are not the crate's, nor the first `listeners` descriptors behind them.
    ///
    /// # Errors
    /// When a directory cannot be opened.
    pub fn own_descriptors_state(&self, listeners: usize) -> wasmtime::Result<WasiP1Ctx> {
        Ok(self.builder(listeners, true)?.build_p1())
    }

    /// The state of a component's instance.
    ///
    /// # Errors
    /// When a directory cannot be opened.
    pub fn component_state(self: &Arc<Self>, blocking: bool) -> wasmtime::Result<ComponentState> {
        Ok(self.component_state_with(self.context(blocking)?))
    }

    /// The same of a component that may start others: the process `id` among these.
    ///
    /// # Errors
    /// When a directory cannot be opened.
    pub fn process_state(self: &Arc<Self>, processes: &Processes, id: u32) -> wasmtime::Result<ComponentState> {
        let stdio = module::first_stdio(self);
        let wasi = Box::new(self.with_stdio(true, &stdio)?.build());
        let member = Member { processes: processes.clone(), id, cwd: self.grants.cwd.clone(), stdio };
        Ok(ComponentState { member: Some(member), ..self.component_state_with(wasi) })
    }

    /// What an instance of a component is told of the world. Nothing in it changes with what an instance does, so one
    /// instance after another can have it; making it opens each directory.
    ///
    /// # Errors
    /// When a directory cannot be opened.
    pub fn context(&self, blocking: bool) -> wasmtime::Result<Box<WasiCtx>> {
        Ok(Box::new(self.with_streams(blocking)?.build()))
    }

    /// The state of a component's instance, with a context of these surroundings.
    #[must_use]
    pub fn component_state_with(self: &Arc<Self>, wasi: Box<WasiCtx>) -> ComponentState {
        ComponentState {
            wasi,
            table: ResourceTable::new(),
            http: WasiHttpCtx::new(),
            hooks: Outgoing { surroundings: Arc::clone(self) },
            member: None,
            meter: Meter::new(&self.account),
        }
    }
}

/// The data of a core module's store.
pub struct PlainState {
    /// The crate's state.
    pub wasi: WasiP1Ctx,
    meter: Meter,
}

impl std::fmt::Debug for PlainState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainState").finish_non_exhaustive()
    }
}

impl Metered for PlainState {
    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }
}

/// The data of a component's store.
pub struct ComponentState {
    wasi: Box<WasiCtx>,
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Outgoing,
    member: Option<Member>,
    meter: Meter,
}

impl Metered for ComponentState {
    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }
}

impl ComponentState {
    /// What it is among the processes of its container.
    ///
    /// # Errors
    /// When it is none.
    pub fn member(&self) -> wasmtime::Result<&Member> {
        self.member.as_ref().ok_or_else(|| wasmtime::format_err!("the component is no process"))
    }

    /// The context, for another instance.
    #[must_use]
    pub fn into_context(self) -> Box<WasiCtx> {
        self.wasi
    }
}

impl std::fmt::Debug for ComponentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ComponentState").finish_non_exhaustive()
    }
}

impl WasiView for ComponentState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for ComponentState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

impl Networked for ComponentState {
    fn network(&self) -> &View {
        &self.hooks.surroundings.network
    }
}

/// Outgoing HTTP: linked for every guest, and the view says whom it may call.
struct Outgoing {
    surroundings: Arc<Surroundings>,
}

type Sending = Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>;
type Sent = Result<(http::Response<WasiBody>, Sending), wasmtime_wasi_http::Error>;

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Sending,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let view = self.surroundings.network.clone();
        Box::new(async move {
            let response = view.send(request, options).await?;
            // The connection moves by itself, so there is nothing that the guest has to wait for.
            Ok((response, Box::new(async { Ok(()) }) as Sending))
        })
    }

    // The same MiB on its way to a client as the crate's default, in more and smaller writes: a guest that writes its
    // answer in a few pieces has ended before the first of them leaves.
    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        15
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        64 << 10
    }
}
