//! A registry of a test's own (Debian's docker-registry), and a proxy that does to its answers what networks and liars do.

use crate::net::{self, Http, Response};
use crate::{Dir, OrFail, Run, Started, fail, until};
use ring::digest::{SHA256, digest as hash};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The type of an OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The type of an OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry with nothing in it; it goes away with its value.
#[derive(Debug)]
pub struct Registry {
    port: u16,
    _process: Started,
    _dir: Dir,
}

impl Registry {
    /// A registry that anybody may use.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        Self::serve(Dir::new(), "")
    }

    /// A registry that speaks TLS with this certificate and key.
    #[track_caller]
    #[must_use]
    pub fn with_certificate(certificate: &Path, key: &Path) -> Self {
        let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
        Self::serve(Dir::new(), &tls)
    }

    /// A registry that wants this name and password for everything.
    #[track_caller]
    #[must_use]
    pub fn with_password(user: &str, password: &str) -> Self {
        let users = Run::new(["htpasswd", "-Bbn", user, password]).ok().stdout;
        let dir = Dir::new().file("htpasswd", users);
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {dir}/htpasswd\n");
        Self::serve(dir, &auth)
    }

    #[track_caller]
    fn serve(dir: Dir, more: &str) -> Self {
        let port = net::free_port();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {dir}/data\n  delete:\n    \
             enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{more}"
        );
        let dir = dir.file("config.yml", config);
        let process = Run::new(["docker-registry", "serve"]).arg(dir.join("config.yml")).start();
        until("the registry listens", || net::is_open(port).then_some(()));
        Self { port, _process: process, _dir: dir }
    }

    /// Its port of the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A name in it: `localhost:PORT/name`.
    #[must_use]
    pub fn name(&self, name: &str) -> String {
        format!("localhost:{}/{name}", self.port)
    }

    /// Puts a blob there and returns its digest.
    #[track_caller]
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let begun = net::request(self.port, "POST", &format!("/v2/{repository}/blobs/uploads/"), b"").expect(202);
        let place = begun.header("location").or_fail("an upload has a place");
        let path = place.find("/v2/").and_then(|at| place.get(at..)).or_fail("a place is a path");
        let digest = digest(bytes);
        net::request(self.port, "PUT", &format!("{path}&digest={digest}"), bytes).expect(201);
        digest
    }

    /// Puts a manifest or an index there and returns its digest.
    #[track_caller]
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, manifest: &Value) -> String {
        let bytes = manifest.to_string();
        let mut http = Http::connect(self.port);
        let target = format!("/v2/{repository}/manifests/{tag}");
        http.send_with("PUT", &target, &format!("content-type: {media_type}\r\n"), bytes.as_bytes());
        http.answer().expect(201);
        digest(bytes.as_bytes())
    }

    /// Puts an image of a config and layers there, each with its type, and returns its digest.
    #[track_caller]
    pub fn put_image(&self, repository: &str, tag: &str, config: (&str, &Value), layers: &[(&str, &[u8])]) -> String {
        let config_bytes = config.1.to_string();
        let part = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": self.put_blob(repository, bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": part(config.0, config_bytes.as_bytes()),
            "layers": layers.iter().map(|(media_type, bytes)| part(media_type, bytes)).collect::<Vec<_>>(),
        });
        self.put_manifest(repository, tag, MANIFEST, &manifest)
    }

    /// The digest that a tag means there.
    #[track_caller]
    #[must_use]
    pub fn digest(&self, repository: &str, tag: &str) -> String {
        self.manifest(repository, tag).header("docker-content-digest").or_fail("a manifest has a digest")
    }

    /// A manifest as it lies there.
    #[track_caller]
    #[must_use]
    pub fn manifest(&self, repository: &str, tag: &str) -> Response {
        let mut http = Http::connect(self.port);
        http.send_with("GET", &format!("/v2/{repository}/manifests/{tag}"), &format!("accept: {MANIFEST}\r\n"), b"");
        http.answer().expect(200)
    }
}

/// The digest of some bytes, as OCI writes it.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hash(&SHA256, bytes).as_ref().iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What is done to an answer.
#[derive(Debug, Clone)]
pub enum Act {
    /// So many bytes of its body come, and then the connection is cut.
    Cut(usize),
    /// So many bytes of its body come, and then nothing, until the proxy goes away.
    Stall(usize),
    /// So many bytes of its body come, and the rest when the gate is open.
    Pause(usize, Arc<AtomicBool>),
    /// This comes instead: the status with its words, header lines, the body.
    Answer(&'static str, String, Vec<u8>),
    /// The connection is cut before anything comes.
    HangUp,
}

#[derive(Debug)]
struct Fault {
    method: &'static str,
    path: String,
    times: usize,
    act: Act,
}

#[derive(Debug)]
struct State {
    upstream: u16,
    faults: Mutex<Vec<Fault>>,
    log: Mutex<Vec<String>>,
    over: AtomicBool,
}

/// Stands before a registry.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    /// A proxy that passes everything on to a port of the loopback.
    #[track_caller]
    #[must_use]
    pub fn before(upstream: u16) -> Self {
        let port = net::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).or_fail("cannot listen");
        let (faults, log) = (Mutex::default(), Mutex::default());
        let state = Arc::new(State { upstream, faults, log, over: AtomicBool::new(false) });
        let served = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if served.over.load(Ordering::Relaxed) {
                    return;
                }
                let state = served.clone();
                // What goes wrong here goes wrong for who asks, and that is what is looked at.
                std::thread::spawn(move || drop(state.serve(client)));
            }
        });
        Self { port, state }
    }

    /// From now on, the next `times` answers to such requests are spoilt; the path is one that holds this.
    pub fn spoil(&self, method: &'static str, path: &str, times: usize, act: Act) {
        let fault = Fault { method, path: path.to_owned(), times, act };
        self.state.faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    /// Its port of the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A name in the registry behind it.
    #[must_use]
    pub fn name(&self, name: &str) -> String {
        format!("localhost:{}/{name}", self.port)
    }

    /// The requests so far that hold these words, as `METHOD TARGET AUTHORIZATION RANGE`.
    #[must_use]
    pub fn asked(&self, words: &[&str]) -> Vec<String> {
        let log = self.state.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().filter(|line| words.iter().all(|word| line.contains(word))).cloned().collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        // Wakes who listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let head = read_head(&mut client)?;
        let mut lines = head.lines();
        let first = lines.next().unwrap_or_default();
        let mut words = first.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let header = |name: &str| {
            let of = |line: &str| {
                line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned())
            };
            head.lines().find_map(of)
        };
        let [who, range] = ["authorization", "range"].map(|name| header(name).unwrap_or_default());
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {target} {who} {range}"));
        let act = self.act(method, target);
        match &act {
            Some(Act::HangUp) => return client.shutdown(Shutdown::Both),
            Some(Act::Answer(status, headers, body)) => {
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n");
                return client.write_all(&[head.as_bytes(), body].concat());
            }
            _ => {}
        }
        let mut upstream = TcpStream::connect(("127.0.0.1", self.upstream))?;
        let kept =
            head.lines().filter(|line| !line.is_empty() && !line.to_ascii_lowercase().starts_with("connection:"));
        let kept: String = kept.map(|line| format!("{line}\r\n")).collect();
        upstream.write_all(format!("{kept}connection: close\r\n\r\n").as_bytes())?;
        let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        std::io::copy(&mut (&mut client).take(length), &mut upstream)?;
        let answer = read_head(&mut upstream)?;
        client.write_all(answer.as_bytes())?;
        match act {
            Some(Act::Cut(bytes)) => {
                std::io::copy(&mut upstream.take(bytes as u64), &mut client)?;
                client.shutdown(Shutdown::Both)
            }
            Some(Act::Stall(bytes)) => {
                std::io::copy(&mut upstream.take(bytes as u64), &mut client)?;
                client.flush()?;
                // Until who asked hangs up, or is killed.
                client.read(&mut [0]).map(drop)
            }
            Some(Act::Pause(bytes, gate)) => {
                std::io::copy(&mut (&mut upstream).take(bytes as u64), &mut client)?;
                client.flush()?;
                until("the gate is open", || gate.load(Ordering::Relaxed).then_some(()));
                std::io::copy(&mut upstream, &mut client).map(drop)
            }
            _ => std::io::copy(&mut upstream, &mut client).map(drop),
        }
    }

    fn act(&self, method: &str, target: &str) -> Option<Act> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |f: &&mut Fault| f.times > 0 && f.method == method && target.contains(&f.path);
        let fault = faults.iter_mut().find(fits)?;
        fault.times -= 1;
        Some(fault.act.clone())
    }
}

/// Reads up to the empty line, byte by byte, so that nothing of what follows is taken.
fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    const LONGEST: usize = 64 << 10;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > LONGEST || stream.read(&mut byte)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&byte);
        // Who begins with a TLS handshake is told at once that there is none to be had.
        if head == [0x16] {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
    String::from_utf8(head).map_err(|_| std::io::ErrorKind::InvalidData.into())
}

/// A tar archive of files, all of them for everybody to read.
#[track_caller]
#[must_use]
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let dir = files.iter().fold(Dir::new(), |dir, (path, content)| dir.file(path, content));
    let archive = dir.path().with_extension("tar");
    Run::new(["tar", "--sort=name", "--owner=0", "--group=0", "--mtime=@0", "-cf"])
        .arg(&archive)
        .arg("-C")
        .arg(dir.path())
        .arg(".")
        .ok();
    let bytes = std::fs::read(&archive).or_fail(archive.display());
    let _ = std::fs::remove_file(&archive);
    if bytes.is_empty() {
        fail("tar made nothing");
    }
    bytes
}
