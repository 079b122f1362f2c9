//! Connections: what hyper is told, what protects the host from clients, and how all of it ends.

use super::Service;
use super::answer::answer;
use super::tasks::Tasks;
use super::ticker::TICK;
use crate::guest::Stop;
use crate::network::own;
use crate::network::traffic::Counted;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

/// How long a client may take for the head of a request, and keep a connection without one.
const HEAD: Duration = Duration::from_secs(30);
/// How large the head of a request may be.
const HEAD_BYTES: usize = 64 << 10;
/// How many header lines it may have.
const HEADERS: usize = 100;
/// How many requests of one HTTP/2 connection are answered at a time.
const STREAMS: u32 = 128;
/// How often a silent HTTP/2 client is asked whether it is there.
const PING: Duration = Duration::from_secs(30);

/// How often it is looked whether connections can be taken again.
const AGAIN: Duration = Duration::from_millis(200);

/// How connections are served.
pub(super) type Server = auto::Builder<Tasks>;

/// hyper, with limits.
pub(super) fn server(tasks: Tasks) -> Server {
    let mut server = auto::Builder::new(tasks);
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES).max_headers(HEADERS);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    server
}

/// Takes connections until the service is stopped.
pub(super) async fn accept(
    listener: TcpListener,
    service: Arc<Service>,
    server: Arc<Server>,
    connections: Arc<GracefulShutdown>,
) {
    let mut waiting = false;
    loop {
        let place = match Arc::clone(&service.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                wait(&service, &mut waiting, &"this process has no more file descriptors to give (ulimit -n)");
                tokio::select! {
                    () = service.control.wait(Stop::Gently) => return,
                    place = Arc::clone(&service.places).acquire_owned() => match place {
                        Ok(place) => place,
                        Err(_) => return,
                    },
                }
            }
        };
        if waiting && service.places.available_permits() > 0 {
            waiting = false;
            service.say(format_args!("connections are taken again"));
        }
        let accepted = tokio::select! {
            () = service.control.wait(Stop::Gently) => return,
            accepted = listener.accept() => accepted,
            // To see whether there are places again.
            () = tokio::time::sleep(AGAIN), if waiting => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                serve(stream, peer, place, &service, &server, &connections);
            }
            Err(error) if is_the_clients(&error) => {}
            // The whole system is out of something: there is nothing to do but to let others end.
            Err(error) => {
                wait(&service, &mut waiting, &error);
                tokio::time::sleep(TICK).await;
            }
        }
    }
}

/// Says once that connections have to wait.
fn wait(service: &Service, waiting: &mut bool, why: &dyn std::fmt::Display) {
    if !*waiting {
        service.say(format_args!("new connections have to wait: {why}"));
    }
    *waiting = true;
}

/// How many connections there may be, so that descriptors are left for guests: for the root directory of each of so many
/// instances, and some files; half of all if they are few.
pub(super) fn places(instances: u32) -> usize {
    use rustix::process::{Resource, getrlimit};
    const MOST: usize = 1 << 20;
    const FILES: usize = 64;
    const STANDARD: usize = 3;
    let limit = getrlimit(Resource::Nofile).current.map_or(MOST, |limit| usize::try_from(limit).unwrap_or(MOST));
    let free = limit.saturating_sub(STANDARD + own::open().count());
    free.saturating_sub((instances as usize + FILES).min(free / 2)).clamp(1, MOST)
}

/// Whether it is about one connection that was given up before it was taken.
fn is_the_clients(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    service: &Arc<Service>,
    server: &Server,
    connections: &GracefulShutdown,
) {
    let _ = stream.set_nodelay(true);
    let counted = service.figures.connection();
    let stream = Counted::new(stream, service.surroundings.network.traffic());
    let (service, tasks) = (Arc::clone(service), service.tasks.clone());
    let each = hyper::service::service_fn(move |request| answer(Arc::clone(&service), peer, request));
    let connection = server.serve_connection(TokioIo::new(stream), each).into_owned();
    let connection = connections.watch(connection);
    tasks.spawn(async move {
        // What went wrong with one connection is its client's to know.
        let _ = connection.await;
        drop((counted, place));
    });
}
