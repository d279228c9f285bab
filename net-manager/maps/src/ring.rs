//! How full a ring buffer is: its two positions, which the kernel shares with who maps them.

use std::{
    ffi::c_void,
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
};

use nix::{
    libc::off_t,
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::{SysconfVar, sysconf},
};

/// In front of each record (`BPF_RINGBUF_HDR_SZ`).
const HEADER: usize = 8;

/// Watches how full a ring is, from the side of its reader.
pub(crate) struct Fill {
    consumer: Page,
    producer: Page,
    bytes: usize,
}

impl Fill {
    /// Of the ring buffer with this descriptor, which has room for `bytes`.
    ///
    /// # Errors
    /// It is no ring buffer, or its pages cannot be mapped.
    pub(crate) fn of(ring: &impl AsFd, bytes: u32) -> io::Result<Self> {
        let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| usize::try_from(size).ok());
        let page = page.and_then(NonZeroUsize::new).ok_or(io::ErrorKind::Unsupported)?;
        // The position of the reader is at the start of the first page, that of the writers at the
        // start of the second.
        Ok(Self {
            consumer: Page::map(ring, page, 0)?,
            producer: Page::map(ring, page, page.get())?,
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
        })
    }

    /// Whether a record of so many bytes would be refused now. It stays so until the reader has
    /// consumed something, so a reader that asks before it does misses no such moment.
    pub(crate) fn is_full(&self, record: usize) -> bool {
        let held = self.producer.position().wrapping_sub(self.consumer.position());
        held + (HEADER + record).next_multiple_of(8) >= self.bytes
    }
}

/// A page of the ring, for as long as this lives.
struct Page {
    start: NonNull<c_void>,
    length: NonZeroUsize,
}

// SAFETY: only an atomic in the page is read, which any thread may.
unsafe impl Send for Page {}

impl Page {
    fn map(ring: &impl AsFd, length: NonZeroUsize, offset: usize) -> io::Result<Self> {
        let offset = off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping that replaces none; it is only read.
        let start = unsafe {
            mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, ring, offset)
        }?;
        Ok(Self { start, length })
    }

    fn position(&self) -> usize {
        // SAFETY: the page is mapped as long as this lives, begins with an `unsigned long` that
        // the kernel and the reader write whole, and is aligned to its size.
        unsafe { self.start.cast::<AtomicUsize>().as_ref() }.load(Ordering::Acquire)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: what `map` made, and nothing refers to it any more. That cannot fail.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}
