//! Protects the program file of the worker from its instances.
//!
//! The first process of a container is, until it runs its own program, this program; an image
//! can make that moment last (an entrypoint `/proc/self/exe` with a library of its own) and reach
//! the file on the host through `/proc`. So a shim runs from a read-only view of its file, which
//! exists nowhere in the file system and which nothing inside a container can make writable.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use nix::{
    sys::statvfs::{FsFlags, fstatvfs},
    unistd::fexecve,
};

/// Returns in a process that runs from such a view, having started it anew if need be.
pub(super) fn ensure() -> io::Result<()> {
    let own = std::fs::File::open("/proc/self/exe")?;
    if fstatvfs(&own)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let view = read_only_view()?;
    let args = strings(std::env::args_os())?;
    let env = strings(std::env::vars_os().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        key
    }))?;
    match fexecve(&view, &args, &env)? {}
}

fn strings(texts: impl Iterator<Item = std::ffi::OsString>) -> io::Result<Vec<CString>> {
    texts.map(|text| CString::new(text.as_bytes()).map_err(io::Error::other)).collect()
}

/// A mount of the program file alone, read-only and attached to no tree.
fn read_only_view() -> io::Result<OwnedFd> {
    let path = c"/proc/self/exe";
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is NUL-terminated and lives through the call; the kernel reads only it.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor, and nobody else has it.
    let view = unsafe { OwnedFd::from_raw_fd(fd) };

    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty C string, and `attributes` is what the size says; both live
    // through the call and are only read.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            view.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(view) }
}
