//! An HTTP service of WASI 0.3: one instance serves many requests at once, each in an `async` call of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use wasip3::cli::stderr;
use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

struct Web;

wasip3::http::service::export!(Web);

impl wasip3::exports::http::handler::Guest for Web {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let method = name(request.get_method());
        let target = request.get_path_with_query().unwrap_or_default();
        log(format!("{method} {target}\n")).await;

        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        Ok(match path {
            "/" => text(200, hello(&method, &target)),
            "/echo" => echo(request),
            "/slow" => slow(query).await,
            _ => text(404, "not found\n".into()),
        })
    }
}

fn hello(method: &str, target: &str) -> String {
    static SERVED: AtomicU64 = AtomicU64::new(0);
    let served = SERVED.fetch_add(1, Ordering::Relaxed) + 1;
    format!("Hello from Sampan\n{method} {target}\nvisit {served} of this instance\n")
}

/// The request's body is the response's: its bytes, and its trailers too, never enter this guest.
fn echo(request: Request) -> Response {
    let (_, consumed) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, consumed);
    Response::new(Fields::new(), Some(body), trailers).0
}

async fn slow(query: &str) -> Response {
    let ms = query
        .strip_prefix("ms=")
        .and_then(|ms| ms.parse::<u64>().ok())
        .unwrap_or(0);
    wait_for(ms * 1_000_000).await;
    text(200, format!("waited {ms} ms\n"))
}

fn text(status: u16, text: String) -> Response {
    let headers = Fields::new();
    for (name, value) in [
        ("content-type", "text/plain"),
        ("content-length", &text.len().to_string()),
    ] {
        headers.set(name, &[value.into()]).expect("a header that may be set");
    }
    let (mut writer, body) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (response, _) = Response::new(headers, Some(body), trailers);
    response.set_status_code(status).expect("a valid status");
    // The runtime reads the body only after it has the response.
    spawn_local(async move {
        writer.write_all(text.into_bytes()).await;
    });
    response
}

async fn log(line: String) {
    let (mut writer, reader) = wit_stream::new();
    let written = stderr::write_via_stream(reader);
    writer.write_all(line.into_bytes()).await;
    drop(writer);
    // A closed standard error is no reason to fail a request.
    let _ = written.await;
}

fn name(method: Method) -> String {
    match method {
        Method::Other(name) => name,
        known => format!("{known:?}").trim_start_matches("Method::").to_uppercase(),
    }
}
