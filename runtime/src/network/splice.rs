//! Further addresses of a published port: the guest has one socket, at the first address; what comes to the others is
//! passed on to it.

use super::reserve::Reservation;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// How long to wait when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens at a reserved address, until it is aborted or the runtime that this is called in ends, and passes every
/// connection on to `guest`, where the guest listens.
///
/// # Errors
/// When somebody else listens there.
pub(super) fn start(reservation: Reservation, guest: SocketAddr) -> std::io::Result<AbortHandle> {
    let listener = reservation.listen()?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let passing = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((client, _)) => drop(tokio::spawn(pass_on(client, guest))),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    });
    Ok(passing.abort_handle())
}

async fn pass_on(mut client: TcpStream, guest: SocketAddr) {
    // A guest that listens no more is a connection that ends.
    let Ok(mut server) = TcpStream::connect(guest).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
