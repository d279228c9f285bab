//! Many entries of a map in one system call, which `aya` does not offer: what a fixture reads and
//! clears would otherwise cost a call an entry.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::maps::{Map, MapData};
use zerocopy::FromBytes;

/// `enum bpf_cmd` of linux/bpf.h.
const LOOKUP_BATCH: libc::c_long = 24;
const LOOKUP_AND_DELETE_BATCH: libc::c_long = 25;
const UPDATE_BATCH: libc::c_long = 26;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The kernel's possible CPUs: a per-CPU value is that many values.
fn cpus() -> usize {
    aya::util::nr_cpus().expect("the kernel tells its CPUs")
}

pub fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => data,
        other => panic!("no map of the programs is {other:?}"),
    }
}

fn batch(command: libc::c_long, map: &Map, attributes: &mut Attributes) -> io::Result<()> {
    attributes.map_fd = data(map).fd().as_fd().as_raw_fd() as u32;
    // SAFETY: the attributes are those of the command; their pointers lead to buffers of the callers
    // that hold `count` keys and values.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<Attributes>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The first `len` values of a per-CPU array, each with its values of all CPUs.
pub fn per_cpu_values<T: FromBytes + Clone>(map: &Map, len: u32) -> Vec<Vec<T>> {
    const { assert!(size_of::<T>().is_multiple_of(8)) };
    let mut keys = vec![0_u32; len as usize];
    let mut values = vec![T::new_zeroed(); len as usize * cpus()];
    let mut next = 0_u64;
    let mut attributes = Attributes {
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: len,
        ..Attributes::default()
    };
    if let Err(error) = batch(LOOKUP_BATCH, map, &mut attributes) {
        // At the array's end.
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "a batch is read");
    }
    assert_eq!(attributes.count, len, "the array is as long as thought");
    values.chunks(cpus()).map(<[T]>::to_vec).collect()
}

/// Writes `byte` over the first `len` entries of an array, on all CPUs where it is per CPU.
pub fn fill(map: &Map, len: u32, byte: u8) {
    let info = data(map).info().expect("the kernel tells of its maps");
    let per_cpu = if matches!(map, Map::PerCpuArray(_)) { cpus() } else { 1 };
    let value = info.value_size().next_multiple_of(8) as usize * per_cpu;
    let keys: Vec<u32> = (0..len.min(info.max_entries())).collect();
    let values = vec![byte; value * keys.len()];
    let mut attributes = Attributes {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        ..Attributes::default()
    };
    batch(UPDATE_BATCH, map, &mut attributes).expect("an array takes a batch");
}

/// Takes every entry out of a hash map.
pub fn drain<K, V>(map: &Map) -> Vec<(K, V)>
where
    K: FromBytes + Clone,
    V: FromBytes + Clone,
{
    const AT_ONCE: u32 = 1024;
    let mut entries = Vec::new();
    let (mut at, mut next, mut is_first) = (0_u64, 0_u64, true);
    loop {
        let mut keys = vec![K::new_zeroed(); AT_ONCE as usize];
        let mut values = vec![V::new_zeroed(); AT_ONCE as usize];
        let mut attributes = Attributes {
            in_batch: if is_first { 0 } else { (&raw mut at) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE,
            ..Attributes::default()
        };
        let outcome = batch(LOOKUP_AND_DELETE_BATCH, map, &mut attributes);
        keys.truncate(attributes.count as usize);
        entries.extend(keys.into_iter().zip(values));
        match outcome {
            Ok(()) => (at, is_first) = (next, false),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return entries,
            Err(error) => panic!("a batch is taken out of {map:?}: {error}"),
        }
    }
}
