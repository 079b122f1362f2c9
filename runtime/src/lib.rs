//! What a Sampan container is: images, grants, files, network, guests and the sandboxes they run in.
//!
//! The folders stand in the order that data takes: settings → grants → sandbox → guest. Nothing here knows a
//! protocol or a terminal: those are the crates `sampan-shim` and `sampan`.

pub mod check;
pub mod config;
pub mod container;
mod digest;
pub mod events;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod grants;
pub mod guest;
pub mod image;
pub mod network;
pub mod registry;
pub mod rootfs;
pub mod sandbox;
pub mod store;
pub mod tail;

/// Where a user's own configuration lies: `$XDG_CONFIG_HOME`, or `~/.config`.
pub(crate) fn config_home() -> Option<std::path::PathBuf> {
    let env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(std::path::PathBuf::from);
    env("XDG_CONFIG_HOME").or_else(|| Some(env("HOME")?.join(".config")))
}

/// Lets all threads allocate from one heap: a sandbox has few, and a heap for each costs a start system calls and an
/// idle container memory. To be called before the first thread.
pub fn one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) only sets a limit of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}
