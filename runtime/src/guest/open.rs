//! How many files and sockets a component may have open: the functions that make one, with a look at how
//! many there are (over the crate's own definitions, by shadowing in the linker).

use super::process::component::Handle;
use crate::network::sockets::Networked;
use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types::{self as files, HostDescriptor};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, Host as _, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::{tcp_create_socket, udp_create_socket};
use wasmtime_wasi::p2::{TcpSocket, UdpSocket};
use wasmtime_wasi::p3::bindings::filesystem::types as files3;
use wasmtime_wasi::p3::bindings::sockets::types as sockets3;

/// The standard streams, which are in no table.
const STREAMS: usize = 3;

/// Whether a guest whose table this is has as many open as it may.
pub(super) fn is_full(table: &mut ResourceTable, most: usize) -> bool {
    let open = |entry: &&mut (dyn std::any::Any + Send)| {
        entry.is::<Descriptor>()
            || entry.is::<TcpSocket>()
            || entry.is::<UdpSocket>()
            || entry.is::<sockets3::TcpSocket>()
            || entry.is::<sockets3::UdpSocket>()
            || entry.is::<Handle>()
    };
    STREAMS + table.iter_mut().filter(open).count() >= most
}

type OpenAt = (Resource<Descriptor>, files::PathFlags, String, files::OpenFlags, files::DescriptorFlags);

/// Limits the files of guests of WASI 0.2 that import them.
///
/// # Errors
/// When the linker refuses a definition.
pub(super) fn limit_files<T: WasiFilesystemView + 'static>(linker: &mut Linker<T>, most: usize) -> Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:filesystem/types@0.2.12")?;
    types.func_wrap_async("[method]descriptor.open-at", move |mut store: StoreContextMut<'_, T>, all: OpenAt| {
        Box::new(async move {
            let mut view = store.data_mut().filesystem();
            if is_full(view.table, most) {
                return Ok((Err(files::ErrorCode::Quota),));
            }
            let (dir, path_flags, path, open_flags, flags) = all;
            let opened = HostDescriptor::open_at(&mut view, dir, path_flags, path, open_flags, flags).await;
            Ok((match opened {
                Ok(file) => Ok(file),
                Err(error) => Err(files::Host::convert_error_code(&mut view, error)?),
            },))
        })
    })
}

/// Limits the sockets of guests of WASI 0.2 that import them.
///
/// # Errors
/// When the linker refuses a definition.
pub(super) fn limit_sockets<T: Networked + 'static>(linker: &mut Linker<T>, most: usize) -> Result<()> {
    linker.allow_shadowing(true);
    let mut tcp = linker.instance("wasi:sockets/tcp-create-socket@0.2.12")?;
    tcp.func_wrap("create-tcp-socket", move |mut store: StoreContextMut<'_, T>, (family,): (IpAddressFamily,)| {
        let mut sockets = store.data_mut().sockets();
        if is_full(sockets.table, most) {
            return Ok((Err(ErrorCode::NewSocketLimit),));
        }
        Ok((match tcp_create_socket::Host::create_tcp_socket(&mut sockets, family) {
            Ok(socket) => Ok(socket),
            Err(error) => Err(sockets.convert_error_code(error)?),
        },))
    })?;
    let mut udp = linker.instance("wasi:sockets/udp-create-socket@0.2.12")?;
    udp.func_wrap_async("create-udp-socket", move |mut store: StoreContextMut<'_, T>, (family,): (IpAddressFamily,)| {
        Box::new(async move {
            let mut sockets = store.data_mut().sockets();
            if is_full(sockets.table, most) {
                return Ok((Err(ErrorCode::NewSocketLimit),));
            }
            Ok((match udp_create_socket::Host::create_udp_socket(&mut sockets, family).await {
                Ok(socket) => Ok(socket),
                Err(error) => Err(sockets.convert_error_code(error)?),
            },))
        })
    })
}

/// Limits the files of guests of WASI 0.3 that import them.
///
/// # Errors
/// When the linker refuses a definition.
pub(super) fn limit_files3<T: WasiFilesystemView + 'static>(linker: &mut Linker<T>, most: usize) -> Result<()> {
    type OpenAt3 = (Resource<Descriptor>, files3::PathFlags, String, files3::OpenFlags, files3::DescriptorFlags);
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:filesystem/types@0.3.0")?;
    types.func_wrap_concurrent("[method]descriptor.open-at", move |store, all: OpenAt3| {
        Box::pin(async move {
            if store.with(|mut s| is_full(s.get().filesystem().table, most)) {
                return Ok((Err(files3::ErrorCode::Quota),));
            }
            let (dir, path_flags, path, open_flags, flags) = all;
            let view = store.with_getter::<WasiFilesystem>(T::filesystem);
            let opened = <WasiFilesystem as files3::HostDescriptorWithStore<T>>::open_at(
                &view, dir, path_flags, path, open_flags, flags,
            );
            Ok((match opened.await {
                Ok(file) => Ok(file),
                Err(error) => Err(error.downcast()?),
            },))
        })
    })
}

/// Limits the sockets of guests of WASI 0.3 that import them.
///
/// # Errors
/// When the linker refuses a definition.
pub(super) fn limit_sockets3<T: Networked + 'static>(linker: &mut Linker<T>, most: usize) -> Result<()> {
    use sockets3::{ErrorCode, IpAddressFamily};
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:sockets/types@0.3.0")?;
    types.func_wrap(
        "[static]tcp-socket.create",
        move |mut store: StoreContextMut<'_, T>, (family,): (IpAddressFamily,)| {
            let mut sockets = store.data_mut().sockets();
            if is_full(sockets.table, most) {
                return Ok((Err(ErrorCode::OutOfMemory),));
            }
            Ok((match sockets3::HostTcpSocket::create(&mut sockets, family) {
                Ok(socket) => Ok(socket),
                Err(error) => Err(error.downcast()?),
            },))
        },
    )?;
    types.func_wrap_async(
        "[static]udp-socket.create",
        move |mut store: StoreContextMut<'_, T>, (family,): (IpAddressFamily,)| {
            Box::new(async move {
                let mut sockets = store.data_mut().sockets();
                if is_full(sockets.table, most) {
                    return Ok((Err(ErrorCode::OutOfMemory),));
                }
                Ok((match sockets3::HostUdpSocket::create(&mut sockets, family).await {
                    Ok(socket) => Ok(socket),
                    Err(error) => Err(error.downcast()?),
                },))
            })
        },
    )
}
