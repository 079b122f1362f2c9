//! A web server for the files of a directory, in the place of nginx: `nginx -g 'daemon off;'`.
//!
//! hyper speaks HTTP over the sockets of WASI 0.2. It binds its port itself, as a native server does, rather than being an
//! HTTP component: so it can be reached at `localhost` by whoever shares its network, needs no list of ports, and knows
//! its peers' addresses, which its log tells.
//!
//! ```text
//! reactor    waiting: futures over the pollables of WASI
//! tcp        connections as hyper wants them
//! settings   the command line and the environment
//! files      a request → what is answered
//! ask        the conditions and the range of a request
//! log        the two logs
//! ```

mod ask;
mod files;
mod log;
mod reactor;
mod settings;
mod tcp;

use futures::Stream;
use futures::stream::FuturesUnordered;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use settings::Settings;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// How long a connection may take for the head of a request, and be idle before it: nginx's `keepalive_timeout`.
const PATIENCE: Duration = Duration::from_secs(75);

struct Command;

// A library with an entry, and not a program: the constructors of a program's C library run at every call from outside,
// also when the host asks for memory.
wasip2::cli::command::export!(Command);

impl wasip2::exports::cli::run::Guest for Command {
    fn run() -> Result<(), ()> {
        match settings::read() {
            Ok(Some(settings)) => start(settings),
            Ok(None) => Ok(()),
            Err(words) => Err(words),
        }
        .map_err(|words| log::notice("emerg", &words))
    }
}

fn start(settings: Settings) -> Result<(), String> {
    let port = settings.port;
    let listener = tcp::listen(port).map_err(|code| format!("bind() to 0.0.0.0:{port} failed ({})", code.name()))?;
    log::notice("notice", &format!("serving {} at port {port}", settings.root.display()));
    reactor::run(serve(&listener, &Rc::new(settings)));
    log::notice("notice", "exit");
    Ok(())
}

/// Serves until the listener is closed, which is how the container is stopped; then what is in hand is finished.
async fn serve(listener: &tcp::Listener, settings: &Rc<Settings>) {
    let mut builder = http1::Builder::new();
    builder.timer(reactor::Clock).header_read_timeout(PATIENCE);
    let mut connections = FuturesUnordered::new();
    poll_fn(|cx| {
        while let Poll::Ready(accepted) = listener.poll_accept(cx) {
            let Ok((io, client)) = accepted else { return Poll::Ready(()) };
            let (settings, number) = (Rc::clone(settings), log::next_connection());
            let service = service_fn(move |request| {
                let response = files::answer(&settings, client, number, &request);
                std::future::ready(Ok::<_, Infallible>(response))
            });
            connections.push(Box::pin(builder.serve_connection(io, service)));
        }
        // What ends with an error has lost its peer, and nobody is left to tell.
        while let Poll::Ready(Some(_)) = Pin::new(&mut connections).poll_next(cx) {}
        Poll::Pending
    })
    .await;
    // Put in anew, each one is looked at: an idle one is over then.
    let mut rest: FuturesUnordered<_> = std::mem::take(&mut connections)
        .into_iter()
        .map(|mut connection| {
            connection.as_mut().graceful_shutdown();
            connection
        })
        .collect();
    while poll_fn(|cx| Pin::new(&mut rest).poll_next(cx)).await.is_some() {}
}
