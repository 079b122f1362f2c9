//! A request → what is answered: a file, a way to it, or a page that says why not.

use crate::ask::{self, Part, Verdict, Version};
use crate::log::Line;
use crate::settings::Settings;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use percent_encoding::percent_decode_str;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

/// What the server calls itself.
pub const SERVER: &str = concat!("sampan-nginx/", env!("CARGO_PKG_VERSION"));
/// What a directory is answered with.
const INDEX: [&str; 2] = ["index.html", "index.htm"];
/// As much of a file is read at once.
const CHUNK: u64 = 64 << 10;

/// What is sent, and what is said of it when that is over.
pub struct Body {
    what: What,
    left: u64,
    line: Line,
}

enum What {
    Nothing,
    Text(Bytes),
    File(File),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let most = usize::try_from(self.left.min(CHUNK)).unwrap_or(usize::MAX);
        let bytes = match &mut self.what {
            What::Nothing => Ok(Bytes::new()),
            What::Text(text) => Ok(std::mem::take(text)),
            What::File(file) => {
                let mut bytes = vec![0; most];
                file.read(&mut bytes).map(|count| {
                    bytes.truncate(count);
                    bytes.into()
                })
            }
        };
        Poll::Ready(Some(match bytes {
            // It was cut short while it was sent: the peer must not take it for whole.
            Ok(bytes) if bytes.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => {
                self.left -= bytes.len() as u64;
                self.line.sent += bytes.len() as u64;
                Ok(Frame::data(bytes))
            }
            Err(error) => Err(error),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A file that is there.
struct Found {
    path: PathBuf,
    file: File,
    meta: Metadata,
}

/// Why there is no file.
enum Missing {
    /// It is a directory, and the path should end in `/`.
    Redirect,
    /// What the status says, and what the log says.
    Status(StatusCode, Option<String>),
}

/// Answers a request.
pub fn answer<B>(settings: &Settings, client: IpAddr, connection: u64, request: &Request<B>) -> Response<Body> {
    let line = Line::new(client, connection, request);
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        return page(StatusCode::METHOD_NOT_ALLOWED, line, method);
    }
    match find(&settings.root, request.uri().path()) {
        Ok(found) => send(found, line, request),
        Err(Missing::Status(status, words)) => {
            if let Some(words) = words {
                line.error(&words);
            }
            page(status, line, method)
        }
        Err(Missing::Redirect) => {
            let uri = request.uri();
            let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
            // Without a host, since nobody here knows by what name and port it was reached.
            // (And not `//name`, which would be one.)
            let names: Vec<&str> = uri.path().split('/').filter(|name| !name.is_empty()).collect();
            let place = format!("/{}/{query}", names.join("/"));
            let mut response = page(StatusCode::MOVED_PERMANENTLY, line, method);
            if let Ok(place) = HeaderValue::try_from(place) {
                response.headers_mut().insert(header::LOCATION, place);
            }
            response
        }
    }
}

/// The file that a path means below the root.
fn find(root: &Path, path: &str) -> Result<Found, Missing> {
    let bad = || Missing::Status(StatusCode::BAD_REQUEST, None);
    let text = percent_decode_str(path).decode_utf8().map_err(|_| bad())?;
    if !text.starts_with('/') || text.contains('\0') {
        return Err(bad());
    }
    let mut names: Vec<&str> = Vec::new();
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop().ok_or_else(bad)?),
            name => names.push(name),
        }
    }
    let is_directory = matches!(text.rsplit('/').next(), Some("" | "." | ".."));
    let place = names.iter().fold(root.to_owned(), |place, name| place.join(name));
    if !is_directory {
        let found = open(place)?;
        return if found.meta.is_dir() { Err(Missing::Redirect) } else { Ok(found) };
    }
    for name in INDEX {
        match open(place.join(name)) {
            Ok(found) if found.meta.is_file() => return Ok(found),
            Ok(_) | Err(Missing::Status(StatusCode::NOT_FOUND, _)) => {}
            other => return other,
        }
    }
    // It is there and says nothing of what is in it, or is not there.
    if open(place.clone())?.meta.is_dir() {
        let words = format!("directory index of \"{}/\" is forbidden", place.display());
        return Err(Missing::Status(StatusCode::FORBIDDEN, Some(words)));
    }
    let words = format!("\"{}/\" is not a directory", place.display());
    Err(Missing::Status(StatusCode::NOT_FOUND, Some(words)))
}

fn open(path: PathBuf) -> Result<Found, Missing> {
    let opened = File::open(&path).and_then(|file| file.metadata().map(|meta| (file, meta)));
    match opened {
        Ok((file, meta)) => Ok(Found { path, file, meta }),
        Err(error) => {
            let status = match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => StatusCode::NOT_FOUND,
                ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let words = format!("open() \"{}\" failed ({error})", path.display());
            Err(Missing::Status(status, Some(words)))
        }
    }
}

fn send<B>(found: Found, mut line: Line, request: &Request<B>) -> Response<Body> {
    let Found { path, mut file, meta } = found;
    let (length, method) = (meta.len(), request.method());
    let version = Version::new(meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), length);
    let mut status = StatusCode::OK;
    let (mut first, mut count) = (0, length);
    match ask::verdict(request.headers(), &version) {
        Verdict::Failed => return page(StatusCode::PRECONDITION_FAILED, line, method),
        Verdict::NotModified => status = StatusCode::NOT_MODIFIED,
        Verdict::Send => match ask::part(request.headers(), &version, length) {
            Part::Whole => {}
            Part::Bytes(from, to) => (status, first, count) = (StatusCode::PARTIAL_CONTENT, from, to - from + 1),
            Part::Nowhere => {
                let mut response = page(StatusCode::RANGE_NOT_SATISFIABLE, line, method);
                set(&mut response, header::CONTENT_RANGE, &format!("bytes */{length}"));
                return response;
            }
        },
    }
    if first > 0
        && let Err(error) = file.seek(SeekFrom::Start(first))
    {
        line.error(&format!("lseek() \"{}\" failed ({error})", path.display()));
        return page(StatusCode::INTERNAL_SERVER_ERROR, line, method);
    }
    line.status = status.as_u16();
    let silent = method == Method::HEAD || status == StatusCode::NOT_MODIFIED;
    let body = match silent {
        true => Body { what: What::Nothing, left: 0, line },
        false => Body { what: What::File(file), left: count, line },
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    set(&mut response, header::SERVER, SERVER);
    set(&mut response, header::LAST_MODIFIED, &httpdate::fmt_http_date(version.modified));
    set(&mut response, header::ETAG, &version.tag);
    if status == StatusCode::NOT_MODIFIED {
        return response;
    }
    let kind = mime_guess::from_path(&path).first_raw().unwrap_or("application/octet-stream");
    set(&mut response, header::CONTENT_TYPE, kind);
    set(&mut response, header::CONTENT_LENGTH, &count.to_string());
    match status {
        StatusCode::PARTIAL_CONTENT => {
            let range = format!("bytes {first}-{}/{length}", first + count - 1);
            set(&mut response, header::CONTENT_RANGE, &range);
        }
        _ => set(&mut response, header::ACCEPT_RANGES, "bytes"),
    }
    response
}

fn set(response: &mut Response<Body>, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A page that says nothing but its status.
fn page(status: StatusCode, mut line: Line, method: &Method) -> Response<Body> {
    line.status = status.as_u16();
    let text = format!(
        "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{status}</h1></center>\r\n\
         <hr><center>{SERVER}</center>\r\n</body>\r\n</html>\r\n"
    );
    let length = text.len() as u64;
    let body = match *method {
        Method::HEAD => Body { what: What::Nothing, left: 0, line },
        _ => Body { what: What::Text(text.into()), left: length, line },
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    set(&mut response, header::SERVER, SERVER);
    set(&mut response, header::CONTENT_TYPE, "text/html");
    set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    if status == StatusCode::METHOD_NOT_ALLOWED {
        set(&mut response, header::ALLOW, "GET, HEAD");
    }
    response
}
