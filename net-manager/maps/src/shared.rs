//! An array whose entries are written in memory that is shared with the kernel, without a system
//! call.

use std::{
    ffi::c_void,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use aya::{
    Pod,
    maps::{Array, MapData, MapError},
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use zerocopy::{Immutable, IntoBytes};

/// An entry is as many words as it takes (`array_map_alloc` of the kernel).
const WORD: usize = size_of::<u64>();

/// An array map.
pub(crate) struct SharedArray<V: Pod> {
    array: Array<MapData, V>,
    memory: Memory,
}

/// What is known of its memory.
enum Memory {
    /// Nothing was written yet: who only reads does without.
    Unknown,
    Mapped(Mapping),
    /// The map was made without `BPF_F_MMAPABLE`.
    Refused,
}

impl<V: Pod + IntoBytes + Immutable> SharedArray<V> {
    pub(crate) fn new(array: Array<MapData, V>) -> Self {
        Self { array, memory: Memory::Unknown }
    }

    /// For who reads.
    pub(crate) fn array(&self) -> &Array<MapData, V> {
        &self.array
    }

    /// Writes an entry. As with the system call, a program that reads it at this moment may see a
    /// part of it; what is written afterwards, it sees afterwards.
    ///
    /// # Errors
    /// There is no such entry, or the kernel refuses.
    pub(crate) fn set(&mut self, index: u32, value: &V) -> Result<(), MapError> {
        let max_entries = self.array.len();
        if index >= max_entries {
            return Err(MapError::OutOfBounds { index, max_entries });
        }
        if let Memory::Unknown = self.memory {
            let bytes = max_entries as usize * entry_bytes::<V>();
            self.memory = Mapping::of(&self.array, bytes).map_or(Memory::Refused, Memory::Mapped);
        }
        match &mut self.memory {
            Memory::Mapped(mapping) => {
                mapping.write(index as usize * entry_bytes::<V>(), value.as_bytes());
                Ok(())
            }
            Memory::Unknown | Memory::Refused => self.array.set(index, *value, 0),
        }
    }
}

const fn entry_bytes<V>() -> usize {
    size_of::<V>().next_multiple_of(WORD)
}

/// The memory of all entries, for as long as this lives.
struct Mapping {
    start: NonNull<c_void>,
    length: NonZeroUsize,
}

// SAFETY: the memory is only written, by who has the mapping for itself, and word by word.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing can be done with a shared reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of<V: Pod>(array: &Array<MapData, V>, bytes: usize) -> Option<Self> {
        use aya::maps::IterableMap as _;
        let length = NonZeroUsize::new(bytes)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping that replaces none, of a map that is at least so long, or the kernel
        // refuses.
        let start = unsafe {
            mmap(None, length, access, MapFlags::MAP_SHARED, array.map().fd().as_fd(), 0)
        };
        Some(Self { start: start.ok()?, length })
    }

    /// Writes bytes from `offset` on, which is a whole number of words, as the end is taken to be.
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len().next_multiple_of(WORD);
        assert!(offset.is_multiple_of(WORD) && end <= self.length.get(), "beyond the map");
        // What was written before is there when this is.
        fence(Ordering::Release);
        for (at, word) in (offset..end).step_by(WORD).zip(bytes.chunks(WORD)) {
            let mut padded = [0; WORD];
            padded[..word.len()].copy_from_slice(word);
            // SAFETY: `at` is within the mapping, and aligned as it is; programs and other
            // processes use the memory at the same time, hence an atomic.
            let place = unsafe { self.start.byte_add(at).cast::<AtomicU64>().as_ref() };
            place.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
        }
        fence(Ordering::Release);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what `of` made, and nothing refers to it any more. That cannot fail.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}
