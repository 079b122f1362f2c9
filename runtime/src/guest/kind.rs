//! What a Wasm file is, from its imports and exports: what it can be run as, and what it can ask for.

use super::engine::Target;
use super::process;
use crate::network::reserve::Opens;
use serde::{Deserialize, Serialize};
use wasmparser::{KnownCustom, Parser, Payload};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

/// What a guest is run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A core module with `_start`: a WASI 0.1 command.
    Module,
    /// A component that exports `wasi:cli/run@0.2`.
    Command2,
    /// A component that exports `wasi:cli/run@0.3`.
    Command3,
    /// A component that exports `wasi:http/incoming-handler@0.2`.
    Http2,
    /// A component that exports `wasi:http/handler@0.3`.
    Http3,
}

impl Kind {
    /// Whether it answers requests rather than running once.
    #[must_use]
    pub fn is_service(self) -> bool {
        matches!(self, Self::Http2 | Self::Http3)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Module => "WASI 0.1 command",
            Self::Command2 => "WASI 0.2 command",
            Self::Command3 => "WASI 0.3 command",
            Self::Http2 => "WASI 0.2 HTTP service",
            Self::Http3 => "WASI 0.3 HTTP service",
        })
    }
}

/// What is known of a guest without running it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What it is run as.
    pub kind: Kind,
    /// The interfaces that it imports: what it can ask for.
    pub imports: Vec<String>,
    /// What it exports: what it can be run as. Empty in what an older version has written down.
    #[serde(default)]
    pub exports: Vec<String>,
    /// The languages that a module says it was written in (its section `producers`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
}

impl Description {
    /// What its code is compiled for.
    pub(crate) fn target(&self) -> Target {
        target(self.kind, &self.imports)
    }

    /// Whether it can ask for other programs to be started.
    #[must_use]
    pub fn spawns(&self) -> bool {
        self.imports.iter().any(|import| import.starts_with(process::MODULE))
    }

    /// Whether it is a server that is handed its listening sockets: WASI 0.1 knows no other.
    #[must_use]
    pub fn takes_listeners(&self) -> bool {
        self.kind == Kind::Module && self.imports.iter().any(|import| import == ACCEPT)
    }

    /// How it comes to its listening sockets.
    #[must_use]
    pub fn opens(&self) -> Opens {
        match self.kind.is_service() {
            true => Opens::Handed(Some(HTTP_PORT)),
            false if self.takes_listeners() => Opens::Handed(None),
            false => Opens::Itself,
        }
    }

    /// Whether it must never wait in a call that takes a connection. All of a Go program has one thread, and Go's
    /// library takes a descriptor as it is, so it is handed what does not wait; C and Rust expect the other.
    #[must_use]
    pub fn must_not_wait(&self) -> bool {
        self.languages.iter().any(|language| language == "Go")
    }
}

/// The port of a service that was granted none.
const HTTP_PORT: u16 = 8080;
/// The function by which a module takes connections.
const ACCEPT: &str = "wasi_snapshot_preview1.sock_accept";

/// Wasm that is no guest of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KindError {
    /// Not Wasm at all.
    #[error("{0}")]
    NotWasm(String),
    /// A core module that imports something else than WASI 0.1.
    #[error(
        "the module imports {import:?}, which is not part of WASI 0.1 (wasi_snapshot_preview1) and no interface of ours: \
         build it for wasm32-wasip1, or as a component"
    )]
    ForeignImport {
        /// The first such import, as `module.name`.
        import: String,
    },
    /// A core module without an entry.
    #[error(
        "the module exports no _start function, so it is a library and not a program; its exports: {}",
        list(exports)
    )]
    NoStart {
        /// What it does export.
        exports: Vec<String>,
    },
    /// A component of a world that we do not know.
    #[error(
        "the component is of no world that can be run: wanted an export of wasi:cli/run (0.2 or 0.3), \
         wasi:http/incoming-handler (0.2) or wasi:http/handler (0.3), found {}",
        list(exports)
    )]
    UnknownWorld {
        /// What it does export.
        exports: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Tells from the first bytes what a file is that should have been Wasm.
///
/// # Errors
/// When it is not Wasm, saying what it looks like.
pub fn check_magic(head: &[u8]) -> Result<(), KindError> {
    let wanted = "a Wasm module or component (or text in the .wat form)";
    let not =
        |what: &str, way_out: &str| Err(KindError::NotWasm(format!("it is {what}, and {wanted} was wanted{way_out}")));
    match head {
        [0, b'a', b's', b'm', ..] => Ok(()),
        [] => not("an empty file", ""),
        [0x7f, b'E', b'L', b'F', ..] => {
            not("a native Linux program (ELF)", ": build it for the target wasm32-wasip1 or wasm32-wasip2")
        }
        [b'M', b'Z', ..] => not("a native Windows program", ": build it for the target wasm32-wasip1 or wasm32-wasip2"),
        [b'#', b'!', ..] => not("a script", ": name its interpreter as the entrypoint and the script as an argument"),
        _ => not("no Wasm file", ""),
    }
}

/// Describes a compiled core module.
///
/// # Errors
/// When it is not a command.
pub fn of_module(module: &Module) -> Result<Description, KindError> {
    let mut imports: Vec<String> = Vec::new();
    for import in module.imports() {
        if import.module() == process::MODULE && process::FUNCTIONS.contains(&import.name()) {
            imports.push(format!("{}.{}", import.module(), import.name()));
            continue;
        }
        if import.module() != "wasi_snapshot_preview1" && import.module() != "wasi_unstable" {
            return Err(KindError::ForeignImport { import: format!("{}.{}", import.module(), import.name()) });
        }
        if import.module() == "wasi_unstable" {
            return Err(KindError::ForeignImport {
                import: format!("{}.{} (WASI before 0.1)", import.module(), import.name()),
            });
        }
        imports.push(format!("{}.{}", import.module(), import.name()));
    }
    let exports: Vec<String> = module.exports().map(|e| e.name().to_owned()).collect();
    if module.get_export("_start").is_none_or(|export| export.func().is_none()) {
        return Err(KindError::NoStart { exports });
    }
    Ok(Description { kind: Kind::Module, imports, exports, languages: Vec::new() })
}

/// The languages that a module says it was written in, from its section `producers` (tool-conventions,
/// ProducersSection.md). None when it says nothing.
#[must_use]
pub fn languages(wasm: &[u8]) -> Vec<String> {
    let sections = Parser::new(0).parse_all(wasm).filter_map(|payload| match payload {
        Ok(Payload::CustomSection(section)) => match section.as_known() {
            KnownCustom::Producers(producers) => Some(producers),
            _ => None,
        },
        _ => None,
    });
    let fields = sections.flat_map(|producers| producers.into_iter().flatten());
    let values = fields.filter(|field| field.name == "language").flat_map(|field| field.values.into_iter().flatten());
    values.map(|value| value.name.to_owned()).collect()
}

fn target(kind: Kind, imports: &[String]) -> Target {
    // Interfaces of 0.3 have async functions, even where a service of 0.2 calls them.
    let concurrent = imports.iter().any(|name| name.split_once('@').is_some_and(|(_, v)| v.starts_with("0.3")));
    if kind == Kind::Http2 && !concurrent { Target::Fresh } else { Target::General }
}

/// What a component's code has to be compiled for, told before it is. What is no valid component is left to the
/// compiler to say.
#[must_use]
pub fn target_of(component: &[u8]) -> Target {
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0_u32);
    for payload in Parser::new(0).parse_all(component) {
        match payload {
            Ok(Payload::ComponentImportSection(section)) if depth == 0 => {
                imports.extend(section.into_iter().flatten().map(|import| import.name.name.to_owned()));
            }
            Ok(Payload::ComponentExportSection(section)) if depth == 0 => {
                exports.extend(section.into_iter().flatten().map(|export| export.name.name.to_owned()));
            }
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    kind_of(&exports).map_or(Target::General, |kind| target(kind, &imports))
}

/// Describes a compiled component.
///
/// # Errors
/// When it exports no world of ours.
pub fn of_component(engine: &Engine, component: &Component) -> Result<Description, KindError> {
    let shape = component.component_type();
    let exports: Vec<String> = shape.exports(engine).map(|(name, _)| name.to_owned()).collect();
    let Some(kind) = kind_of(&exports) else { return Err(KindError::UnknownWorld { exports }) };
    Ok(Description {
        kind,
        imports: shape.imports(engine).map(|(name, _)| name.to_owned()).collect(),
        exports,
        languages: Vec::new(),
    })
}

fn kind_of(exports: &[String]) -> Option<Kind> {
    const KINDS: [(&str, Kind); 4] = [
        ("wasi:http/handler@0.3", Kind::Http3),
        ("wasi:http/incoming-handler@0.2", Kind::Http2),
        ("wasi:cli/run@0.3", Kind::Command3),
        ("wasi:cli/run@0.2", Kind::Command2),
    ];
    let mut known = KINDS.iter();
    known.find(|(prefix, _)| exports.iter().any(|name| name.starts_with(prefix))).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::engine::{Purpose, engine};

    #[test]
    fn what_is_not_wasm_is_named() {
        for (bytes, word) in [
            (&b"\x7fELF\x02"[..], "native Linux program"),
            (b"#!/bin/sh", "script"),
            (b"", "empty"),
            (b"hello", "no Wasm"),
        ] {
            let error = check_magic(bytes).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn modules_that_are_no_commands_are_told_apart() {
        let engine = engine(Purpose::Compile(Target::General)).unwrap();
        let describe = |wat: &str| of_module(&Module::new(&engine, wat).unwrap());
        assert!(matches!(describe("(module)"), Err(KindError::NoStart { .. })));
        let foreign = describe(r#"(module (import "env" "f" (func)) (func (export "_start")))"#);
        assert_eq!(foreign, Err(KindError::ForeignImport { import: "env.f".into() }));
        assert_eq!(describe(r#"(module (func (export "_start")))"#).unwrap().kind, Kind::Module);
    }

    #[test]
    fn a_component_of_an_unknown_world_names_its_exports() {
        let engine = engine(Purpose::Compile(Target::General)).unwrap();
        let wat = r#"(component (instance $i) (export "acme:x/y" (instance $i)))"#;
        let component = Component::new(&engine, wat).unwrap();
        let error = of_component(&engine, &component).unwrap_err().to_string();
        assert!(error.contains("acme:x/y"), "{error}");
    }

    #[test]
    fn the_language_of_a_module_is_what_its_producers_say() {
        // `producers` of Go: one field, one value.
        let mut section = vec![9];
        section.extend(b"producers\x01\x08language\x01\x02Go\x08go1.26.8");
        let mut wasm = b"\0asm\x01\0\0\0\0".to_vec();
        wasm.push(u8::try_from(section.len()).unwrap());
        wasm.extend(section);
        assert_eq!(languages(&wasm), ["Go"]);
        assert!(languages(b"\0asm\x01\0\0\0").is_empty());
        assert!(languages(&wasm[..20]).is_empty());
    }

    #[test]
    fn a_module_that_takes_connections_is_a_server() {
        let engine = engine(Purpose::Compile(Target::General)).unwrap();
        let wat = r#"(module (import "wasi_snapshot_preview1" "sock_accept" (func (param i32 i32 i32) (result i32)))
            (func (export "_start")))"#;
        let server = of_module(&Module::new(&engine, wat).unwrap()).unwrap();
        assert!(server.takes_listeners() && !server.must_not_wait());
        assert!(Description { languages: vec!["Go".into()], ..server }.must_not_wait());
        let plain = of_module(&Module::new(&engine, r#"(module (func (export "_start")))"#).unwrap()).unwrap();
        assert!(!plain.takes_listeners());
    }
}
