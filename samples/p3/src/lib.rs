//! A command of WASI 0.3, where every call that waits is `async`:
//!
//! - `p3 [ARGS…]` – prints its arguments and its environment, and waits for two clocks at once
//! - `p3 tcp [PORT]` – echoes what its peers send
//! - `p3 connect HOST:PORT TEXT` – looks the host up, sends the text and prints what comes back

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};

use futures::future::join;
use wasip3::cli::{environment, stdout};
use wasip3::clocks::monotonic_clock::{now, wait_for};
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};
use wasip3::{spawn_local, wit_stream};

struct Command;

wasip3::cli::command::export!(Command);

impl wasip3::exports::cli::run::Guest for Command {
    async fn run() -> Result<(), ()> {
        let args = environment::get_arguments();
        let args: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
        let done = match args[..] {
            ["tcp"] => serve(7000).await,
            ["tcp", port] => serve(port.parse().map_err(|_| eprintln!("p3: not a port: {port}"))?).await,
            ["connect", peer, text] => connect(peer, text).await,
            _ => show(&args).await,
        };
        done.map_err(|code| eprintln!("p3: {code}"))
    }
}

async fn show(args: &[&str]) -> Result<(), ErrorCode> {
    let mut text = String::new();
    for arg in args {
        let _ = writeln!(text, "{arg}");
    }
    for (name, value) in environment::get_environment() {
        let _ = writeln!(text, "{name}={value}");
    }
    print(text).await;

    let start = now();
    join(wait_for(20_000_000), wait_for(20_000_000)).await;
    print(format!("waited twice 20 ms in {} ms\n", (now() - start) / 1_000_000)).await;
    Ok(())
}

async fn serve(port: u16) -> Result<(), ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.bind(IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (0, 0, 0, 0) }))?;
    let mut connections = socket.listen()?;
    print(format!("listening on {}\n", name(socket.get_local_address()?))).await;
    while let Some(peer) = connections.next().await {
        print(format!("peer {}\n", name(peer.get_remote_address()?))).await;
        spawn_local(async move {
            // What arrives is what is sent: the bytes need not pass through this guest.
            let (data, _) = peer.receive();
            let _ = peer.send(data).await;
        });
    }
    Ok(())
}

async fn connect(peer: &str, text: &str) -> Result<(), ErrorCode> {
    let (host, port) = peer.rsplit_once(':').ok_or(ErrorCode::InvalidArgument)?;
    let port = port.parse().map_err(|_| ErrorCode::InvalidArgument)?;
    let found = match resolve_addresses(host.to_owned()).await {
        Ok(found) => found,
        Err(code) => {
            eprintln!("p3: looking up {host}: {code}");
            return Err(ErrorCode::RemoteUnreachable);
        }
    };
    let address = found.into_iter().find_map(|address| match address {
        IpAddress::Ipv4(address) => Some(address),
        IpAddress::Ipv6(_) => None,
    });
    let address = address.ok_or(ErrorCode::RemoteUnreachable)?;
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.connect(IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address })).await?;
    print(format!("connected to {}\n", name(socket.get_remote_address()?))).await;
    let (mut writer, reader) = wit_stream::new();
    let (received, _) = socket.receive();
    let send = async {
        writer.write_all(text.as_bytes().to_vec()).await;
        drop(writer);
    };
    let (_, sent) = join(send, socket.send(reader).into_future()).await;
    sent?;
    let answer = received.collect().await;
    print(format!("{}\n", String::from_utf8_lossy(&answer))).await;
    Ok(())
}

fn name(address: IpSocketAddress) -> String {
    match address {
        IpSocketAddress::Ipv4(v4) => {
            let (a, b, c, d) = v4.address;
            SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), v4.port).to_string()
        }
        IpSocketAddress::Ipv6(v6) => format!("{v6:?}"),
    }
}

async fn print(text: String) {
    let (mut writer, reader) = wit_stream::new();
    let written = stdout::write_via_stream(reader);
    writer.write_all(text.into_bytes()).await;
    drop(writer);
    // A closed standard output is no reason to fail.
    let _ = written.await;
}
