//! Sockets of WASI 0.2, each way that a program can use them:
//!
//! - `tcp [PORT]` – echoes what its peers send; the port may also come from the variable PORT
//! - `tcp udp [PORT]` – the same with datagrams
//! - `tcp connect HOST:PORT [TEXT]` – connects, sends the text and prints the answer
//! - `tcp lookup NAME` – prints the addresses of a name
//! - `tcp loopback` – talks to itself
//! - `tcp sockets COUNT` – makes so many sockets, and says how many it got

mod address;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use wasip2::io::poll::{Pollable, poll};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, Network};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::OutgoingDatagram;
use wasip2::sockets::udp_create_socket::create_udp_socket;

use address::{family, from_wasi, ip, parse, to_wasi};

const DEFAULT_PORT: &str = "7000";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let port = std::env::var("PORT").unwrap_or_else(|_| DEFAULT_PORT.into());
    let done = match args[..] {
        [] => serve(&port),
        ["udp"] => serve_udp(&port),
        ["udp", port] => serve_udp(port),
        ["connect", peer] => connect(peer, ""),
        ["connect", peer, text] => connect(peer, text),
        ["lookup", name] => lookup(name),
        ["loopback"] => loopback(),
        ["sockets", count] => sockets(count),
        [port] => serve(port),
        _ => Err("usage: tcp [PORT] | udp [PORT] | connect HOST:PORT [TEXT] | lookup NAME | loopback | sockets COUNT".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(why)) => {
            eprintln!("tcp: {}: {why}", args.join(" "));
            ExitCode::FAILURE
        }
    }
}

/// What went wrong, by the name that WASI has for it.
struct Failure(String);

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self(code.name().into())
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        Self(error.to_string())
    }
}

impl From<&str> for Failure {
    fn from(why: &str) -> Self {
        Self(why.into())
    }
}

/// Asks again until the answer is another than "not yet".
fn finish<T>(ready: Pollable, step: impl Fn() -> Result<T, ErrorCode>) -> Result<T, ErrorCode> {
    loop {
        match step() {
            Err(ErrorCode::WouldBlock) => ready.block(),
            done => return done,
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpSocket, ErrorCode> {
    let socket = create_tcp_socket(family(address))?;
    socket.start_bind(&instance_network(), to_wasi(address))?;
    finish(socket.subscribe(), || socket.finish_bind())?;
    socket.start_listen()?;
    finish(socket.subscribe(), || socket.finish_listen())?;
    Ok(socket)
}

fn dial(network: &Network, address: SocketAddr) -> Result<(TcpSocket, InputStream, OutputStream), ErrorCode> {
    let socket = create_tcp_socket(family(address))?;
    socket.start_connect(network, to_wasi(address))?;
    let (input, output) = finish(socket.subscribe(), || socket.finish_connect())?;
    Ok((socket, input, output))
}

fn sockets(count: &str) -> Result<(), Failure> {
    let count: usize = count.parse().map_err(|_| "a number of sockets is wanted")?;
    let mut all = Vec::new();
    let mut refused = None;
    while all.len() < count && refused.is_none() {
        match create_tcp_socket(IpAddressFamily::Ipv4) {
            Ok(socket) => all.push(socket),
            Err(error) => refused = Some(error),
        }
    }
    let refused = refused.map_or_else(String::new, |error| format!(": {}", error.name()));
    println!("{} sockets{refused}", all.len());
    Ok(())
}

/// One connection. The fields are dropped in this order, which is the one that WASI asks for: children first.
struct Peer {
    ready: Pollable,
    input: InputStream,
    output: OutputStream,
    _socket: TcpSocket,
}

impl Peer {
    /// Sends back what is there and then waits for more, or, while the peer takes nothing, for the peer.
    fn step(&mut self) -> Result<(), StreamError> {
        let room = self.output.check_write()?;
        if room == 0 {
            self.ready = self.output.subscribe();
            return Ok(());
        }
        self.output.splice(&self.input, room)?;
        self.ready = self.input.subscribe();
        Ok(())
    }
}

fn serve(port: &str) -> Result<(), Failure> {
    let listener = listen(parse(port)?)?;
    let incoming = listener.subscribe();
    println!("listening on {}", from_wasi(listener.local_address()?));
    let mut peers: Vec<Peer> = Vec::new();
    loop {
        let waiting: Vec<&Pollable> = std::iter::once(&incoming)
            .chain(peers.iter().map(|peer| &peer.ready))
            .collect();
        let ready = poll(&waiting);
        // From the last to the first, so that one that has gone does not move those still to be looked at.
        for index in ready.into_iter().rev() {
            match (index as usize).checked_sub(1) {
                Some(peer) => {
                    if peers[peer].step().is_err() {
                        peers.swap_remove(peer);
                    }
                }
                None => match listener.accept() {
                    Ok((socket, input, output)) => {
                        println!("peer {}", from_wasi(socket.remote_address()?));
                        peers.push(Peer {
                            ready: input.subscribe(),
                            input,
                            output,
                            _socket: socket,
                        });
                    }
                    Err(ErrorCode::WouldBlock) => {}
                    // The listener is closed when the container is to stop.
                    Err(code) => {
                        eprintln!("tcp: accept: {}", code.name());
                        return Ok(());
                    }
                },
            }
        }
    }
}

fn serve_udp(port: &str) -> Result<(), Failure> {
    let address = parse(port)?;
    let socket = create_udp_socket(family(address))?;
    socket.start_bind(&instance_network(), to_wasi(address))?;
    finish(socket.subscribe(), || socket.finish_bind())?;
    let (incoming, outgoing) = socket.stream(None)?;
    println!("listening on {}", from_wasi(socket.local_address()?));
    loop {
        incoming.subscribe().block();
        for datagram in incoming.receive(16)? {
            println!("peer {}", from_wasi(datagram.remote_address));
            while outgoing.check_send()? == 0 {
                outgoing.subscribe().block();
            }
            outgoing.send(&[OutgoingDatagram {
                data: datagram.data,
                remote_address: Some(datagram.remote_address),
            }])?;
        }
    }
}

fn connect(peer: &str, text: &str) -> Result<(), Failure> {
    let network = instance_network();
    let address = match peer.parse() {
        Ok(address) => address,
        Err(_) => {
            let (host, port) = peer.rsplit_once(':').ok_or("not HOST:PORT")?;
            let port = port.parse().map_err(|_| "not HOST:PORT")?;
            SocketAddr::new(*resolve(&network, host)?.first().ok_or("no address")?, port)
        }
    };
    let (socket, input, output) = dial(&network, address)?;
    println!(
        "connected from {} to {}",
        from_wasi(socket.local_address()?),
        from_wasi(socket.remote_address()?)
    );
    send(&output, text.as_bytes())?;
    socket.shutdown(ShutdownType::Send)?;
    println!("{}", String::from_utf8_lossy(&receive(&input)?));
    Ok(())
}

fn send(output: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    // 4096 is what one such call may carry at most.
    bytes
        .chunks(4096)
        .try_for_each(|chunk| output.blocking_write_and_flush(chunk))
}

fn receive(input: &InputStream) -> Result<Vec<u8>, StreamError> {
    let mut all = Vec::new();
    loop {
        match input.blocking_read(4096) {
            Ok(chunk) => all.extend(chunk),
            Err(StreamError::Closed) => return Ok(all),
            Err(error) => return Err(error),
        }
    }
}

fn lookup(name: &str) -> Result<(), Failure> {
    for address in resolve(&instance_network(), name)? {
        println!("{address}");
    }
    Ok(())
}

fn resolve(network: &Network, name: &str) -> Result<Vec<IpAddr>, ErrorCode> {
    let stream = resolve_addresses(network, name)?;
    let mut addresses = Vec::new();
    while let Some(address) = finish(stream.subscribe(), || stream.resolve_next_address())? {
        addresses.push(ip(address));
    }
    Ok(addresses)
}

fn loopback() -> Result<(), Failure> {
    let listener = listen(parse("127.0.0.1:0")?)?;
    let address = from_wasi(listener.local_address()?);
    println!("listening on {address}");
    let (near, near_in, near_out) = dial(&instance_network(), address)?;
    let (far, far_in, far_out) = finish(listener.subscribe(), || listener.accept())?;
    if from_wasi(near.local_address()?) != from_wasi(far.remote_address()?) {
        return Err("the two ends do not agree on their addresses".into());
    }
    for (socket, output, input, text) in [(&near, near_out, &far_in, "ping"), (&far, far_out, &near_in, "pong")] {
        send(&output, text.as_bytes())?;
        socket.shutdown(ShutdownType::Send)?;
        if receive(input)? != text.as_bytes() {
            return Err("other bytes arrived than were sent".into());
        }
    }
    println!("loopback ok");
    Ok(())
}
