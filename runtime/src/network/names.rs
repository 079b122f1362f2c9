//! Name look-up for guests: the view answers, since the sandbox has no resolver of its own.

use super::outside::Unresolved;
use super::sockets::Networked;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::p3::bindings::sockets::{ip_name_lookup as names3, types as p3};

type Looking = Pin<Box<dyn Future<Output = std::result::Result<Vec<IpAddr>, Unresolved>> + Send>>;

/// A look-up that is under way, or what it found and was not yet taken. Shadows the crate's resource of the same name,
/// which only the crate can make.
enum Found {
    Looking(Looking),
    Addresses(std::vec::IntoIter<IpAddr>),
    Nothing(ErrorCode),
}

impl Found {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Self::Looking(looking) = self {
            *self = match looking.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(addresses)) => Self::Addresses(addresses.into_iter()),
                Poll::Ready(Err(why)) => Self::Nothing(code2(&why)),
            };
        }
        Poll::Ready(())
    }
}

impl Pollable for Found {
    fn ready<'a, 'b>(&'a mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(std::future::poll_fn(|context| self.poll(context)))
    }
}

fn code2(why: &Unresolved) -> ErrorCode {
    match why {
        Unresolved::NoSuchName => ErrorCode::NameUnresolvable,
        Unresolved::Temporary(_) => ErrorCode::TemporaryResolverFailure,
        Unresolved::Denied => ErrorCode::AccessDenied,
    }
}

/// Puts the view's look-up in the place of the crate's, for WASI 0.2.
pub(super) fn shadow_p2<T: Networked + 'static>(linker: &mut Linker<T>) -> Result<()> {
    let mut names = linker.instance("wasi:sockets/ip-name-lookup@0.2.12")?;
    names.resource("resolve-address-stream", ResourceType::host::<Found>(), |mut store, rep| {
        store.data_mut().sockets().table.delete(Resource::<Found>::new_own(rep))?;
        Ok(())
    })?;
    names.func_wrap(
        "resolve-addresses",
        |mut store: StoreContextMut<'_, T>, (_, name): (Resource<Network>, String)| {
            let data = store.data_mut();
            let view = data.network().clone();
            let mut found = Found::Looking(Box::pin(async move { view.look_up(&name).await }));
            // What is denied is said at once.
            let _ = found.poll(&mut Context::from_waker(Waker::noop()));
            Ok((match found {
                Found::Nothing(code) => Err(code),
                found => Ok(data.sockets().table.push(found)?),
            },))
        },
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, T>, (this,): (Resource<Found>,)| {
            let sockets = store.data_mut().sockets();
            let found = sockets.table.get_mut(&this)?;
            let next: std::result::Result<Option<IpAddress>, ErrorCode> =
                match found.poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Pending => Err(ErrorCode::WouldBlock),
                    Poll::Ready(()) => match found {
                        Found::Addresses(addresses) => Ok(addresses.next().map(Into::into)),
                        Found::Nothing(code) => Err(*code),
                        Found::Looking(_) => Err(ErrorCode::WouldBlock),
                    },
                };
            Ok((next,))
        },
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, T>, (this,): (Resource<Found>,)| -> Result<(Resource<DynPollable>,)> {
            Ok((subscribe(store.data_mut().sockets().table, this)?,))
        },
    )
}

/// The same for WASI 0.3.
pub(super) fn shadow_p3<T: Networked + 'static>(linker: &mut Linker<T>) -> Result<()> {
    let mut names = linker.instance("wasi:sockets/ip-name-lookup@0.3.0")?;
    names.func_wrap_concurrent("resolve-addresses", |store, (name,): (String,)| {
        Box::pin(async move {
            let view = store.with(|mut s| s.get().network().clone());
            let found = view.look_up(&name).await;
            Ok((found.map(|all| all.into_iter().map(p3::IpAddress::from).collect::<Vec<_>>()).map_err(
                |why| match why {
                    Unresolved::NoSuchName => names3::ErrorCode::NameUnresolvable,
                    Unresolved::Temporary(_) => names3::ErrorCode::TemporaryResolverFailure,
                    Unresolved::Denied => names3::ErrorCode::AccessDenied,
                },
            ),))
        })
    })
}
