//! What a module hands over by address: lists of buffers and strings in its memory, and where answers go.

use rustix::io::Errno;
use wasmtime::{Caller, Extern, Memory};

/// The memory of a module, as `wasi_snapshot_preview1` names it.
///
/// # Errors
/// When the module has none, which ends it.
pub fn memory<T>(caller: &mut Caller<'_, T>) -> wasmtime::Result<Memory> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => wasmtime::bail!("the module exports no memory"),
    }
}

/// The address of a guest, from what the engine has for it.
pub fn address(value: i32) -> usize {
    value.cast_unsigned() as usize
}

/// A piece of memory.
///
/// # Errors
/// EFAULT when it is not all there.
pub fn slice(data: &[u8], start: usize, length: usize) -> Result<&[u8], Errno> {
    data.get(start..start.checked_add(length).ok_or(Errno::FAULT)?).ok_or(Errno::FAULT)
}

/// Reads so many bytes as a number, little-endian.
///
/// # Errors
/// EFAULT when they are not there.
pub fn number(data: &[u8], start: usize, length: usize) -> Result<u64, Errno> {
    Ok(slice(data, start, length)?.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// Puts bytes at an address.
///
/// # Errors
/// EFAULT when there is no room.
pub fn put(data: &mut [u8], start: usize, bytes: &[u8]) -> Result<(), Errno> {
    let end = start.checked_add(bytes.len()).ok_or(Errno::FAULT)?;
    data.get_mut(start..end).ok_or(Errno::FAULT)?.copy_from_slice(bytes);
    Ok(())
}

/// The buffers of an array of `iovec` or `ciovec`: where each is and how long.
///
/// # Errors
/// EFAULT when the array is not there.
pub fn buffers(data: &[u8], start: i32, count: i32) -> Result<Vec<(usize, usize)>, Errno> {
    let array = slice(data, address(start), address(count).checked_mul(8).ok_or(Errno::FAULT)?)?;
    let (entries, _) = array.as_chunks::<8>();
    let half = |bytes: &[u8; 8], at| number(bytes, at, 4).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    entries.iter().map(|entry| Ok((half(entry, 0)?, half(entry, 4)?))).collect()
}

/// Copies out what buffers hold, up to `most` bytes.
///
/// # Errors
/// EFAULT when one is not there.
pub fn gather(data: &[u8], buffers: &[(usize, usize)], most: usize) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    for (start, length) in buffers {
        let room = most.saturating_sub(all.len());
        all.extend_from_slice(slice(data, *start, *length)?.get(..room.min(*length)).unwrap_or_default());
    }
    Ok(all)
}

/// Copies bytes into buffers, one after the other.
///
/// # Errors
/// EFAULT when one is not there.
pub fn scatter(data: &mut [u8], buffers: &[(usize, usize)], mut bytes: &[u8]) -> Result<(), Errno> {
    for (start, length) in buffers {
        let (now, rest) = bytes.split_at(bytes.len().min(*length));
        put(data, *start, now)?;
        bytes = rest;
    }
    Ok(())
}

/// A string.
///
/// # Errors
/// EFAULT when it is not there, EILSEQ when it is not UTF-8, EINVAL when it has a NUL in it.
pub fn string(data: &[u8], start: usize, length: usize) -> Result<String, Errno> {
    let text = std::str::from_utf8(slice(data, start, length)?).map_err(|_| Errno::ILSEQ)?;
    if text.contains('\0') { Err(Errno::INVAL) } else { Ok(text.to_owned()) }
}

/// A list of strings, which may not be longer than `most` bytes together.
///
/// # Errors
/// E2BIG when they are longer, and what [`string`] says.
pub fn strings(data: &[u8], start: i32, count: i32, most: usize) -> Result<Vec<String>, Errno> {
    if address(count) > most / 8 {
        return Err(Errno::TOOBIG);
    }
    let places = buffers(data, start, count)?;
    if places.iter().fold(0usize, |sum, (_, length)| sum.saturating_add(*length)) > most {
        return Err(Errno::TOOBIG);
    }
    places.into_iter().map(|(start, length)| string(data, start, length)).collect()
}

/// WASI's number for an error (`errno` of WASI 0.1, typenames.witx); `io` for one that it has no name for.
#[must_use]
pub fn wasi_errno(errno: Errno) -> i32 {
    match errno {
        Errno::TOOBIG => 1,
        Errno::ACCESS => 2,
        Errno::ADDRINUSE => 3,
        Errno::AGAIN => 6,
        Errno::BADF => 8,
        Errno::CHILD => 12,
        Errno::CONNABORTED => 13,
        Errno::CONNRESET => 15,
        Errno::DQUOT => 19,
        Errno::FAULT => 21,
        Errno::FBIG => 22,
        Errno::HOSTUNREACH => 23,
        Errno::ILSEQ => 25,
        Errno::INTR => 27,
        Errno::INVAL => 28,
        Errno::ISDIR => 31,
        Errno::LOOP => 32,
        Errno::MFILE => 33,
        Errno::NAMETOOLONG => 37,
        Errno::NETDOWN => 38,
        Errno::NETRESET => 39,
        Errno::NETUNREACH => 40,
        Errno::NFILE => 41,
        Errno::NOBUFS => 42,
        Errno::NOENT => 44,
        Errno::NOEXEC => 45,
        Errno::NOMEM => 48,
        Errno::NOSPC => 51,
        Errno::NOSYS => 52,
        Errno::NOTCONN => 53,
        Errno::NOTDIR => 54,
        Errno::NOTSOCK => 57,
        Errno::NOTSUP => 58,
        Errno::OVERFLOW => 61,
        Errno::PERM => 63,
        Errno::PIPE => 64,
        Errno::ROFS => 69,
        Errno::SPIPE => 70,
        Errno::SRCH => 71,
        Errno::TIMEDOUT => 73,
        _ => 29,
    }
}

/// The system's number behind an error.
#[must_use]
pub fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// What a function answers: 0 or WASI's number of the error.
pub fn answer(result: Result<(), Errno>) -> i32 {
    result.map_or_else(wasi_errno, |()| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_of_memory_is_a_fault() {
        let mut data = vec![0; 32];
        put(&mut data, 0, &[16, 0, 0, 0, 4, 0, 0, 0]).unwrap();
        put(&mut data, 16, b"word").unwrap();
        assert_eq!(strings(&data, 0, 1, 100), Ok(vec!["word".to_owned()]));
        assert_eq!(strings(&data, 0, 1, 3), Err(Errno::TOOBIG));
        assert_eq!(buffers(&data, -1, 1), Err(Errno::FAULT));
        assert_eq!(buffers(&data, 0, -1), Err(Errno::FAULT));
        assert_eq!(string(&data, 30, 4), Err(Errno::FAULT));
        assert_eq!(string(&data, 15, 2), Err(Errno::INVAL));
        assert_eq!(put(&mut data, 31, b"ab"), Err(Errno::FAULT));
        assert_eq!(gather(&data, &[(16, 4), (16, 4)], 6), Ok(b"wordwo".to_vec()));
    }
}
