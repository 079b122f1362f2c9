//! Generates the messages and stubs of the side service and of CRI.

use std::error::Error;
use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = std::env::var("OUT_DIR")?;
    Codegen::new()
        .out_dir(&out)
        .inputs(["proto/sandbox.proto"])
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(false))
        .customize(Customize { async_all: true, ..Customize::default() })
        .run()?;
    // The generated files open with inner attributes, which cannot stand in an included file.
    for name in ["sandbox.rs", "sandbox_ttrpc.rs"] {
        let path = std::path::Path::new(&out).join(name);
        let text = std::fs::read_to_string(&path)?;
        let inner = |l: &str| l.starts_with("#![") || l.starts_with("//!") || l.trim_start().starts_with("#[allow(");
        let kept: Vec<_> = text.lines().filter(|l| !inner(l)).collect();
        std::fs::write(&path, kept.join("\n"))?;
    }
    let cri = protox::compile(["cri/api.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(cri)?;
    Ok(())
}
