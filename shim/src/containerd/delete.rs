//! Clearing up after a container whose shim does not answer any more, and after every other: containerd does not tell them
//! apart.

use super::call::message;
use super::{Call, Group, ShimError};
use crate::client::SandboxClient;
use crate::task::time;
use containerd_shim_protos::api::DeleteResponse;
use sampan_runtime::guest::KILLED;
use sampan_runtime::store::Store;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a sandbox that still answers may take to end a container.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ends the container if it runs, takes away what a killed sandbox has left, and says how the container has ended; that is
/// what containerd tells of it if nobody else has.
///
/// # Errors
/// When the answer cannot be written.
pub fn delete(store: &Store, call: &Call) -> Result<Vec<u8>, ShimError> {
    // Without a bundle there is nothing that could run.
    if let Ok(group) = Group::of(store, call) {
        clear(&group, &call.id)?;
    }
    let (exit_status, exited_at) = (u32::from(KILLED), time(jiff::Timestamp::now()));
    message(&DeleteResponse { exit_status, exited_at: Some(exited_at).into(), ..DeleteResponse::default() })
}

fn clear(group: &Group, id: &str) -> Result<(), ShimError> {
    let begun = Instant::now();
    while group.place().exists() && begun.elapsed() < PATIENCE {
        if let Some(claim) = group.claim_now()? {
            // Its keeper is dead, and the host and every mount went with it.
            claim.give_up();
        } else if UnixStream::connect(group.socket()).is_ok() {
            end(group, id);
            return Ok(());
        } else {
            // It is dying at this moment: its socket is closed, and its lock is not.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Ends one container of a sandbox that lives. One that it does not know was deleted before.
fn end(group: &Group, id: &str) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let ending = async {
        let client = SandboxClient::connect(&group.socket()).await.ok()?;
        client.kill(id, 9).await.ok()?;
        client.wait(id).await.ok()?;
        client.forget_exec(id, "").await.ok()?;
        client.shutdown(id).await.ok()
    };
    let _ = runtime.block_on(async { tokio::time::timeout(PATIENCE, ending).await });
}
