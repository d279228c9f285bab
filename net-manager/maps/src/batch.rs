//! Reads a map many entries a system call, instead of two calls an entry: a full flow table is
//! read in a fraction of a second.

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

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`; for hash maps since kernel 5.6 (commit 057996380a42).
const LOOKUP_BATCH: libc::c_long = 24;

/// Entries asked for in one call.
const ENTRIES: usize = 4_096;

/// A bucket of a hash map is read whole: one with more entries than this is beyond any hash.
const MOST_ENTRIES: usize = 1 << 20;

/// `struct { … } batch` of `union bpf_attr`.
#[repr(C)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// Room, and then how many entries there are in it.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// How a read by batches ended.
pub(crate) enum Outcome {
    /// All was read.
    Done,
    /// The kernel cannot read this kind of map so; nothing was read.
    Unsupported,
}

/// Calls `each` for every entry that is there all the time; what comes or goes meanwhile may be
/// left out. An entry is given twice only if it is removed and written again meanwhile.
///
/// `map` must have keys and values of these types, which every typed map of `aya` has checked.
///
/// # Errors
/// The kernel's, or that of `each`, which ends the read.
pub(crate) fn for_each<K: Pod, V: Pod, E>(
    map: &MapData,
    failed: impl Fn(MapError) -> E,
    mut each: impl FnMut(K, V) -> Result<(), E>,
) -> Result<Outcome, E> {
    let info = map.info().map_err(&failed)?;
    debug_assert_eq!((info.key_size() as usize, info.value_size() as usize), {
        (size_of::<K>(), size_of::<V>())
    });
    let mut keys = Vec::<K>::with_capacity(ENTRIES);
    let mut values = Vec::<V>::with_capacity(ENTRIES);
    // A place in the map: four bytes of a hash map, a key of others.
    let mut place = vec![0_u64; size_of::<K>().max(4).div_ceil(8)];
    let mut is_first = true;
    loop {
        let room = keys.capacity().min(values.capacity());
        let mut attr = Attr {
            in_batch: if is_first { 0 } else { place.as_ptr() as u64 },
            out_batch: place.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: `attr` is laid out as the kernel's; its pointers are to `room` keys and values of
        // the map's sizes and to a place of at least four bytes and a key's size, all of them alive.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &mut attr, size_of::<Attr>()) };
        let error = Errno::result(result).err();
        match error {
            None | Some(Errno::ENOENT) => {}
            Some(Errno::ENOSPC) if room < MOST_ENTRIES => {
                keys.reserve(room * 2);
                values.reserve(room * 2);
                continue;
            }
            // Not the kind of map, or not this kernel.
            Some(_) if is_first => return Ok(Outcome::Unsupported),
            Some(error) => {
                let io_error = io::Error::from(error);
                return Err(failed(SyscallError { call: "bpf_map_lookup_batch", io_error }.into()));
            }
        }
        let count = (attr.count as usize).min(room);
        // SAFETY: the kernel has written `count` of both, and every bit pattern is a value of a
        // `Pod`.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        for (key, value) in keys.iter().zip(&values) {
            each(*key, *value)?;
        }
        if error.is_some() {
            return Ok(Outcome::Done);
        }
        keys.clear();
        values.clear();
        is_first = false;
    }
}
