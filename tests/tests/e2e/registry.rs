//! Registries: images go there and come back the same, whatever the network does on the way.

use rustix::process::Signal;
use sampan_tests::command::words;
use sampan_tests::needs::{Need, lacks};
use sampan_tests::registry::{Act, INDEX, MANIFEST, Proxy, Registry, digest, tar};
use sampan_tests::store::sample_file;
use sampan_tests::{Dir, Run, Store, eventually, net};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const REGISTRY: &[Need] = &[Need::Tool("docker-registry")];
const GREETING: &str = "Hello from Sampan!\n";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image config of this platform, for layers that are these archives.
fn config(platform: &str, entrypoint: &[&str], archives: &[&[u8]]) -> Value {
    let (os, architecture) = platform.split_once('/').unwrap();
    let diff_ids: Vec<String> = archives.iter().map(|bytes| digest(bytes)).collect();
    json!({"os": os, "architecture": architecture, "config": {"Entrypoint": entrypoint},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
}

fn hello() -> Vec<u8> {
    std::fs::read(sample_file("hello")).unwrap()
}

/// Puts the hello image into a registry by way of a store, and returns its digest.
fn pushed(registry: &Registry, name: &str) -> String {
    let store = Store::fresh(&["hello"]);
    let name = registry.name(name);
    store.sampan(format!("tag hello {name}")).ok();
    let out = store.sampan(format!("push {name}")).ok();
    let line = out.lines().pop().unwrap_or_default().to_owned();
    line.split(' ').nth(2).unwrap().to_owned()
}

/// An image with a program and a layer of bytes that no one can compress.
fn put_large(registry: &Registry, name: &str, size: usize) -> (String, String) {
    let mut noise = vec![0; size];
    let mut state = 0x2545_f491_u32;
    for byte in &mut noise {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *byte = state.to_le_bytes()[0];
    }
    let (program, data) = (tar(&[("hello.wasm", &hello())]), tar(&[("noise", &noise)]));
    let config = config("wasip1/wasm", &["/hello.wasm"], &[&program, &data]);
    let image = registry.put_image(name, "latest", (OCI_CONFIG, &config), &[(TAR, &program), (TAR, &data)]);
    (image, digest(&data))
}

/// Whether nothing of an image is in the store; what has come of its blobs does not count.
fn is_empty(store: &Store) -> bool {
    let has = |dir: &str| std::fs::read_dir(store.root().join(dir)).is_ok_and(|mut all| all.next().is_some());
    store.sampan("images -q").ok().stdout.is_empty()
        && !["content/blobs/sha256", "layers", "tmp"].iter().any(|d| has(d))
}

#[test]
fn an_image_goes_there_and_comes_back_the_same() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    let (here, there) = (Store::fresh(&["hello"]), Store::fresh(&[]));
    let name = registry.name("me/hello:1");
    here.sampan(format!("tag hello {name}")).ok();
    let out = here.sampan(format!("push {name}")).ok();
    out.clone().stdout_has(&format!("The push refers to repository [{}]", registry.name("me/hello")));
    out.clone().stdout_has(": Pushed\n").stdout_has("1: digest: sha256:");
    here.sampan(format!("push {name}")).ok().stdout_has(": Layer already exists\n").stdout_lacks("Pushed");
    here.sampan(format!("push -q {name}")).ok().stdout_is(&format!("{name}\n"));

    let digest = here.sampan("images --digests --format {{.Digest}} hello").ok().line();
    let out = there.sampan(format!("pull {name}")).ok();
    out.clone().stdout_has("1: Pulling from me/hello\n").stdout_has(": Pull complete\n");
    out.clone().stdout_has(&format!("Digest: {digest}\nStatus: Downloaded newer image for {name}\n{name}\n"));
    there.sampan(format!("pull {name}")).ok().stdout_has(&format!("Status: Image is up to date for {name}\n"));
    there.sampan(format!("pull -q {name}")).ok().stdout_is(&format!("{name}\n"));
    there.sampan(format!("run --rm {name}")).ok().stdout_is(GREETING);
    there.sampan("images --digests --format {{.Digest}}").ok().stdout_is(&format!("{digest}\n"));

    // By its digest, and without a name.
    there.sampan(format!("rmi {name}")).ok();
    let pinned = registry.name(&format!("me/hello@{digest}"));
    there.sampan(format!("pull {pinned}")).ok().stdout_has(&format!("Digest: {digest}\n"));
    there.sampan(format!("run --rm --pull never {pinned}")).ok().stdout_is(GREETING);
    there
        .sampan("images --format {{.Repository}}:{{.Tag}}")
        .ok()
        .stdout_is(&format!("{}:<none>\n", registry.name("me/hello")));
    there.sampan(format!("push {pinned}")).fails(1).stderr_has("under a tag");
    there.sampan(format!("rmi {pinned}")).ok();
    assert!(is_empty(&there));

    // Deleted there, it is not to be had.
    net::request(registry.port(), "DELETE", &format!("/v2/me/hello/manifests/{digest}"), b"").expect(202);
    there.sampan(format!("pull {name}")).fails(1).stderr_has("has no me/hello:1 (manifest unknown)");
    assert!(is_empty(&there));
}

#[test]
fn skopeo_takes_it_out_and_puts_it_in() {
    if lacks(&[REGISTRY[0], Need::Tool("skopeo")]) {
        return;
    }
    let registry = Registry::start();
    let digest = pushed(&registry, "hello");
    let (dir, store) = (Dir::new(), Store::fresh(&[]));
    let (ours, layout) = (format!("docker://{}", registry.name("hello")), format!("oci:{dir}/layout:x"));
    let copy = "skopeo --insecure-policy copy -q --src-tls-verify=false --dest-tls-verify=false";
    Run::new(words(&format!("{copy} {ours} {layout}"))).ok();
    Run::new(words(&format!("{copy} {layout} docker://{}", registry.name("copy")))).ok();
    assert_eq!(registry.digest("copy", "latest"), digest);
    store.sampan(format!("run --rm {}", registry.name("copy"))).ok().stdout_is(GREETING);
    store.sampan("images --digests --format {{.Digest}}").ok().stdout_is(&format!("{digest}\n"));

    // In Docker's formats, and in zstd, it is another manifest of the same files. Each goes to another registry, since
    // skopeo remembers what it has seen where and would take what is there.
    let (docker, zstd) = (Registry::start(), Registry::start());
    for (name, registry, flags) in
        [("docker", &docker, "--format v2s2"), ("zstd", &zstd, "--format oci --dest-compress-format zstd")]
    {
        let (unpacked, to) = (format!("dir:{dir}/{name}"), format!("docker://{}", registry.name(name)));
        Run::new(words(&format!("{copy} --dest-decompress {ours} {unpacked}"))).ok();
        Run::new(words(&format!("{copy} {flags} {unpacked} {to}"))).ok();
        store.sampan(format!("run --rm {}", registry.name(name))).ok().stdout_is(GREETING);
    }
    let types = zstd.manifest("zstd", "latest").text();
    assert!(types.contains("tar+zstd"), "{types}");
    store.sampan(format!("push {}", docker.name("docker"))).ok().stdout_has("Layer already exists");
}

#[test]
fn who_has_no_password_is_told_to_log_in() {
    if lacks(&[REGISTRY[0], Need::Tool("htpasswd")]) {
        return;
    }
    let registry = Registry::with_password("me", "secret:word");
    let (store, home) = (Store::fresh(&["hello"]), Dir::new());
    let sampan = |line: String| store.sampan(line).env("DOCKER_CONFIG", home.path());
    let (host, name) = (format!("localhost:{}", registry.port()), registry.name("hello"));
    let file = home.join("config.json");
    sampan(format!("tag hello {name}")).ok();
    let advice = format!("sampan login {host}");
    sampan(format!("push {name}")).fails(1).stderr_has(&advice);
    sampan(format!("pull {name}")).fails(1).stderr_has(&advice);
    sampan(format!("run --rm --pull always {name}")).fails(125).stderr_has(&advice);
    sampan(format!("login -u me --password-stdin {host}"))
        .stdin("wrong")
        .fails(1)
        .stderr_has("does not know this user");
    assert!(!file.exists());
    sampan(format!("login --password-stdin {host}")).stdin("x").fails(1).stderr_has("--username");
    sampan(format!("login -u me --password-stdin {host}")).stdin("secret:word\n").ok().stdout_has("Login Succeeded\n");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    sampan(format!("push {name}")).ok().stdout_has("digest: sha256:");
    sampan(format!("pull {name}")).ok().stdout_has("up to date");
    sampan(format!("login {host}")).ok().stdout_has("existing credentials").stdout_has("Login Succeeded");

    // What podman wrote does as well.
    let podman = Dir::new().copy("auth.json", &file);
    sampan(format!("logout {host}")).ok().stdout_is(&format!("Removing login credentials for {host}\n"));
    sampan(format!("logout {host}")).ok().stdout_is(&format!("Not logged in to {host}\n"));
    sampan(format!("pull {name}")).fails(1).stderr_has(&advice);
    sampan(format!("pull {name}")).env("REGISTRY_AUTH_FILE", podman.join("auth.json")).ok();
}

#[test]
fn a_token_is_fetched_and_shown_to_nobody_else() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    pushed(&registry, "me/hello");
    let (proxy, elsewhere) = (Proxy::before(registry.port()), Proxy::before(registry.port()));
    let who = format!("www-authenticate: Bearer realm=\"http://localhost:{}/token\",service=\"s 1\"\r\n", proxy.port());
    proxy.spoil("GET", "/manifests/", 1, Act::Answer("401 Who", who.clone(), vec![]));
    let token = |token: &str| Act::Answer("200 OK", String::new(), json!({"token": token}).to_string().into_bytes());
    proxy.spoil("GET", "/token", 1, token("t-1"));
    // As registries keep large blobs with somebody else.
    let layer: Value = serde_json::from_str(&registry.manifest("me/hello", "latest").text()).unwrap();
    let blob = layer["layers"][0]["digest"].as_str().unwrap();
    let there = format!("location: http://127.0.0.1:{}/v2/me/hello/blobs/{blob}\r\n", elsewhere.port());
    proxy.spoil("GET", blob, 1, Act::Answer("307 There", there, vec![]));
    let (store, name) = (Store::fresh(&[]), proxy.name("me/hello"));
    // The name and password are `u` and `p`.
    let auths = format!(r#"{{"auths": {{"localhost:{}": {{"auth": "dTpw"}}}}}}"#, proxy.port());
    let home = Dir::new().file("config.json", auths);
    store.sampan(format!("pull {name}")).env("DOCKER_CONFIG", home.path()).ok();
    let asked = proxy.asked(&["GET /token?service=s%201&scope=repository%3Ame%2Fhello%3Apull&account=u", "Basic dTpw"]);
    assert_eq!(asked.len(), 1, "{:?}", proxy.asked(&[]));
    assert!(proxy.asked(&["GET", blob, "Bearer t-1"]).len() == 1 && proxy.asked(&["/v2/", "Basic"]).is_empty());
    assert!(elsewhere.asked(&["GET", blob]).len() == 1 && elsewhere.asked(&["Bearer"]).is_empty());
    store.sampan(format!("run --rm {name}")).ok().stdout_is(GREETING);

    // A token that has run out is fetched anew, and a service that gives none is told from a registry that has nothing.
    proxy.spoil("GET", "/manifests/", 1, Act::Answer("401 Old", who.clone(), vec![]));
    let refusal = json!({"details": "incorrect username or password"}).to_string().into_bytes();
    proxy.spoil("GET", "/token", 1, Act::Answer("401 No", String::new(), refusal));
    let failed = store.sampan(format!("pull {name}")).env("DOCKER_CONFIG", home.path()).fails(1);
    failed.stderr_has("incorrect username or password").stderr_has("sampan login");
}

#[test]
fn an_image_that_is_removed_takes_nothing_from_one_that_comes() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    let (_, blob) = put_large(&registry, "large", 3 << 20);
    let program = tar(&[("hello.wasm", &hello())]);
    let small = config("wasip1/wasm", &["/hello.wasm"], &[&program]);
    registry.put_image("small", "latest", (OCI_CONFIG, &small), &[(TAR, &program)]);
    let (proxy, store) = (Proxy::before(registry.port()), Store::fresh(&[]));
    let gate = Arc::new(AtomicBool::new(false));
    proxy.spoil("GET", &blob, 1, Act::Pause(1 << 20, gate.clone()));
    store.sampan(format!("pull {}", proxy.name("small"))).ok();
    let pull = store.sampan(format!("pull {}", proxy.name("large"))).start();
    // The layer that the two share, and the first part of the other.
    pull.says("Already exists");
    let partial = store.root().join("downloads").join(blob.strip_prefix("sha256:").unwrap());
    eventually("a third is there", || partial.metadata().is_ok_and(|meta| meta.len() >= 1 << 20));
    store.sampan(format!("rmi {}", proxy.name("small"))).ok();
    gate.store(true, Ordering::Relaxed);
    pull.finish().ok().stdout_has("Downloaded newer image");
    store.sampan(format!("run --rm --pull never {}", proxy.name("large"))).ok().stdout_is(GREETING);
}

#[test]
fn a_helper_keeps_the_password() {
    if lacks(&[REGISTRY[0], Need::Tool("htpasswd")]) {
        return;
    }
    let registry = Registry::with_password("me", "secret");
    let store = Store::fresh(&["hello"]);
    let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\ncase $1 in\nstore) cat >kept ;;\nerase) rm -f kept ;;\n\
                  get) cat kept 2>/dev/null || { echo credentials not found in native keychain; exit 1; } ;;\nesac\n";
    let dir = Dir::new().file("docker-credential-test", script).file("config.json", r#"{"credsStore": "test"}"#);
    let helper = dir.join("docker-credential-test");
    std::fs::set_permissions(helper, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{dir}:{}", std::env::var("PATH").unwrap());
    let sampan = |line: String| store.sampan(line).env("DOCKER_CONFIG", dir.path()).env("PATH", &path);
    let (host, name) = (format!("localhost:{}", registry.port()), registry.name("hello"));
    sampan(format!("tag hello {name}")).ok();
    sampan(format!("push {name}")).fails(1).stderr_has("sampan login");
    sampan(format!("login -u me --password-stdin {host}")).stdin("secret").ok().stderr_is("");
    assert!(!dir.read("config.json").contains("auth\""), "{}", dir.read("config.json"));
    assert!(dir.read("kept").contains("secret"));
    sampan(format!("push {name}")).ok();
    sampan(format!("logout {host}")).ok();
    assert!(!dir.join("kept").exists());
}

#[test]
fn mirrors_are_asked_first_and_one_after_the_other() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    let digest = pushed(&registry, "library/hello");
    let proxy = Proxy::before(registry.port());
    let hosts = format!(
        "server = \"http://127.0.0.1:9\"\n[host.\"http://127.0.0.1:9\"]\n[host.\"http://localhost:{}\"]\n\
         capabilities = [\"pull\", \"resolve\"]\n",
        proxy.port()
    );
    let dir = Dir::new().file("docker.io/hosts.toml", hosts).file("bad.example/hosts.toml", "server = 3\n");
    let store = Store::fresh(&[]);
    let sampan = |line: &str| store.sampan(line).env("SAMPAN_CERTS_D", dir.path());
    sampan("pull hello").ok().stdout_has("Using default tag: latest\n").stdout_has(&format!("Digest: {digest}\n"));
    assert!(!proxy.asked(&["GET /v2/library/hello/manifests/latest?ns=docker.io"]).is_empty());
    sampan("run --rm hello").ok().stdout_is(GREETING);
    // A mirror that may be pulled from only is not pushed to.
    sampan("push hello").fails(1).stderr_has("127.0.0.1:9");
    sampan("pull bad.example/x").fails(1).stderr_has("hosts.toml").stderr_has("server");
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    let (_, blob) = put_large(&registry, "large", 3 << 20);
    let proxy = Proxy::before(registry.port());
    proxy.spoil("GET", &blob, 1, Act::Cut(1 << 20));
    proxy.spoil("GET", &blob, 1, Act::HangUp);
    proxy.spoil("GET", &blob, 1, Act::Cut(1 << 20));
    proxy.spoil("GET", "/manifests/", 2, Act::Answer("503 Busy", "retry-after: 0\r\n".into(), vec![]));
    let store = Store::fresh(&[]);
    store.sampan(format!("run --rm {}", proxy.name("large"))).ok().stdout_is(GREETING);
    let asked = proxy.asked(&["GET", &blob]);
    assert!(
        asked.len() == 4 && asked[1].ends_with("bytes=1048576-") && asked[3].ends_with("bytes=2097152-"),
        "{asked:?}"
    );
    let left = std::fs::read_dir(store.root().join("downloads")).unwrap().count();
    assert_eq!(left, 0, "what is in its place is not kept twice");
}

#[test]
fn what_is_not_what_its_digest_says_is_not_taken() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    let (image, blob) = put_large(&registry, "large", 100_000);
    let manifest = registry.manifest("large", "latest");
    let size = manifest.text().matches("\"size\":").count();
    assert_eq!(size, 3);
    let answer = |body: Vec<u8>| Act::Answer("200 OK", format!("content-type: {MANIFEST}\r\n"), body);
    let real = net::get(registry.port(), &format!("/v2/large/blobs/{blob}")).expect(200).body;
    let mut other = real.clone();
    other[5000] ^= 1;
    let longer = [&real[..], b"x"].concat();
    let shorter = real[..real.len() - 1].to_vec();
    let spoilt =
        String::from_utf8(manifest.body.clone()).unwrap().replace("\"schemaVersion\":2", "\"schemaVersion\": 2");
    let lies: Vec<(&str, Act, &str)> = vec![
        (blob.as_str(), answer(other), "its digest is sha256:"),
        (&blob, answer(longer), "by the manifest"),
        (&blob, answer(shorter), "broke off again and again"),
        ("/manifests/", answer(b"<html>hello</html>".to_vec()), "is no JSON"),
        ("/manifests/", answer(b"{}".to_vec()), "neither an image manifest nor an index"),
        ("/manifests/", answer(br#"{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}"#.to_vec()), "at once"),
        ("/manifests/", answer(br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec()), "schema 1"),
        ("/manifests/", answer(vec![b' '; 5 << 20]), "larger than"),
        (
            "/manifests/",
            Act::Answer("403 No", String::new(), br#"{"errors":[{"message":"not you"}]}"#.to_vec()),
            "not you",
        ),
        ("/manifests/", Act::Answer("404 No", String::new(), vec![]), "has no large:latest"),
        ("/manifests/", Act::Answer("429 Slow", "retry-after: 3600\r\n".into(), vec![]), "429"),
        (
            "/manifests/",
            Act::Answer("307 Round", "location: /v2/large/manifests/latest\r\n".into(), vec![]),
            "without end",
        ),
        ("/manifests/", Act::Answer("500 Broken", "retry-after: 0\r\n".into(), b"boom".to_vec()), "500"),
        (
            "/manifests/",
            Act::Answer("401 Who", "www-authenticate: Basic realm=\"x\"\r\n".into(), vec![]),
            "sampan login",
        ),
    ];
    let store = Store::fresh(&[]);
    for (path, act, words) in lies {
        let proxy = Proxy::before(registry.port());
        proxy.spoil("GET", path, 100, act);
        let failed = store.sampan(format!("pull {}", proxy.name("large"))).fails(1).stderr_has(words);
        assert!(is_empty(&store), "{failed}");
    }
    let proxy = Proxy::before(registry.port());
    proxy.spoil("GET", "/manifests/", 100, answer(spoilt.into_bytes()));
    store.sampan(format!("pull {}", proxy.name(&format!("large@{image}")))).fails(1).stderr_has("its digest is");
    // What an earlier pull left, and is not what it should be, does not stand in the way.
    let hex = blob.strip_prefix("sha256:").unwrap();
    std::fs::write(store.root().join("downloads").join(hex), vec![0; real.len() / 2]).unwrap();
    store.sampan(format!("run --rm {}", registry.name("large"))).ok().stdout_is(GREETING);
}

#[test]
fn a_pull_that_was_killed_is_gone_on_with() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    let (_, blob) = put_large(&registry, "large", 3 << 20);
    let proxy = Proxy::before(registry.port());
    proxy.spoil("GET", &blob, 1, Act::Stall(2 << 20));
    let store = Store::fresh(&[]);
    let name = proxy.name("large");
    let pull = store.sampan(format!("pull {name}")).start();
    let partial = store.root().join("downloads").join(blob.strip_prefix("sha256:").unwrap());
    eventually("two thirds are there", || partial.metadata().is_ok_and(|meta| meta.len() >= 2 << 20));
    pull.signal(Signal::KILL);
    pull.finish().fails(-9);
    store.sampan("images -q").ok().stdout_is("");
    store.sampan(format!("run --rm --pull never {name}")).fails(125).stderr_has("no such image");
    // As if the machine had written less of it than it said.
    std::fs::File::options().write(true).open(&partial).unwrap().set_len(2 << 20).unwrap();
    store.sampan(format!("pull {name}")).ok().stdout_has("Downloaded newer image");
    assert_eq!(proxy.asked(&["GET", &blob, "bytes=2097152-"]).len(), 1);
    store.sampan(format!("run --rm {name}")).ok().stdout_is(GREETING);
    let left = std::fs::read_dir(store.root().join("tmp")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn two_pulls_at_once_fetch_each_blob_once() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    let (_, blob) = put_large(&registry, "large", 2 << 20);
    let proxy = Proxy::before(registry.port());
    let store = Store::fresh(&[]);
    let name = proxy.name("large");
    let pulls: Vec<_> = (0..4).map(|_| store.sampan(format!("pull {name}")).start()).collect();
    for pull in pulls {
        pull.finish().ok().stdout_has("Digest: sha256:");
    }
    assert_eq!(proxy.asked(&["GET", &blob]).len(), 1);
    store.sampan("images -q").ok();
    store.sampan(format!("run --rm {name}")).ok().stdout_is(GREETING);
}

#[test]
fn a_platform_is_chosen_and_what_is_native_is_refused() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    let archive = tar(&[("hello.wasm", &hello())]);
    let put = |platform: &str, tag: &str, entrypoint: &str| {
        let config = config(platform, &[entrypoint], &[&archive]);
        registry.put_image("many", tag, (OCI_CONFIG, &config), &[(TAR, &archive)])
    };
    let entry = |platform: &str, digest: &str| {
        let (os, architecture) = platform.split_once('/').unwrap();
        let size = registry.manifest("many", digest).body.len();
        json!({"mediaType": MANIFEST, "digest": digest, "size": size, "platform": {"os": os, "architecture": architecture}})
    };
    let (wasm, native) = (put("wasip1/wasm", "wasm", "/hello.wasm"), put("linux/amd64", "native", "/bin/sh"));
    let index = |entries: Vec<Value>| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let both = index(vec![entry("linux/amd64", &native), entry("wasip1/wasm", &wasm)]);
    let both = registry.put_manifest("many", "both", INDEX, &both);
    registry.put_manifest(
        "many",
        "none",
        INDEX,
        &index(vec![entry("linux/amd64", &native), entry("linux/arm64", &native)]),
    );
    let marked = put("linux/amd64", "marked", "/hello.wasm");

    let store = Store::fresh(&[]);
    let name = |tag: &str| registry.name(&format!("many:{tag}"));
    let pull = |line: String| store.sampan(format!("pull {line}"));
    pull(name("both")).ok().stdout_has(&format!("Digest: {both}\n"));
    store.sampan("images --digests --format {{.Digest}}").ok().stdout_is(&format!("{wasm}\n"));
    store.sampan(format!("run --rm {}", name("both"))).ok().stdout_is(GREETING);
    let pinned = registry.name(&format!("many@{both}"));
    store.sampan(format!("run --rm {pinned}")).ok().stdout_is(GREETING);
    store.sampan(format!("run --rm --pull never {pinned}")).ok().stdout_is(GREETING);
    pull(name("none")).fails(1).stderr_has("it is for linux/amd64, linux/arm64");
    pull(format!("--platform wasip2/wasm {}", name("both"))).fails(1).stderr_has("nothing for wasip2/wasm");
    pull(format!("--platform wasip1/wasm {}", name("both"))).ok();
    pull(format!("--platform nonsense {}", name("both"))).fails(125).stderr_has("os/architecture");
    pull(format!("--platform linux/amd64 {}", name("both"))).fails(1).stderr_has("carries no Wasm");
    pull(name("native")).fails(1).stderr_has("carries no Wasm: it is for linux/amd64");
    // Another platform's image that runs Wasm is what buildah makes on this machine.
    pull(name("marked")).ok().stdout_has(&format!("Digest: {marked}\n"));
    store.sampan(format!("run --rm {}", name("marked"))).ok().stdout_is(GREETING);
    // One that says that it is Wasm, and is not.
    let elf = tar(&[("sh", &std::fs::read("/bin/sh").unwrap())]);
    registry.put_image("many", "elf", (OCI_CONFIG, &config("wasip1/wasm", &["/sh"], &[&elf])), &[(TAR, &elf)]);
    pull(name("elf")).fails(1).stderr_has("native Linux programs");
}

#[test]
fn every_format_with_wasm_runs() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    let (module, store) = (hello(), Store::fresh(&[]));
    let wasm_config = json!({"created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip1", "layerDigests": [digest(&module)]});
    let spin = json!({"components": [{"id": "c", "source": {"digest": digest(&module)}}], "triggers": []});
    let runwasi = config("wasip1/wasm", &["app.wasm"], &[]);
    let formats: [(&str, &str, &Value, &str); 5] = [
        ("cncf", "application/vnd.wasm.config.v0+json", &wasm_config, "application/wasm"),
        ("runwasi", OCI_CONFIG, &runwasi, "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"),
        (
            "spin",
            "application/vnd.fermyon.spin.application.v1+config",
            &spin,
            "application/vnd.wasm.content.layer.v1+wasm",
        ),
        (
            "wasmcloud",
            "application/vnd.wasmcloud.actor.archive.config",
            &json!({}),
            "application/vnd.module.wasm.content.layer.v1+wasm",
        ),
        ("bare", "application/vnd.oci.empty.v1+json", &json!({}), "application/wasm"),
    ];
    for (name, config_type, config, layer_type) in formats {
        let there = registry.put_image(name, "latest", (config_type, config), &[(layer_type, &module)]);
        let name = registry.name(name);
        store.sampan(format!("run --rm {name}")).ok().stdout_is(GREETING);
        // Pushed again it is the same to the last byte.
        let copy = format!("{}:copy", name);
        store.sampan(format!("tag {name} {copy}")).ok();
        store.sampan(format!("push {copy}")).ok().stdout_has(&format!("copy: digest: {there} "));
    }
    let config = config("wasip1/wasm", &["/x"], &[b"x"]);
    registry.put_image("odd", "latest", (OCI_CONFIG, &config), &[("application/x-odd", b"x")]);
    let failed = store.sampan(format!("pull {}", registry.name("odd"))).fails(1);
    failed.stderr_has("application/x-odd").stderr_has("application/wasm");
    let helm = json!({"name": "chart"});
    registry.put_image("chart", "latest", ("application/vnd.cncf.helm.config.v1+json", &helm), &[(TAR, b"x")]);
    store.sampan(format!("pull {}", registry.name("chart"))).fails(1).stderr_has("helm");
}

#[test]
fn images_come_when_they_are_missing_always_or_never() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    pushed(&registry, "hello");
    let (store, proxy) = (Store::fresh(&["hello"]), Proxy::before(registry.port()));
    let name = proxy.name("hello");
    store.sampan(format!("run --rm --pull never {name}")).fails(125).stderr_has("no such image");
    assert!(proxy.asked(&[]).is_empty());
    let first = store.sampan(format!("run --rm {name}")).ok().stdout_is(GREETING);
    first
        .stderr_has(&format!("Unable to find image '{name}:latest' locally"))
        .stderr_has("Status: Downloaded newer image");
    let asked = proxy.asked(&[]).len();
    store.sampan(format!("run --rm {name}")).ok().stdout_is(GREETING).stderr_is("");
    assert_eq!(proxy.asked(&[]).len(), asked, "what is here is not asked for");
    store.sampan(format!("run --rm --pull always {name}")).ok().stdout_is(GREETING).stderr_has("Image is up to date");
    store.sampan(format!("run --rm --pull always -q {name}")).ok().stdout_is(GREETING).stderr_is("");
    store.sampan(format!("run --rm --pull sometimes {name}")).fails(125).stderr_has("sometimes");
    store.sampan(format!("rmi {name}")).ok();
    let context = Dir::context(&format!("FROM {name}\nLABEL a=b\n"));
    store.sampan(format!("build -q -t derived {context}")).ok();
    store.sampan("run --rm derived").ok().stdout_is(GREETING);
}

#[test]
fn a_blob_that_the_registry_has_elsewhere_is_not_sent() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    let store = Store::fresh(&["hello"]);
    for name in ["one", "two"] {
        store.sampan(format!("tag hello {}", registry.name(name))).ok();
    }
    store.sampan(format!("push {}", registry.name("one"))).ok().stdout_has(": Pushed\n");
    store
        .sampan(format!("push {}", registry.name("two")))
        .ok()
        .stdout_has(": Mounted from one\n")
        .stdout_lacks("Pushed");
    store.sampan(format!("tag hello {}", registry.name("two:v2"))).ok();
    let out = store.sampan(format!("push -a {}", registry.name("two"))).ok();
    out.stdout_has("latest: digest: ").stdout_has("v2: digest: ");
    store.sampan(format!("push {}", registry.name("none"))).fails(1).stderr_has("sampan tag IMAGE");
}

#[test]
fn a_push_that_breaks_is_tried_again_and_leaves_no_name() {
    if lacks(REGISTRY) {
        return;
    }
    let registry = Registry::start();
    let (store, proxy) = (Store::fresh(&["hello"]), Proxy::before(registry.port()));
    let name = proxy.name("hello");
    store.sampan(format!("tag hello {name}")).ok();
    proxy.spoil("PUT", "/manifests/", 100, Act::Answer("403 No", String::new(), b"read only".to_vec()));
    store.sampan(format!("push {name}")).fails(1).stderr_has("read only");
    proxy.spoil("PUT", "/blobs/", 2, Act::HangUp);
    let other = format!("{}/other", name.split('/').next().unwrap());
    store.sampan(format!("tag hello {other}")).ok();
    store.sampan(format!("push {other}")).fails(1).stderr_has("read only");
    let tags = net::get(registry.port(), "/v2/hello/tags/list");
    assert!(!tags.text().contains("latest"), "{}", tags.text());
}

#[test]
fn a_short_name_stands_for_what_the_aliases_say() {
    let store = Store::fresh(&["hello"]);
    let home = Dir::new().file("sampan/aliases.conf", "greeter:1*  hello:latest  says hello\nold  !gone for good\n");
    let sampan = |line: &str| store.sampan(line).env("XDG_CONFIG_HOME", home.path());
    let warned = "greeter:1.2 is hello:latest here (says hello)";
    sampan("run --rm greeter:1.2").ok().stdout_is(GREETING).stderr_has(warned);
    sampan("run --rm greeter:2").fails(125).stderr_has("127.0.0.1:9");
    let context = Dir::context("FROM greeter:1.2\nLABEL a=b\n");
    sampan(&format!("build -t derived {context}")).ok().stderr_has(warned);
    for line in ["run old", "create old:3", "pull old"] {
        let code = if line.starts_with("pull") { 1 } else { 125 };
        sampan(line).fails(code).stderr_has("gone for good");
    }
    sampan("pull ubuntu:24.04").fails(1).stderr_has("FROM scratch");
    for line in ["run --rm nginx", "run --rm nginx:1.29-alpine", "run --rm httpd", "create caddy:2"] {
        sampan(line).fails(125).stderr_has("native server").stderr_has("samples/nginx");
    }
    let context = Dir::context("FROM debian\n");
    sampan(&format!("build {context}")).fails(1).stderr_has("native Linux system");
    // An image that is here is what its name says.
    sampan("tag hello nginx").ok();
    sampan("run --rm nginx").ok().stdout_is(GREETING).stderr_is("");
    sampan("run --rm nginx:1.29").ok().stdout_is(GREETING).stderr_has("nginx:1.29 is nginx:latest here");
    sampan("run --rm python:3.7").fails(125).stderr_has("python:3.7 is python:3.14 here");
    let broken = Dir::new().file("sampan/aliases.conf", "# fine\nalone\n");
    let failed = store.sampan("run nothing").env("XDG_CONFIG_HOME", broken.path()).fails(125);
    failed.stderr_has("aliases.conf").stderr_has("line 2");
}

/// A certificate for localhost that signs itself.
fn certificate(dir: &Dir) -> (PathBuf, PathBuf) {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
                 -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    Run::new(words.split_whitespace()).arg("-out").arg(&cert).arg("-keyout").arg(&key).ok();
    (cert, key)
}

#[test]
fn certificates_are_believed_as_hosts_toml_says() {
    if lacks(&[REGISTRY[0], Need::Tool("openssl")]) {
        return;
    }
    let dir = Dir::new();
    let (cert, key) = certificate(&dir);
    let registry = Registry::with_certificate(&cert, &key);
    let store = Store::fresh(&["hello"]);
    let name = format!("tls.example/{}", "hello");
    store.sampan(format!("tag hello {name}")).ok();
    let push = |hosts: String| {
        let certs = Dir::new().file("tls.example/hosts.toml", hosts);
        store.sampan(format!("push {name}")).env("SAMPAN_CERTS_D", certs.path()).run()
    };
    let server = format!("server = \"https://localhost:{}\"\n", registry.port());
    push(server.clone()).fails(1).stderr_has("certificate");
    push(format!("{server}ca = \"/none/such.crt\"\n")).fails(1).stderr_has("/none/such.crt");
    push(format!("{server}ca = \"{}\"\n", cert.display())).ok().stdout_has("Pushed");
    push(format!("{server}skip_verify = true\n")).ok().stdout_has("already exists");
    // A registry of this machine is believed, as Docker does.
    let local = format!("localhost:{}/hello", registry.port());
    store.sampan(format!("tag hello {local}")).ok();
    store.sampan(format!("push {local}")).ok();
    assert!(Path::new(&cert).exists());
}
