//! What takes too long for every change: `make test-long`.

#[cfg(test)]
mod calls;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod kubernetes;
#[cfg(test)]
mod load;
#[cfg(test)]
mod many;
#[cfg(test)]
mod together;
