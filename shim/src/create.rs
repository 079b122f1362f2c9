//! A container from a request of the Task API: its bundle, its root, its streams.

use crate::fifos::{open, open_output};
use crate::task::{of_sandbox, refuse};
use containerd_shim_protos::api::{CreateTaskRequest, ExecProcessRequest};
use oci_spec::runtime::Spec;
use rustix::fs::OFlags;
use sampan_runtime::container::locate_program;
use sampan_runtime::grants::{Grants, RootGrant};
use sampan_runtime::guest::code;
use sampan_runtime::rootfs::{self, Handed};
use sampan_runtime::sandbox::{Attach, Entry, Keeper, Outputs, log};
use sampan_runtime::store::{Store, files};
use serde_json::Value;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use ttrpc::{Code, Result};

/// What is known of the containers that were created here, beside what their keeper knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Created(Arc<Mutex<HashMap<String, Known>>>);

#[derive(Debug, Default)]
struct Known {
    streams: [String; 3],
    terminal: bool,
    /// Held so that standard input does not end before its writer says so (`CloseIO`).
    held: Option<OwnedFd>,
    /// What is typed at the terminal, until it is there.
    typed: Option<OwnedFd>,
    /// The size of the terminal, until it is there.
    size: Option<(u16, u16)>,
    /// Where its root is mounted.
    root: Option<PathBuf>,
    /// Who its program is, in its bundle.
    user: (u32, u32),
}

fn invalid(error: impl ToString) -> ttrpc::Error {
    refuse(Code::INVALID_ARGUMENT, error.to_string())
}

impl Created {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a container. What its bundle grants is for `adjust` to complete.
    pub(crate) async fn create(
        &self,
        keeper: &Keeper,
        store: &Store,
        request: CreateTaskRequest,
        adjust: impl FnOnce(&Spec, &mut Grants) -> std::result::Result<(), String>,
    ) -> Result<()> {
        if !request.checkpoint.is_empty() {
            return Err(refuse(Code::UNIMPLEMENTED, "a Wasm program cannot be restored from a checkpoint"));
        }
        let bundle = PathBuf::from(&request.bundle);
        let spec: Spec = files::read_json(&bundle.join("config.json")).map_err(invalid)?;
        let user =
            spec.process().as_ref().map(|process| (process.user().uid(), process.user().gid())).unwrap_or_default();
        let mut grants = Grants::from_spec(&spec).map_err(invalid)?;
        adjust(&spec, &mut grants).map_err(invalid)?;
        grants.terminal |= request.terminal;
        let CreateTaskRequest { id, stdin, stdout, stderr, rootfs, .. } = request;
        let terminal = grants.terminal;
        if grants.stdin && stdin.is_empty() {
            return Err(invalid("the bundle wants an open standard input, and the request names none"));
        }
        let stderr = if terminal { String::new() } else { stderr };
        let held = if stdin.is_empty() { None } else { Some(open(&stdin, OFlags::RDWR).await?) };
        let input = if stdin.is_empty() { None } else { Some(open(&stdin, OFlags::RDONLY).await?) };
        let outputs = Outputs::default();
        outputs
            .add(open_output(&stdout).await?, open_output(&stderr).await?)
            .map_err(|e| refuse(Code::INTERNAL, format!("cannot prepare the streams: {e}")))?;
        let seen = !stdout.is_empty() || !stderr.is_empty();
        grants.stdin = input.is_some() && !terminal;
        let (input, typed) = if terminal { (None, input) } else { (input, None) };
        if let Some(input) = &input {
            // The sandbox waits there, in a thread.
            rustix::io::ioctl_fionbio(input, false).map_err(|e| invalid(std::io::Error::from(e)))?;
        }
        let mounts: Vec<Handed> = rootfs
            .into_iter()
            .map(|mount| Handed { kind: mount.type_, source: mount.source, options: mount.options })
            .collect();
        let known = Known { streams: [stdin, stdout, stderr], terminal, held, typed, size: None, root: None, user };
        let (keeper, store) = (keeper.clone(), store.clone());
        let wanted = Wanted { id: id.clone(), bundle, grants, mounts, input, outputs, seen };
        // The kernel's mounts and the compiler take their time.
        let work = tokio::task::spawn_blocking(move || wanted.create(&keeper, &store));
        let root = work.await.map_err(|e| refuse(Code::INTERNAL, e.to_string()))??;
        self.all().insert(id, Known { root, ..known });
        Ok(())
    }

    /// Goes on when a container has been started: somebody may type at its terminal, which has a size.
    pub(crate) fn started(&self, keeper: &Keeper, id: &str) -> Result<()> {
        let (typed, size) = match self.all().get_mut(id) {
            Some(known) => (known.typed.take(), known.size.take()),
            None => return Ok(()),
        };
        if let Some((columns, rows)) = size {
            keeper.resize(id, columns, rows).map_err(of_sandbox)?;
        }
        if let Some(typed) = typed {
            // It may have ended by now.
            let _ = keeper.attach(id, Some(typed), true, None, None);
        }
        Ok(())
    }

    /// The paths of a container's streams, and whether they are a terminal.
    pub(crate) fn streams(&self, id: &str) -> ([String; 3], bool) {
        self.all().get(id).map(|known| (known.streams.clone(), known.terminal)).unwrap_or_default()
    }

    /// Lets standard input end when everything has been read that is there; false when it is none of ours.
    pub(crate) fn close_input(&self, id: &str) -> bool {
        self.all().get_mut(id).map(|known| known.held = None).is_some()
    }

    /// Says how large the terminal will be; false when it is none of ours.
    pub(crate) fn resize(&self, id: &str, columns: u16, rows: u16) -> bool {
        match self.all().get_mut(id) {
            Some(known) if known.terminal => {
                known.size = Some((columns, rows));
                true
            }
            _ => false,
        }
    }

    /// What is to be run inside a container as the container's own user is run as its only one.
    pub(crate) fn as_its_user(&self, mut request: ExecProcessRequest) -> ExecProcessRequest {
        let user = self.all().get(&request.id).map(|known| known.user).unwrap_or_default();
        let spec = request.spec.as_mut().map(|spec| &mut spec.value);
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or_default();
        if let Some(value) = spec
            && let Ok(Value::Object(mut process)) = serde_json::from_slice(value)
            && let Some(Value::Object(its)) = process.get_mut("user")
            && (number(its.get("uid")), number(its.get("gid"))) == (user.0.into(), user.1.into())
        {
            its.insert("uid".to_owned(), 0.into());
            its.insert("gid".to_owned(), 0.into());
            *value = Value::Object(process).to_string().into_bytes();
        }
        request
    }

    /// Forgets a container, and takes its root away.
    pub(crate) fn forget(&self, id: &str) {
        let root = self.all().remove(id).and_then(|known| known.root);
        if let Some(root) = root {
            // The kernel waits until nobody looks at it any more. It is in a namespace of ours, and goes with that.
            tokio::task::spawn_blocking(move || rootfs::take_down(&root));
        }
    }
}

/// A container whose streams are open.
struct Wanted {
    id: String,
    bundle: PathBuf,
    grants: Grants,
    mounts: Vec<Handed>,
    input: Option<OwnedFd>,
    outputs: Outputs,
    /// Whether anybody has the output.
    seen: bool,
}

impl Wanted {
    /// Mounts its root, finds its program and adds it to the sandbox. Returns where its root is mounted.
    fn create(mut self, keeper: &Keeper, store: &Store) -> Result<Option<PathBuf>> {
        let root = match &self.grants.root {
            RootGrant::Ready(root) => self.bundle.join(root),
            RootGrant::Layers(_) if !self.mounts.is_empty() => {
                return Err(invalid("the bundle names its own layers, so no root file system can be handed over"));
            }
            RootGrant::Layers(_) => {
                rootfs::make_writable_layer(&self.bundle).map_err(invalid)?;
                self.bundle.clone()
            }
        };
        if self.mounts.is_empty() {
            return self.add(keeper, store, &root).map(|()| None);
        }
        rootfs::mount_handed(&self.mounts, &root).map_err(invalid)?;
        match self.add(keeper, store, &root) {
            Ok(()) => Ok(Some(root)),
            Err(error) => {
                let _ = rootfs::take_down(&root);
                Err(error)
            }
        }
    }

    fn add(&mut self, keeper: &Keeper, store: &Store, root: &Path) -> Result<()> {
        let program = locate_program(&self.bundle, &self.grants);
        let (program, args) = program.map_err(|error| match is_empty(root) {
            true => invalid(format!(
                "{error}; its root file system is empty: if the image is an artifact whose layers are Wasm modules and no \
                 archives, build an image of it (FROM scratch, COPY app.wasm /, ENTRYPOINT [\"/app.wasm\"])"
            )),
            false => refuse(Code::NOT_FOUND, error.to_string()),
        })?;
        let mut grants = self.grants.clone();
        grants.args = args.unwrap_or(grants.args);
        let lasting = program.strip_prefix(root).ok().and_then(|file| rootfs::lasting_place(&self.mounts, file));
        let code = code::prepare(store, lasting.as_deref().unwrap_or(&program));
        let code =
            code.map_err(|error| refuse(Code::FAILED_PRECONDITION, in_its_own_words(error, &self.grants.args)))?;
        let entry = Entry {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            store: grants.spawn.then(|| store.clone()),
            grants,
            code,
            network: None,
            input: self.input.take(),
            attach: Attach::Viewers(self.outputs.clone()),
            log: if self.seen {
                log::Config { driver: log::Driver::None, ..log::Config::default() }
            } else {
                log::Config::default()
            },
        };
        keeper.create(entry, false).map_err(of_sandbox)
    }
}

/// An error of compiling names the program as the image does, not where it is mounted.
fn in_its_own_words(error: code::CodeError, args: &[String]) -> String {
    match error {
        code::CodeError::Compile { source, .. } => {
            let program = args.first().map(String::as_str).unwrap_or_default();
            code::CodeError::Compile { path: program.into(), source }.to_string()
        }
        other => other.to_string(),
    }
}

fn is_empty(root: &Path) -> bool {
    std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none())
}
