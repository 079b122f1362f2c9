//! The command line of a shim, and its answers on standard output.

use super::ShimError;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use std::path::PathBuf;

/// The name under which this program is a shim: containerd makes it of the runtime `io.containerd.sampan.v1`.
pub const NAME: &str = "containerd-shim-sampan-v1";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make the sandbox of a bundle, or find it, and say where it answers.
    Start,
    /// Clear up.
    Delete,
    /// Describe the runtime.
    Info,
    /// Print the version.
    Version,
}

/// What containerd has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What is to be done.
    pub action: Action,
    /// Whose containers these are.
    pub namespace: String,
    /// Which container.
    pub id: String,
    /// Where containerd answers, in gRPC.
    pub address: String,
    /// Where it answers in ttrpc; empty before its version 1.3.
    pub ttrpc: String,
    /// The program that publishes events.
    pub publisher: String,
    /// The container's bundle.
    pub bundle: PathBuf,
}

impl Call {
    /// Reads a command line, without the program's name. (Flags of Go: one dash or two, a value behind `=` or in the next
    /// word.)
    ///
    /// # Errors
    /// When it is not one of a shim.
    pub fn read(args: impl IntoIterator<Item = String>) -> Result<Self, ShimError> {
        let bad = |words: String| ShimError::Call(words);
        let mut call = Self {
            action: Action::Version,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            ttrpc: std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
            publisher: String::new(),
            bundle: PathBuf::new(),
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix('-') else {
                call.action = match arg.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    other => return Err(bad(format!("there is no action {other:?}, only start and delete"))),
                };
                return call.checked();
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_owned())));
            match name {
                "v" | "version" => return Ok(call),
                "info" => return Ok(Self { action: Action::Info, ..call }),
                // More words in a log that has few.
                "debug" => continue,
                _ => {}
            }
            let value = value.or_else(|| args.next()).ok_or_else(|| bad(format!("-{name} has no value")))?;
            match name {
                "namespace" => call.namespace = value,
                "id" => call.id = value,
                "address" => call.address = value,
                "publish-binary" => call.publisher = value,
                "bundle" => call.bundle = value.into(),
                other => return Err(bad(format!("there is no flag -{other}"))),
            }
        }
        Err(bad("an action was wanted, start or delete".to_owned()))
    }

    fn checked(mut self) -> Result<Self, ShimError> {
        if self.namespace.is_empty() || self.id.is_empty() {
            return Err(ShimError::Call("-namespace and -id were wanted".to_owned()));
        }
        if self.bundle.as_os_str().is_empty() {
            // It is the working directory then.
            self.bundle = std::env::current_dir().map_err(ShimError::io("find", "the bundle"))?;
        }
        Ok(self)
    }
}

/// How containerd is told where a sandbox answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// A bare address, and version 2 of the Task API: up to containerd 1.6.
    Address,
    /// JSON, and version 2: from containerd 1.7, which takes no higher, up to 2.2, which cannot be told apart from it.
    Json,
    /// A message, and version 3: from containerd 2.3.
    Message,
}

impl Speaks {
    /// Which of them the containerd means that has started this program. Up to 1.6 it has said nothing of versions
    /// (`MAX_SHIM_VERSION`); from 2.3 it hands over what it says as a message on standard input, where others put the options
    /// of the runtime. (`runtime/v2/shim/util.go`, `pkg/shim/util.go`: `Command`.)
    #[must_use]
    pub fn of(id: &str, most: Option<&str>, input: &[u8]) -> Self {
        match BootstrapParams::parse_from_bytes(input) {
            Ok(params) if params.instance_id == id => Self::Message,
            _ if most.is_some_and(|most| !most.is_empty()) => Self::Json,
            _ => Self::Address,
        }
    }

    /// The answer to `start`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn answer(self, address: &str) -> Result<Vec<u8>, ShimError> {
        let protocol = "ttrpc";
        Ok(match self {
            Self::Address => address.as_bytes().to_vec(),
            Self::Json => {
                serde_json::json!({ "version": 2, "address": address, "protocol": protocol }).to_string().into_bytes()
            }
            Self::Message => {
                let (address, protocol) = (address.to_owned(), protocol.to_owned());
                message(&BootstrapResult { version: 3, address, protocol, ..BootstrapResult::default() })?
            }
        })
    }
}

/// What the runtime is, as containerd asks for it (`-info`).
///
/// # Errors
/// When it cannot be written.
pub fn info() -> Result<Vec<u8>, ShimError> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let version = RuntimeVersion { version, ..RuntimeVersion::default() };
    let name = "io.containerd.sampan.v1".to_owned();
    message(&RuntimeInfo { name, version: MessageField::some(version), ..RuntimeInfo::default() })
}

/// A message in its bytes.
pub(super) fn message(message: &impl Message) -> Result<Vec<u8>, ShimError> {
    let written = message.write_to_bytes();
    written.map_err(|e| ShimError::io("write", "the answer")(std::io::Error::other(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Call, ShimError> {
        Call::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_lines_of_containerd() {
        let call =
            read("-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id web start").unwrap();
        assert_eq!((call.action, call.namespace.as_str(), call.id.as_str()), (Action::Start, "default", "web"));
        assert_eq!(call.bundle, std::env::current_dir().unwrap());
        let call = read("--namespace=default -id web -bundle /b -debug delete").unwrap();
        assert_eq!((call.action, call.bundle), (Action::Delete, "/b".into()));
        assert_eq!(read("-v").unwrap().action, Action::Version);
        assert_eq!(read("-info").unwrap().action, Action::Info);
    }

    #[test]
    fn what_no_containerd_says_is_refused() {
        for (line, words) in [
            ("", "an action"),
            ("run", "\"run\""),
            ("-id x start", "-namespace"),
            ("-id", "no value"),
            ("-colour x start", "-colour"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("containerd"), "{line}: {error}");
        }
    }

    #[test]
    fn each_containerd_is_told_in_its_own_way() {
        let params = BootstrapParams { instance_id: "web".into(), ..BootstrapParams::default() };
        let params = params.write_to_bytes().unwrap();
        assert_eq!(Speaks::of("web", None, b""), Speaks::Address);
        assert_eq!(Speaks::of("web", Some("2"), b""), Speaks::Json);
        // The options of a runtime are a message too.
        assert_eq!(Speaks::of("web", Some("2"), b"\x0a\x04type"), Speaks::Json);
        assert_eq!(Speaks::of("web", Some("2"), &params), Speaks::Message);
        assert_eq!(Speaks::Address.answer("unix:///x").unwrap(), b"unix:///x");
        assert!(Speaks::Json.answer("unix:///x").unwrap().starts_with(b"{"));
        let told = Speaks::Message.answer("unix:///x").unwrap();
        assert_eq!(BootstrapResult::parse_from_bytes(&told).unwrap().version, 3);
    }
}
