//! A TCP server of WASI 0.1, with the listening sockets that it is handed from descriptor 3 up.
//!
//! ```text
//! serve            echoes, one connection after the other, with calls that wait
//! serve many       echoes, any number of connections at once, with poll(2)
//! serve fixed      the first two bytes of each connection, and the rest beside it: sock_recv as C has it
//! serve look       says what it was handed, and what it sees of it
//! serve hungry     takes connections and keeps them
//! ```

#[cfg(target_os = "wasi")]
mod wasi;

#[cfg(target_os = "wasi")]
fn main() -> std::io::Result<()> {
    wasi::main()
}

/// The workspace's tests are built for the machine at hand, which has other sockets.
#[cfg(not(target_os = "wasi"))]
fn main() {}
