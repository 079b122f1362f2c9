//! An HTTP service of WASI 0.2. Nothing in it listens: the runtime calls `handle` once for each request.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use wasip2::cli::environment::get_environment;
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::preopens;
use wasip2::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, FutureIncomingResponse, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
    Scheme,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

struct Web;

wasip2::http::proxy::export!(Web);

impl wasip2::exports::http::incoming_handler::Guest for Web {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let method = name(request.method());
        let target = request.path_with_query().unwrap_or_default();
        // In one call, so that the lines of instances that run side by side do not mix.
        let line = format!("{method} {target}\n");
        eprint!("{line}");

        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/" => page(out, &method, &target),
            "/echo" => echo(out, request),
            "/headers" => text(out, 200, &headers(&request)),
            "/env" => text(out, 200, &env()),
            "/slow" => slow(out, number(query, "ms")),
            "/big" => big(out, number(query, "bytes")),
            "/file" => file(out, value(query, "path")),
            "/fetch" => fetch(out, value(query, "url")),
            "/spin" => loop {
                std::hint::spin_loop();
            },
            "/trap" => trap(),
            "/alloc" => alloc(out, number(query, "bytes")),
            "/storm" => storm(out, value(query, "url"), number(query, "requests")),
            _ => text(out, 404, "not found\n"),
        }
    }
}

fn page(out: ResponseOutparam, method: &str, target: &str) {
    // More than 1 shows that an instance serves more than one request.
    static SERVED: AtomicU64 = AtomicU64::new(0);
    let served = SERVED.fetch_add(1, Ordering::Relaxed) + 1;
    let target = target.replace('&', "&amp;").replace('<', "&lt;");
    let page = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>Sampan</title>\n\
         <style>body {{ font: 1.2em sans-serif; max-width: 40em; margin: 4em auto }}</style>\n\
         <h1>Hello from Sampan</h1>\n\
         <p>You asked for <code>{method} {target}</code>.</p>\n\
         <p>Visit {served} of this instance.</p>\n"
    );
    reply(out, 200, "text/html", Some(page.len()), |body| {
        body.write_all(page.as_bytes())
    });
}

fn echo(out: ResponseOutparam, request: IncomingRequest) {
    let kind = request
        .headers()
        .get("content-type")
        .pop()
        .unwrap_or_else(|| b"application/octet-stream".into());
    let body = request.consume().expect("the body was not taken before");
    let input = body.stream().expect("the stream was not taken before");
    reply(out, 200, kind, None, |body| copy(&input, body));
}

fn headers(request: &IncomingRequest) -> String {
    let line = |(name, value): (String, Vec<u8>)| format!("{name}: {}\n", String::from_utf8_lossy(&value));
    request.headers().entries().into_iter().map(line).collect()
}

fn env() -> String {
    get_environment()
        .into_iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect()
}

fn slow(out: ResponseOutparam, ms: u64) {
    monotonic_clock::subscribe_duration(ms * 1_000_000).block();
    text(out, 200, &format!("waited {ms} ms\n"));
}

fn big(out: ResponseOutparam, bytes: u64) {
    let block = [b'.'; 64 << 10];
    reply(out, 200, "application/octet-stream", Some(bytes as usize), |body| {
        let mut left = bytes as usize;
        while left > 0 {
            match body.write(&block[..left.min(block.len())])? {
                // The client has gone.
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => left -= written,
            }
        }
        Ok(())
    });
}

/// Reads from the container's own tree, as far as the runtime gives one to an HTTP service.
fn file(out: ResponseOutparam, path: &str) {
    let Some((root, _)) = preopens::get_directories().into_iter().next() else {
        return text(out, 404, "no directory was given\n");
    };
    let path = path.trim_start_matches('/');
    let opened = root
        .open_at(
            PathFlags::SYMLINK_FOLLOW,
            path,
            OpenFlags::empty(),
            DescriptorFlags::READ,
        )
        .and_then(|file| file.read_via_stream(0));
    match opened {
        Ok(input) => reply(out, 200, "application/octet-stream", None, |body| copy(&input, body)),
        Err(error) => text(out, 404, &format!("{path}: {}\n", error.name())),
    }
}

/// Calls another service and hands its answer on.
fn fetch(out: ResponseOutparam, url: &str) {
    match get(url) {
        Ok((status, body)) => {
            let input = body.stream().expect("the stream was not taken before");
            reply(out, status, "application/octet-stream", None, |body| copy(&input, body));
        }
        Err(error) => text(
            out,
            502,
            &format!("{url}: {}\n", error.trim_start_matches("ErrorCode::")),
        ),
    }
}

fn send(url: &str) -> Result<FutureIncomingResponse, String> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        _ => return Err("only http:// and https:// URLs".to_owned()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&scheme)).map_err(|()| "bad scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "bad authority")?;
    request
        .set_path_with_query(Some(if path.is_empty() { "/" } else { path }))
        .map_err(|()| "bad path")?;
    outgoing_handler::handle(request, None).map_err(|error| error.to_string())
}

fn get(url: &str) -> Result<(u16, IncomingBody), String> {
    let future = send(url)?;
    future.subscribe().block();
    let response = future.get().expect("it is ready").expect("it was not taken before");
    let response = response.map_err(|error| error.to_string())?;
    Ok((
        response.status(),
        response.consume().expect("the body was not taken before"),
    ))
}

/// Has so much memory for as long as the request takes.
fn alloc(out: ResponseOutparam, bytes: u64) {
    let memory = std::hint::black_box(vec![1_u8; bytes as usize]);
    text(out, 200, &format!("allocated {} bytes\n", memory.len()));
}

/// Sends requests without waiting for their answers, and keeps them all under way.
fn storm(out: ResponseOutparam, url: &str, requests: u64) {
    let sent: Vec<_> = (0..requests).map_while(|_| send(url).ok()).collect();
    text(out, 200, &format!("{} requests are under way\n", sent.len()));
}

/// Not inlined, so that the backtrace names it.
#[inline(never)]
fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

fn text(out: ResponseOutparam, status: u16, text: &str) {
    reply(out, status, "text/plain", Some(text.len()), |body| {
        body.write_all(text.as_bytes())
    });
}

fn reply(
    out: ResponseOutparam,
    status: u16,
    kind: impl Into<Vec<u8>>,
    length: Option<usize>,
    write: impl FnOnce(&mut OutputStream) -> io::Result<()>,
) {
    let headers = Fields::new();
    headers
        .set("content-type", &[kind.into()])
        .expect("a header that may be set");
    if let Some(length) = length {
        headers
            .set("content-length", &[length.to_string().into()])
            .expect("a header that may be set");
    }
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("a valid status");
    let body = response.body().expect("the body was not taken before");
    ResponseOutparam::set(out, Ok(response));

    let mut stream = body.write().expect("the stream was not taken before");
    let written = write(&mut stream).and_then(|()| Write::flush(&mut stream));
    drop(stream);
    match written {
        Ok(()) => OutgoingBody::finish(body, None).unwrap_or_else(|error| eprintln!("reply: {error}")),
        // A body that is dropped unfinished reaches the client as one cut short, which it is.
        Err(error) => eprintln!("reply: {error}"),
    }
}

/// The runtime moves the bytes from stream to stream; they never enter this guest's memory.
fn copy(input: &InputStream, output: &OutputStream) -> io::Result<()> {
    loop {
        match output.blocking_splice(input, 64 << 10) {
            Ok(_) => {}
            Err(StreamError::Closed) => return Ok(()),
            Err(StreamError::LastOperationFailed(error)) => return Err(io::Error::other(error)),
        }
    }
}

fn value<'a>(query: &'a str, name: &str) -> &'a str {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|pair| pair.0 == name)
        .map_or("", |pair| pair.1)
}

fn number(query: &str, name: &str) -> u64 {
    value(query, name).parse().unwrap_or(0)
}

fn name(method: Method) -> String {
    match method {
        Method::Other(name) => name,
        known => format!("{known:?}").trim_start_matches("Method::").to_uppercase(),
    }
}
