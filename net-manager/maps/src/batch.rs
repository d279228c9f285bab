//! Reads a map many entries a system call, instead of two calls an entry, and from where the last
//! call ended: a full flow table is read in a fraction of a second, or in parts.

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

/// Entries asked for in one call: of the flow table, 47 KB, which stay in a CPU's own cache. More
/// are not read faster.
const ENTRIES: usize = 256;

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

/// Where a walk through a map is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Between,
    End,
}

/// A walk through a map, and room for the entries that it is at.
///
/// It comes by every entry that is there all the time; what comes or goes meanwhile may be left
/// out. It comes by an entry twice only if that is removed and written again meanwhile.
pub(crate) struct Batches<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// A place in the map: of a hash map the number of a bucket, four bytes, of others a key.
    place: Vec<u64>,
    at: At,
}

impl<K: Pod, V: Pod> Batches<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            keys: Vec::with_capacity(ENTRIES),
            values: Vec::with_capacity(ENTRIES),
            place: vec![0; size_of::<K>().max(4).div_ceil(8)],
            at: At::Start,
        }
    }

    /// The next entries, perhaps none; `None` after the last.
    ///
    /// `map` must have keys and values of these types, which every typed map of `aya` has checked.
    ///
    /// # Errors
    /// The kernel's. At the start: it cannot read this kind of map so.
    pub(crate) fn next<'a>(
        &'a mut self,
        map: &MapData,
    ) -> Result<Option<impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V>>, Errno> {
        if self.at == At::End {
            return Ok(None);
        }
        self.keys.clear();
        self.values.clear();
        self.at = match self.read(map)? {
            None => At::Between,
            Some(Errno::ENOENT) => At::End,
            Some(error) => return Err(error),
        };
        Ok(Some(self.keys.iter().zip(&self.values)))
    }

    /// The bucket of a hash map that comes next, if the map has so many: the place is the number of
    /// a bucket in every kernel until now, but none that the kernel promises.
    pub(crate) fn bucket(&self) -> u32 {
        match self.at {
            At::Start => 0,
            At::Between => self.place[0] as u32,
            At::End => u32::MAX,
        }
    }

    /// Fills the buffers, which are empty; why there is no more.
    fn read(&mut self, map: &MapData) -> Result<Option<Errno>, Errno> {
        loop {
            let room = self.keys.capacity().min(self.values.capacity());
            let place = self.place.as_mut_ptr() as u64;
            let mut attr = Attr {
                in_batch: if self.at == At::Start { 0 } else { place },
                out_batch: place,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: room as u32,
                map_fd: map.fd().as_fd().as_raw_fd() as u32,
                elem_flags: 0,
                flags: 0,
            };
            // SAFETY: `attr` is laid out as the kernel's; its pointers are to `room` keys and values
            // of the map's sizes and to a place of at least four bytes and a key's size, all of them
            // alive.
            let result =
                unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &mut attr, size_of::<Attr>()) };
            let ended = match Errno::result(result).err() {
                None => None,
                Some(Errno::ENOENT) => Some(Errno::ENOENT),
                Some(Errno::ENOSPC) if room < MOST_ENTRIES => {
                    self.keys.reserve(room * 2);
                    self.values.reserve(room * 2);
                    continue;
                }
                Some(error) => return Err(error),
            };
            let count = (attr.count as usize).min(room);
            // SAFETY: the kernel has written `count` of both, and every bit pattern is a value of a
            // `Pod`.
            unsafe {
                self.keys.set_len(count);
                self.values.set_len(count);
            }
            return Ok(ended);
        }
    }
}

/// How a read by batches ended.
pub(crate) enum Outcome {
    /// All was read.
    Done,
    /// The kernel cannot read this kind of map so; nothing was read.
    Unsupported,
}

/// Calls `each` for every entry that a walk comes by.
///
/// # Errors
/// The kernel's, or that of `each`, which ends the walk.
pub(crate) fn for_each<K: Pod, V: Pod, E>(
    map: &MapData,
    failed: impl Fn(MapError) -> E,
    mut each: impl FnMut(K, V) -> Result<(), E>,
) -> Result<Outcome, E> {
    let info = map.info().map_err(&failed)?;
    debug_assert_eq!((info.key_size() as usize, info.value_size() as usize), {
        (size_of::<K>(), size_of::<V>())
    });
    let mut batches = Batches::<K, V>::new();
    loop {
        let is_first = batches.at == At::Start;
        match batches.next(map) {
            Ok(Some(entries)) => {
                for (key, value) in entries {
                    each(*key, *value)?;
                }
            }
            Ok(None) => return Ok(Outcome::Done),
            // Not the kind of map, or not this kernel.
            Err(_) if is_first => return Ok(Outcome::Unsupported),
            Err(error) => return Err(failed(map_error(error))),
        }
    }
}

/// As the rest of the maps' errors are.
pub(crate) fn map_error(error: Errno) -> MapError {
    SyscallError { call: "bpf_map_lookup_batch", io_error: io::Error::from(error) }.into()
}
