//! The control socket.

use crate::{side, task};
use sampan_runtime::sandbox::Keeper;
use sampan_runtime::store::Store;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use ttrpc::asynchronous::Server;
use ttrpc::{AcceptHook, HookError, HookOutput};

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
        let busy = Busy(Arc::new(watch::Sender::new(0)));
        let address = format!("unix://{}", socket.display());
        let mut server = Server::new()
            .bind(&address)?
            .set_accept_hook(SameUser)
            .register_service(task::services(&keeper, store, &busy))
            .register_service(side::services(keeper, &busy));
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

/// Lets only the store's owner and root in (SO_PEERCRED, unix(7)).
#[derive(Debug)]
struct SameUser;

impl AcceptHook for SameUser {
    fn on_accept(&self, fd: std::os::fd::RawFd) -> Result<HookOutput, HookError> {
        // SAFETY: ttrpc lends the descriptor of an accepted connection for the length of this call.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let peer = sampan_runtime::sandbox::peer_of(fd).map_err(HookError::Io)?;
        if peer.is_trusted() {
            Ok(HookOutput { data: ttrpc::ConnectionData::default(), payload_transform: None })
        } else {
            Err(HookError::Rejected(format!("user {} may not control this sandbox", peer.uid)))
        }
    }
}
