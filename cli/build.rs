//! How the binary is linked: statically and at a fixed address. A program that can be loaded anywhere has its million
//! bytes of pointers relocated at each start, which cost 0.6 ms of a start's 2 (docs/performance.md); what a guest can
//! reach (its code, its memory, heaps, stacks) is placed by chance all the same.
//!
//! And with the functions that a start runs side by side, in the order of `hot.order` (`make hot` finds them out): a start
//! then touches a third fewer pages, which is worth as much. LLD knows how, the linker that rustc brings for this target.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=hot.order");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo:rustc-link-arg-bins=-static");
        println!("cargo:rustc-link-arg-bins=-no-pie");
        if is("CARGO_CFG_TARGET_ARCH", "x86_64") {
            let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
            println!("cargo:rustc-link-arg-bins=-Wl,--symbol-ordering-file={dir}/hot.order");
            // A list that is older than the code names functions that are no more.
            println!("cargo:rustc-link-arg-bins=-Wl,--no-warn-symbol-ordering");
        }
    }
}
