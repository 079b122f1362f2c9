//! The control socket.

use crate::exec::Execs;
use crate::task::TaskService;
use crate::{side, task};
use sampan_runtime::container::shared::Shared;
use sampan_runtime::sandbox::{Keeper, Peer, peer_of};
use sampan_runtime::store::Store;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use ttrpc::asynchronous::transport::Listener;
use ttrpc::asynchronous::{Server, Service as Methods};

/// A control socket that is being served.
pub struct Serving {
    server: Server,
    busy: Busy,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

/// How many calls are being answered.
#[derive(Debug, Clone)]
pub(crate) struct Busy(Arc<watch::Sender<usize>>);

impl Default for Busy {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Busy {
    /// Counts one call until the value is dropped.
    pub(crate) fn call(&self) -> impl Drop + use<> {
        struct Call(Arc<watch::Sender<usize>>);
        impl Drop for Call {
            fn drop(&mut self) {
                self.0.send_modify(|n| *n -= 1);
            }
        }
        self.0.send_modify(|n| *n += 1);
        Call(Arc::clone(&self.0))
    }
}

impl Serving {
    /// Opens the control socket of `keeper`'s sandbox at `socket`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn open(keeper: Keeper, store: &Store, socket: &Path) -> Result<Self, ttrpc::Error> {
        Self::serve(keeper, None, store, socket).await
    }

    /// Opens the control socket of a sandbox that containers share.
    ///
    /// # Errors
    /// As [`Serving::open`].
    pub async fn open_shared(shared: &Shared, store: &Store) -> Result<Self, ttrpc::Error> {
        Self::serve(shared.keeper().clone(), Some(shared.clone()), store, &shared.socket()).await
    }

    async fn serve(keeper: Keeper, shared: Option<Shared>, store: &Store, socket: &Path) -> Result<Self, ttrpc::Error> {
        let busy = Busy::default();
        let listener = UnixListener::bind(socket)
            .map_err(|e| ttrpc::Error::Others(format!("cannot listen at {}: {e}", socket.display())))?;
        let execs = Execs::new(keeper.clone(), store.clone());
        let task = Arc::new(TaskService::new(&keeper, store, &busy, &execs));
        let services = [task::services(task), side::services(keeper, shared, &busy, execs)];
        Self::start(listener, services, busy).await
    }

    /// Serves at a socket that is open.
    pub(crate) async fn start(
        listener: UnixListener,
        services: impl IntoIterator<Item = HashMap<String, Methods>>,
        busy: Busy,
    ) -> Result<Self, ttrpc::Error> {
        let server = Server::new().add_listener(Listener::new(trusted(listener)));
        let mut server = services.into_iter().fold(server, Server::register_service);
        server.start().await?;
        Ok(Self { server, busy })
    }

    /// Lets the calls in hand get their answers, then closes.
    pub async fn close(mut self) {
        self.server.stop_listen().await;
        let mut busy = self.busy.0.subscribe();
        let idle = async { busy.wait_for(|n| *n == 0).await.map(drop) };
        let _ = tokio::time::timeout(Duration::from_secs(1), idle).await;
        // The handler has returned; its answer is written by the connection's own task.
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }
}

/// The connections of those who may control a sandbox: the store's owner and root (SO_PEERCRED, unix(7)).
///
/// ttrpc has a hook for this, which it calls on a thread of its own: beside a busy guest that is one wait more for a
/// processor.
fn trusted(listener: UnixListener) -> impl futures::Stream<Item = std::io::Result<UnixStream>> + Send + 'static {
    futures::stream::unfold(listener, async |listener| {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if peer_of(stream.as_fd()).is_ok_and(Peer::is_trusted) => {
                    return Some((Ok(stream), listener));
                }
                Ok(_) => {}
                Err(error) => return Some((Err(error), listener)),
            }
        }
    })
}
