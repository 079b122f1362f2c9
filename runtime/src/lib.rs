//! What a Sampan container is: images, grants, files, network, guests and the sandboxes they run in.
//!
//! The folders stand in the order that data takes: settings → grants → sandbox → guest. Nothing here knows a
//! protocol or a terminal: those are the crates `sampan-shim` and `sampan`.

pub mod container;
pub mod grants;
pub mod guest;
pub mod image;
pub mod network;
pub mod rootfs;
pub mod sandbox;
pub mod store;
