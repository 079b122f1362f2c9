//! What a program can ask for, in words: the interfaces that it imports and exports, what each lets it do, and which
//! grant gives it.

use crate::guest::{Description, process};

/// One thing that a program can ask for, or has to offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// The interface as the program names it: `wasi:filesystem/types@0.2.6`, or a group of functions of WASI 0.1.
    pub interface: String,
    /// What it lets the program do.
    pub means: &'static str,
    /// What gives it: a flag, an instruction, or nothing that need be said.
    pub given_by: &'static str,
}

const ALWAYS: &str = "always";
const FILES: &str = "its own root always; host directories by -v and --mount; --read-only narrows it";
const SOCKETS: &str = "its own loopback always; ports by -p, --expose and EXPOSE; others by --network and --allow-net";
const NAMES: &str = "localhost always; peers by --network, other names by --allow-net";
const PEERS: &str = "peers by --network, others by --allow-net";
const SPAWN: &str = "--allow-spawn; RUN and exec always";
const LISTENERS: &str = "a listening socket for each port of -p, --expose and EXPOSE";
const NOBODY: &str = "nothing: sampan does not provide it, and a start is refused";

/// What the imports of a program mean, in the order in which it names them.
#[must_use]
pub fn imports(description: &Description) -> Vec<Capability> {
    let mut all: Vec<Capability> = Vec::new();
    for import in &description.imports {
        let (interface, (means, given_by)) = match import.strip_prefix("wasi_snapshot_preview1.") {
            // A module names each function: they are told by what they are for.
            Some(function) => group(function),
            None => (whole(import), interface(import)),
        };
        if all.iter().all(|known| known.interface != interface) {
            all.push(Capability { interface, means, given_by });
        }
    }
    all
}

/// What the exports of a program mean: what it is run as.
#[must_use]
pub fn exports(description: &Description) -> Vec<Capability> {
    let capability = |export: &String| {
        let (means, given_by) = match unversioned(export) {
            "wasi:cli/run" | "_start" => ("runs once, from its start to its exit code", "run, start"),
            "wasi:http/incoming-handler" | "wasi:http/handler" => {
                ("answers HTTP requests", "-p and EXPOSE name the port; the sandbox is the web server")
            }
            "memory" => ("its memory, for the runtime to read arguments from", ALWAYS),
            _ => ("something for other programs, which nobody calls here", "nothing"),
        };
        Capability { interface: export.clone(), means, given_by }
    };
    description.exports.iter().map(capability).collect()
}

fn unversioned(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

/// The interface, where a module names a function of one.
fn whole(import: &str) -> String {
    let module = import.split_once('.').filter(|_| import.starts_with(process::MODULE));
    module.map_or_else(|| import.to_owned(), |_| process::MODULE.to_owned())
}

/// The functions of WASI 0.1, by what they are for.
fn group(function: &str) -> (String, (&'static str, &'static str)) {
    let (functions, meaning) = match function {
        name if name.starts_with("path_") => ("path_*", ("opens, makes, renames and removes files by name", FILES)),
        name if name.starts_with("fd_") => ("fd_*", ("reads and writes open files and its standard streams", FILES)),
        name if name.starts_with("sock_") => {
            ("sock_*", ("takes connections from the sockets that it is handed", LISTENERS))
        }
        name if name.starts_with("args_") => ("args_*", ("reads its arguments", ALWAYS)),
        name if name.starts_with("environ_") => ("environ_*", ("reads its environment", "-e, --env-file and ENV")),
        name if name.starts_with("clock_") => ("clock_*", ("tells the time", ALWAYS)),
        "poll_oneoff" => ("poll_oneoff", ("waits for time to pass or a stream to be ready", ALWAYS)),
        "random_get" => ("random_get", ("draws random numbers", ALWAYS)),
        "proc_exit" | "proc_raise" => ("proc_*", ("ends itself", ALWAYS)),
        "sched_yield" => ("sched_yield", ("lets others go first", ALWAYS)),
        _ => ("other", ("something of WASI 0.1 that has no name here", ALWAYS)),
    };
    (format!("wasi_snapshot_preview1 {functions}"), meaning)
}

/// An interface of WASI 0.2 or 0.3.
fn interface(import: &str) -> (&'static str, &'static str) {
    let name = unversioned(import);
    match name {
        "wasi:cli/environment" => {
            ("reads its arguments and its environment", "arguments always; -e, --env-file and ENV")
        }
        "wasi:cli/stdin" => ("reads its standard input", "-i"),
        "wasi:cli/stdout" | "wasi:cli/stderr" => ("writes to its standard output or error, which is logged", ALWAYS),
        "wasi:cli/exit" => ("ends itself", ALWAYS),
        "wasi:cli/types" => ("names errors of the standard streams", ALWAYS),
        _ if name.starts_with("wasi:cli/terminal-") => ("asks whether a stream is a terminal; none is", ALWAYS),
        _ if name.starts_with("wasi:clocks/") => ("tells the time and waits", ALWAYS),
        _ if name.starts_with("wasi:random/") => ("draws random numbers", ALWAYS),
        _ if name.starts_with("wasi:io/") => ("moves bytes along what it was given, and waits for it", ALWAYS),
        "wasi:filesystem/preopens" => ("finds the directories that it was given", FILES),
        _ if name.starts_with("wasi:filesystem/") => ("reads and writes files below /", FILES),
        "wasi:sockets/ip-name-lookup" => ("looks up the addresses of names", NAMES),
        _ if name.starts_with("wasi:sockets/udp") => ("sends and receives UDP datagrams", SOCKETS),
        _ if name.starts_with("wasi:sockets/") => ("listens for and makes TCP connections", SOCKETS),
        "sampan:process/spawn" => ("starts other programs of its container", SPAWN),
        "wasi:http/types" => ("has words for HTTP requests and answers", ALWAYS),
        "wasi:http/outgoing-handler" | "wasi:http/client" => ("makes HTTP requests", PEERS),
        _ => ("something that is no part of WASI as it is known here", NOBODY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Kind;

    fn of(imports: &[&str], exports: &[&str]) -> Description {
        let owned = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
        Description { kind: Kind::Module, imports: owned(imports), exports: owned(exports), languages: vec![] }
    }

    #[test]
    fn functions_of_a_module_are_told_once_a_group() {
        let all = imports(&of(
            &["wasi_snapshot_preview1.fd_write", "wasi_snapshot_preview1.path_open", "wasi_snapshot_preview1.fd_read"],
            &[],
        ));
        let names: Vec<&str> = all.iter().map(|c| c.interface.as_str()).collect();
        assert_eq!(names, ["wasi_snapshot_preview1 fd_*", "wasi_snapshot_preview1 path_*"]);
    }

    #[test]
    fn interfaces_are_known_whatever_their_version() {
        let all = imports(&of(&["wasi:sockets/tcp@0.2.6", "wasi:filesystem/types@0.3.0", "acme:door/open"], &[]));
        assert!(all[0].means.contains("TCP") && all[0].given_by.contains("-p"));
        assert!(all[1].means.contains("files below /"));
        assert_eq!(all[2].given_by, NOBODY);
        let spawn = ["sampan:process/spawn@0.1.0.spawn", "sampan:process/spawn@0.1.0.wait"];
        for all in [imports(&of(&spawn, &[])), imports(&of(&["sampan:process/spawn@0.1.0"], &[]))] {
            assert_eq!((all.len(), all[0].interface.as_str()), (1, "sampan:process/spawn@0.1.0"));
            assert!(all[0].given_by.contains("--allow-spawn"));
        }
        let out = exports(&of(&[], &["wasi:http/incoming-handler@0.2.0"]));
        assert!(out[0].means.contains("HTTP"));
    }
}
