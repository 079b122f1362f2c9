//! How the binary is linked: statically and at a fixed address. A program that can be loaded anywhere has its million
//! bytes of pointers relocated at each start, which cost 0.6 ms of a start's 2 (docs/performance.md); what a guest can
//! reach (its code, its memory, heaps, stacks) is placed by chance all the same.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo:rustc-link-arg-bins=-static");
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
