//! Starting programs: by the runtime's interface in a container, by the system's own means in the tests of the shell on
//! a machine of another kind.

#[cfg(target_family = "wasm")]
mod wasm;
#[cfg(target_family = "wasm")]
pub use wasm::{Program, exit, hard_link, id, is_not_executable, kill, pipe, spawn, wait};

#[cfg(not(target_family = "wasm"))]
mod native;
#[cfg(not(target_family = "wasm"))]
pub use native::{Program, exit, hard_link, id, is_not_executable, kill, pipe, spawn, wait};

/// The words for an error, without its number.
pub fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
