//! Removes an entry of a hash map and says what it was, in one step.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    Pod,
    maps::{MapData, MapError},
    sys::SyscallError,
};
use nix::{errno::Errno, libc};

/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM` of `enum bpf_cmd`; for hash maps since kernel 5.14 (commit
/// 3e87f192b405).
const LOOKUP_AND_DELETE: libc::c_long = 21;

/// The fields of `union bpf_attr` for work on one entry.
#[repr(C)]
struct Attr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// What was under `key`, which is gone now.
///
/// `map` must have keys and values of these types, which every typed map of `aya` has checked.
///
/// # Errors
/// The kernel's.
pub(crate) fn take<K: Pod, V: Pod + Default>(
    map: &MapData,
    key: &K,
) -> Result<Option<V>, MapError> {
    let mut value = V::default();
    let mut attr = Attr {
        map_fd: map.fd().as_fd().as_raw_fd() as u32,
        _pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        flags: 0,
    };
    // SAFETY: `attr` is laid out as the kernel's; its pointers are to a key and to room for a value
    // of the map's sizes, both alive, and every bit pattern is a value of a `Pod`.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_AND_DELETE, &mut attr, size_of::<Attr>()) };
    match Errno::result(result) {
        Ok(_) => Ok(Some(value)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => {
            let io_error = io::Error::from(error);
            Err(SyscallError { call: "bpf_map_lookup_and_delete_elem", io_error }.into())
        }
    }
}
