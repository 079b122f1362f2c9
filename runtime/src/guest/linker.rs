//! Linkers: the host's functions for the interfaces that a guest imports, and for no others.

use super::kind::Description;
use super::state::ComponentState;
use super::{open, process, storage};
use crate::grants::Limits;
use crate::network::sockets;
use wasmtime::Engine;
use wasmtime::component::Linker;

/// The linker for a component. Filling one costs a few dozen microseconds an interface family, so only the families
/// that the guest imports are filled in.
///
/// # Errors
/// When the engine refuses a definition, or there is a limit that it cannot keep.
pub fn component(
    engine: &Engine,
    description: &Description,
    limits: &Limits,
) -> wasmtime::Result<Linker<ComponentState>> {
    let mut linker = Linker::new(engine);
    let imports = |family: &str, version: &str| {
        description.imports.iter().any(|name| {
            name.strip_prefix(family).and_then(|rest| rest.split_once('@')).is_some_and(|(_, v)| v.starts_with(version))
        })
    };
    if imports("wasi:", "0.2.") {
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        if imports("wasi:sockets/", "0.2.") {
            sockets::shadow_p2(&mut linker)?;
        }
        if imports("wasi:http/", "0.2.") {
            wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        }
    }
    if imports("wasi:", "0.3.") {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        if imports("wasi:sockets/", "0.3.") {
            sockets::shadow_p3(&mut linker)?;
        }
        if imports("wasi:http/", "0.3.") {
            wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        }
    }
    if limits.storage.is_some() {
        if imports("wasi:filesystem/", "0.3.") {
            wasmtime::bail!("the layer of a program for WASI 0.3 cannot be limited: leave --storage-opt out");
        }
        if imports("wasi:filesystem/", "0.2.") {
            storage::limit(&mut linker)?;
        }
    }
    let open_files = limits.open_files.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
    // A service is not one program, but as many instances as there are requests: it has no processes.
    if description.spawns() && !description.kind.is_service() {
        process::component::define(&mut linker, open_files)?;
    }
    if let Some(most) = open_files {
        if imports("wasi:filesystem/", "0.2.") {
            open::limit_files(&mut linker, most)?;
        }
        if imports("wasi:sockets/", "0.2.") {
            open::limit_sockets(&mut linker, most)?;
        }
        if imports("wasi:filesystem/", "0.3.") {
            open::limit_files3(&mut linker, most)?;
        }
        if imports("wasi:sockets/", "0.3.") {
            open::limit_sockets3(&mut linker, most)?;
        }
    }
    Ok(linker)
}
