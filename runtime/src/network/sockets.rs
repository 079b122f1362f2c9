//! The thin wrapper over wasmtime-wasi's sockets: the same functions, with addresses translated on the way in and out.
//!
//! Only what names an address is defined again (over the crate's own definitions, by shadowing in the linker); what
//! moves bytes is the crate's, untouched.

use super::{Bound, Unreached, View, own, traffic};
use crate::grants::Protocol;
use std::net::SocketAddr;
use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::p2::bindings::sockets::network::{self as net2, ErrorCode, Host as _, IpSocketAddress};
use wasmtime_wasi::p2::bindings::sockets::tcp::HostTcpSocket as Tcp2;
use wasmtime_wasi::p2::bindings::sockets::udp::{
    self as udp2, HostIncomingDatagramStream as In2, HostOutgoingDatagramStream as Out2, HostUdpSocket as Udp2,
};
use wasmtime_wasi::p2::{SocketError, TcpSocket, UdpSocket};
use wasmtime_wasi::p3::bindings::sockets::types as p3;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};

/// A store's data that has a view of the network.
pub trait Networked: WasiSocketsView {
    /// The view of the container that the guest belongs to.
    fn network(&self) -> &View;
}

type Net = Resource<net2::Network>;
type Answer<T> = Result<(std::result::Result<T, ErrorCode>,)>;
type Answer3<T> = Result<(std::result::Result<T, p3::ErrorCode>,)>;

/// Turns the crate's error, which is either an answer for the guest or a trap, into what the linker wants.
fn answer<T: Networked, R>(data: &mut T, result: std::result::Result<R, SocketError>) -> Answer<R> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(data.sockets().convert_error_code(error)?),
    },))
}

fn answer3<R>(result: std::result::Result<R, wasmtime_wasi::p3::sockets::SocketError>) -> Answer3<R> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

/// Puts the view between WASI 0.2 guests and their sockets.
///
/// # Errors
/// When the linker refuses a definition.
pub fn shadow_p2<T: Networked + 'static>(linker: &mut Linker<T>) -> Result<()> {
    linker.allow_shadowing(true);
    let mut tcp = linker.instance("wasi:sockets/tcp@0.2.12")?;
    tcp.func_wrap_async(
        "[method]tcp-socket.start-bind",
        |mut store: StoreContextMut<'_, T>, (this, network, wanted): (Resource<TcpSocket>, Net, IpSocketAddress)| {
            Box::new(async move {
                let data = store.data_mut();
                let view = data.network().clone();
                let guest = SocketAddr::from(wanted);
                let (real, private) = match view.place(Protocol::Tcp, guest) {
                    Ok(placed) => placed,
                    Err(_) => return Ok((Err(ErrorCode::AccessDenied),)),
                };
                let same = Resource::new_borrow(this.rep());
                let bound = Tcp2::start_bind(&mut data.sockets(), this, network, real.into()).await;
                if bound.is_ok() {
                    let real = SocketAddr::from(Tcp2::local_address(&mut data.sockets(), same)?);
                    own::send_at_once(real);
                    view.bound(record(Protocol::Tcp, guest, real, private));
                }
                answer(data, bound)
            })
        },
    )?;
    tcp.func_wrap_async(
        "[method]tcp-socket.start-connect",
        |mut store: StoreContextMut<'_, T>, (this, network, wanted): (Resource<TcpSocket>, Net, IpSocketAddress)| {
            Box::new(async move {
                let data = store.data_mut();
                let view = data.network().clone();
                let real = match view.reach(Protocol::Tcp, wanted.into()).await {
                    Ok(real) => real,
                    Err(why) => return Ok((Err(refused(&why)),)),
                };
                // Bound here, so that the listener on the other side can tell its own guest from anybody else, and one
                // peer from another.
                let (same, net) = (|| Resource::new_borrow(this.rep()), || Resource::new_borrow(network.rep()));
                let mut sockets = data.sockets();
                let own = view.is_own(Protocol::Tcp, real);
                let from = match own {
                    true => Some(SocketAddr::new(super::view::localhost(real.ip()), 0)),
                    false => view.source(Protocol::Tcp, real),
                };
                if let Some(from) = from
                    && Tcp2::local_address(&mut sockets, same()).is_err()
                    && Tcp2::start_bind(&mut sockets, same(), net(), from.into()).await.is_ok()
                {
                    Tcp2::finish_bind(&mut sockets, same())?;
                }
                if own && let Ok(local) = Tcp2::local_address(&mut sockets, same()) {
                    view.own_client(SocketAddr::from(local).port());
                }
                let connected = Tcp2::start_connect(&mut sockets, this, network, real.into());
                answer(data, connected)
            })
        },
    )?;
    tcp.func_wrap(
        "[method]tcp-socket.accept",
        |mut store: StoreContextMut<'_, T>, (this,): (Resource<TcpSocket>,)| {
            let data = store.data_mut();
            let view = data.network().clone();
            let mut sockets = data.sockets();
            let accepted = Tcp2::accept(&mut sockets, this);
            if let Ok((socket, input, output)) = &accepted {
                let same = || Resource::new_borrow(socket.rep());
                let ends = Tcp2::local_address(&mut sockets, same()).and_then(|local| {
                    Ok((SocketAddr::from(local), SocketAddr::from(Tcp2::remote_address(&mut sockets, same())?)))
                });
                if let Ok((local, remote)) = ends
                    && !view.admits(local, remote)
                {
                    sockets.table.delete(Resource::<wasmtime_wasi::p2::DynInputStream>::new_own(input.rep()))?;
                    sockets.table.delete(Resource::<wasmtime_wasi::p2::DynOutputStream>::new_own(output.rep()))?;
                    sockets.table.delete(Resource::<TcpSocket>::new_own(socket.rep()))?;
                    return Ok((Err(ErrorCode::WouldBlock),));
                }
                traffic::count(sockets.table, view.traffic(), input, output)?;
            }
            answer(data, accepted)
        },
    )?;
    tcp.func_wrap(
        "[method]tcp-socket.finish-connect",
        |mut store: StoreContextMut<'_, T>, (this,): (Resource<TcpSocket>,)| {
            let data = store.data_mut();
            let view = data.network().clone();
            let mut sockets = data.sockets();
            let connected = Tcp2::finish_connect(&mut sockets, this);
            if let Ok((input, output)) = &connected {
                traffic::count(sockets.table, view.traffic(), input, output)?;
            }
            answer(data, connected)
        },
    )?;
    tcp.func_wrap("[method]tcp-socket.local-address", |mut store: StoreContextMut<'_, T>, (this,)| {
        let real = Tcp2::local_address(&mut store.data_mut().sockets(), this);
        seen_here(store.data_mut(), Protocol::Tcp, real)
    })?;
    tcp.func_wrap("[method]tcp-socket.remote-address", |mut store: StoreContextMut<'_, T>, (this,)| {
        let real = Tcp2::remote_address(&mut store.data_mut().sockets(), this);
        seen(store.data_mut(), Protocol::Tcp, real)
    })?;
    super::names::shadow_p2(linker)?;
    shadow_udp2(linker)
}

fn shadow_udp2<T: Networked + 'static>(linker: &mut Linker<T>) -> Result<()> {
    let mut udp = linker.instance("wasi:sockets/udp@0.2.12")?;
    udp.func_wrap_async(
        "[method]udp-socket.start-bind",
        |mut store: StoreContextMut<'_, T>, (this, network, wanted): (Resource<UdpSocket>, Net, IpSocketAddress)| {
            Box::new(async move {
                let data = store.data_mut();
                let view = data.network().clone();
                let guest = SocketAddr::from(wanted);
                let (real, private) = match view.place(Protocol::Udp, guest) {
                    Ok(placed) => placed,
                    Err(_) => return Ok((Err(ErrorCode::AccessDenied),)),
                };
                let same = Resource::new_borrow(this.rep());
                let bound = Udp2::start_bind(&mut data.sockets(), this, network, real.into()).await;
                if bound.is_ok() {
                    let real = SocketAddr::from(Udp2::local_address(&mut data.sockets(), same)?);
                    view.bound(record(Protocol::Udp, guest, real, private));
                }
                answer(data, bound)
            })
        },
    )?;
    udp.func_wrap_async(
        "[method]udp-socket.stream",
        |mut store: StoreContextMut<'_, T>, (this, remote): (Resource<UdpSocket>, Option<IpSocketAddress>)| {
            Box::new(async move {
                let data = store.data_mut();
                let view = data.network().clone();
                let remote = match remote {
                    None => None,
                    Some(guest) => match view.reach_datagram(guest.into()).await {
                        Ok(real) => Some(real.into()),
                        Err(why) => return Ok((Err(refused(&why)),)),
                    },
                };
                let streams = Udp2::stream(&mut data.sockets(), this, remote).await;
                answer(data, streams)
            })
        },
    )?;
    udp.func_wrap("[method]udp-socket.local-address", |mut store: StoreContextMut<'_, T>, (this,)| {
        let real = Udp2::local_address(&mut store.data_mut().sockets(), this);
        seen_here(store.data_mut(), Protocol::Udp, real)
    })?;
    udp.func_wrap("[method]udp-socket.remote-address", |mut store: StoreContextMut<'_, T>, (this,)| {
        let real = Udp2::remote_address(&mut store.data_mut().sockets(), this);
        seen(store.data_mut(), Protocol::Udp, real)
    })?;
    udp.func_wrap(
        "[method]incoming-datagram-stream.receive",
        |mut store: StoreContextMut<'_, T>, (this, most): (Resource<udp2::IncomingDatagramStream>, u64)| {
            let data = store.data_mut();
            let mut received = In2::receive(&mut data.sockets(), this, most);
            for datagram in received.iter_mut().flatten() {
                data.network().traffic().receive(datagram.data.len());
                let real = SocketAddr::from(datagram.remote_address);
                datagram.remote_address = data.network().received_from(real).into();
            }
            answer(data, received)
        },
    )?;
    udp.func_wrap_async(
        "[method]outgoing-datagram-stream.send",
        |mut store: StoreContextMut<'_, T>,
         (this, mut datagrams): (Resource<udp2::OutgoingDatagramStream>, Vec<udp2::OutgoingDatagram>)| {
            Box::new(async move {
                let data = store.data_mut();
                let view = data.network().clone();
                let sizes: Vec<usize> = datagrams.iter().map(|datagram| datagram.data.len()).collect();
                for datagram in &mut datagrams {
                    if let Some(guest) = datagram.remote_address {
                        match view.reach_datagram(guest.into()).await {
                            Ok(real) => datagram.remote_address = Some(real.into()),
                            Err(why) => return Ok((Err(refused(&why)),)),
                        }
                    }
                }
                let sent = Out2::send(&mut data.sockets(), this, datagrams);
                let count = sent.as_ref().map_or(0, |count| usize::try_from(*count).unwrap_or(usize::MAX));
                view.traffic().send(sizes.into_iter().take(count).sum());
                answer(data, sent)
            })
        },
    )
}

fn refused(why: &Unreached) -> ErrorCode {
    match why {
        Unreached::Denied(_) => ErrorCode::AccessDenied,
        Unreached::NobodyListens => ErrorCode::ConnectionRefused,
    }
}

fn refused3(why: &Unreached) -> p3::ErrorCode {
    match why {
        Unreached::Denied(_) => p3::ErrorCode::AccessDenied,
        Unreached::NobodyListens => p3::ErrorCode::ConnectionRefused,
    }
}

fn record(protocol: Protocol, guest: SocketAddr, real: SocketAddr, private: bool) -> Bound {
    let port = if guest.port() == 0 { real.port() } else { guest.port() };
    Bound { protocol, guest: SocketAddr::new(guest.ip(), port), real, private }
}

/// The guest's own end of a socket.
fn seen_here<T: Networked>(
    data: &mut T,
    protocol: Protocol,
    real: std::result::Result<IpSocketAddress, SocketError>,
) -> Answer<IpSocketAddress> {
    let seen = real.map(|real| data.network().seen_here(protocol, real.into()).into());
    answer(data, seen)
}

fn seen<T: Networked>(
    data: &mut T,
    protocol: Protocol,
    real: std::result::Result<IpSocketAddress, SocketError>,
) -> Answer<IpSocketAddress> {
    let seen = real.map(|real| data.network().seen(protocol, real.into()).into());
    answer(data, seen)
}

/// Puts the view between WASI 0.3 guests and their sockets.
///
/// # Errors
/// When the linker refuses a definition.
pub fn shadow_p3<T: Networked + 'static>(linker: &mut Linker<T>) -> Result<()> {
    use p3::{
        HostTcpSocket as Tcp3, HostTcpSocketWithStore as Connect3, HostUdpSocket as Udp3,
        HostUdpSocketWithStore as Datagrams3,
    };
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:sockets/types@0.3.0")?;
    types.func_wrap_async(
        "[method]tcp-socket.bind",
        |mut store: StoreContextMut<'_, T>, (this, wanted): (Resource<p3::TcpSocket>, p3::IpSocketAddress)| {
            Box::new(async move {
                let data = store.data_mut();
                let view = data.network().clone();
                let guest = SocketAddr::from(wanted);
                let (real, private) = match view.place(Protocol::Tcp, guest) {
                    Ok(placed) => placed,
                    Err(_) => return Ok((Err(p3::ErrorCode::AccessDenied),)),
                };
                let same = Resource::new_borrow(this.rep());
                let bound = Tcp3::bind(&mut data.sockets(), this, real.into()).await;
                if bound.is_ok() {
                    let real = SocketAddr::from(Tcp3::get_local_address(&mut data.sockets(), same)?);
                    own::send_at_once(real);
                    view.bound(record(Protocol::Tcp, guest, real, private));
                }
                answer3(bound)
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]tcp-socket.connect",
        |store, (this, wanted): (Resource<p3::TcpSocket>, p3::IpSocketAddress)| {
            Box::pin(async move {
                let view = store.with(|mut s| s.get().network().clone());
                let real = match view.reach(Protocol::Tcp, wanted.into()).await {
                    Ok(real) => real,
                    Err(why) => return Ok((Err(refused3(&why)),)),
                };
                // As for 0.2: bound first, so that the listener can tell its own guest from anybody else.
                let same = || Resource::new_borrow(this.rep());
                store.with(|mut s| -> Result<_> {
                    let own = view.is_own(Protocol::Tcp, real);
                    let from = match own {
                        true => Some(SocketAddr::new(super::view::localhost(real.ip()), 0)),
                        false => view.source(Protocol::Tcp, real),
                    };
                    let Some(from) = from else { return Ok(()) };
                    let mut sockets = s.get().sockets();
                    if Tcp3::get_local_address(&mut sockets, same()).is_err() {
                        // Binding waits for nothing: the check of the address answers at once.
                        let bind = Tcp3::bind(&mut sockets, same(), from.into());
                        let _ = futures::FutureExt::now_or_never(bind);
                    }
                    let local = Tcp3::get_local_address(&mut sockets, same()).ok().map(SocketAddr::from);
                    if let Some(local) = local.filter(|_| own) {
                        view.own_client(local.port());
                    }
                    Ok(())
                })?;
                let sockets = store.with_getter::<WasiSockets>(T::sockets);
                answer3(<WasiSockets as Connect3<T>>::connect(&sockets, this, real.into()).await)
            })
        },
    )?;
    types.func_wrap("[method]tcp-socket.get-local-address", |mut store: StoreContextMut<'_, T>, (this,)| {
        let real = Tcp3::get_local_address(&mut store.data_mut().sockets(), this);
        seen3_here(store.data_mut(), Protocol::Tcp, real)
    })?;
    types.func_wrap("[method]tcp-socket.get-remote-address", |mut store: StoreContextMut<'_, T>, (this,)| {
        let real = Tcp3::get_remote_address(&mut store.data_mut().sockets(), this);
        seen3(store.data_mut(), Protocol::Tcp, real)
    })?;
    types.func_wrap_async(
        "[method]udp-socket.bind",
        |mut store: StoreContextMut<'_, T>, (this, wanted): (Resource<p3::UdpSocket>, p3::IpSocketAddress)| {
            Box::new(async move {
                let data = store.data_mut();
                let view = data.network().clone();
                let guest = SocketAddr::from(wanted);
                let (real, private) = match view.place(Protocol::Udp, guest) {
                    Ok(placed) => placed,
                    Err(_) => return Ok((Err(p3::ErrorCode::AccessDenied),)),
                };
                let same = Resource::new_borrow(this.rep());
                let bound = Udp3::bind(&mut data.sockets(), this, real.into()).await;
                if bound.is_ok() {
                    let real = SocketAddr::from(Udp3::get_local_address(&mut data.sockets(), same)?);
                    view.bound(record(Protocol::Udp, guest, real, private));
                }
                answer3(bound)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]udp-socket.connect",
        |mut store: StoreContextMut<'_, T>, (this, wanted): (Resource<p3::UdpSocket>, p3::IpSocketAddress)| {
            Box::new(async move {
                let data = store.data_mut();
                let view = data.network().clone();
                let real = match view.reach_datagram(wanted.into()).await {
                    Ok(real) => real,
                    Err(why) => return Ok((Err(refused3(&why)),)),
                };
                answer3(Udp3::connect(&mut data.sockets(), this, real.into()).await)
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]udp-socket.send",
        |store, (this, data, wanted): (Resource<p3::UdpSocket>, Vec<u8>, Option<p3::IpSocketAddress>)| {
            Box::pin(async move {
                let view = store.with(|mut s| s.get().network().clone());
                let real = match wanted {
                    None => None,
                    Some(guest) => match view.reach_datagram(guest.into()).await {
                        Ok(real) => Some(real),
                        Err(why) => return Ok((Err(refused3(&why)),)),
                    },
                };
                view.traffic().send(data.len());
                let sockets = store.with_getter::<WasiSockets>(T::sockets);
                answer3(<WasiSockets as Datagrams3<T>>::send(&sockets, this, data, real.map(Into::into)).await)
            })
        },
    )?;
    types.func_wrap_concurrent("[method]udp-socket.receive", |store, (this,): (Resource<p3::UdpSocket>,)| {
        Box::pin(async move {
            let sockets = store.with_getter::<WasiSockets>(T::sockets);
            let received = <WasiSockets as Datagrams3<T>>::receive(&sockets, this).await;
            answer3(received.map(|(data, from)| {
                let real = SocketAddr::from(from);
                let seen = store.with(|mut s| {
                    let view = s.get().network().clone();
                    view.traffic().receive(data.len());
                    view.received_from(real)
                });
                (data, p3::IpSocketAddress::from(seen))
            }))
        })
    })?;
    types.func_wrap("[method]udp-socket.get-local-address", |mut store: StoreContextMut<'_, T>, (this,)| {
        let real = Udp3::get_local_address(&mut store.data_mut().sockets(), this);
        seen3_here(store.data_mut(), Protocol::Udp, real)
    })?;
    super::names::shadow_p3(linker)
}

/// The guest's own end of a socket.
fn seen3_here<T: Networked>(
    data: &T,
    protocol: Protocol,
    real: std::result::Result<p3::IpSocketAddress, wasmtime_wasi::p3::sockets::SocketError>,
) -> Answer3<p3::IpSocketAddress> {
    answer3(real.map(|real| data.network().seen_here(protocol, real.into()).into()))
}

fn seen3<T: Networked>(
    data: &T,
    protocol: Protocol,
    real: std::result::Result<p3::IpSocketAddress, wasmtime_wasi::p3::sockets::SocketError>,
) -> Answer3<p3::IpSocketAddress> {
    answer3(real.map(|real| data.network().seen(protocol, real.into()).into()))
}
