//! Figures of all running containers for Prometheus, over HTTP: `GET /metrics`, in the OpenMetrics text format
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>). They are asked of the sandboxes at each scrape; nothing is kept
//! between.

mod encode;
mod observe;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use sampan_runtime::store::Store;
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How many connections are served at once; a scraper has one.
const CONNECTIONS: usize = 64;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// What Prometheus asks for and is told.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers scrapes until the future is dropped.
///
/// # Errors
/// When connections cannot be taken any more.
pub async fn serve(listener: TcpListener, store: &Store) -> std::io::Result<Infallible> {
    let room = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = std::sync::Arc::clone(&room).acquire_owned().await else {
            return Err(std::io::Error::other("the server is closed"));
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Of the connection, or too many descriptors at this moment.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let store = store.clone();
        tokio::spawn(async move {
            let _place = place;
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            let each = service_fn(|request| {
                let store = store.clone();
                async move { answer(request, &store).await }
            });
            // A client that goes away is no concern of ours.
            let _ = server.serve_connection(TokioIo::new(stream), each).await;
        });
    }
}

async fn answer(request: Request<Incoming>, store: &Store) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status, text: &str| {
        let mut response = Response::new(Full::from(text.to_owned()));
        *response.status_mut() = status;
        response
    };
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match scrape(store).await {
            Ok(text) => {
                let mut response = plain(StatusCode::OK, &text);
                response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(OPEN_METRICS));
                response
            }
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED, "the metrics can only be read\n"),
        _ => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n"),
    })
}

/// What is true at this moment, as text.
async fn scrape(store: &Store) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    Ok(encode::text(observe::all(store).await?)?)
}
