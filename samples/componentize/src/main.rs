//! `componentize MODULE --adapter command|proxy|reactor -o OUT`: turns a core module that speaks WASI 0.1 into a
//! component. The adapter answers the module's WASI 0.1 calls through WASI 0.2:
//!
//! - `command` for a program with a `main`;
//! - `proxy` for a library that exports an HTTP handler and needs little else;
//! - `reactor` for any other library, such as one that exports a WASI 0.3 world.
//!
//! The module should export `cabi_realloc`, as one that uses crate `wasip2` or `wasip3` does. Without it the adapter adds a
//! page of its own to the memory, which the allocator of an old C library (Debian's) takes for a part of its heap.

use std::{env, fs};

use anyhow::{Context, Result, bail};
use wasi_preview1_component_adapter_provider as adapters;
use wit_component::ComponentEncoder;

const USAGE: &str = "usage: componentize MODULE --adapter command|proxy|reactor -o OUT";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [module, "--adapter", adapter, "-o", out] = args.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
        bail!(USAGE);
    };
    let adapter = match adapter {
        "command" => adapters::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        "proxy" => adapters::WASI_SNAPSHOT_PREVIEW1_PROXY_ADAPTER,
        "reactor" => adapters::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
        _ => bail!(USAGE),
    };
    let bytes = fs::read(module).with_context(|| format!("cannot read {module}"))?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&bytes)?
        .adapter(adapters::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?
        .encode()
        .with_context(|| format!("cannot make a component of {module}"))?;
    fs::write(out, component).with_context(|| format!("cannot write {out}"))
}
