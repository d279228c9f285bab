//! Why a map cannot be read or written.

use std::io;

use aya::{maps::MapError, sys::SyscallError};

/// A read or a write of a map that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the map `{map}`")]
pub struct MapsError {
    /// `read` or `write`.
    pub doing: &'static str,
    pub map: &'static str,
    #[source]
    pub source: Box<MapError>,
}

/// Whether the write failed because the map has no room left.
pub fn is_full(error: &MapsError) -> bool {
    let MapError::SyscallError(SyscallError { io_error, .. }) = &*error.source else {
        return false;
    };
    // Hash maps say E2BIG, tries and our own tables of chunks ENOSPC. A machine without memory
    // (ENOMEM) is another matter.
    const E2BIG: i32 = 7;
    io_error.raw_os_error() == Some(E2BIG) || io_error.kind() == io::ErrorKind::StorageFull
}

pub(crate) fn read(map: &'static str) -> impl Fn(MapError) -> MapsError {
    move |source| MapsError { doing: "read", map, source: Box::new(source) }
}

pub(crate) fn write(map: &'static str) -> impl Fn(MapError) -> MapsError {
    move |source| MapsError { doing: "write", map, source: Box::new(source) }
}

/// A removal of what is not there is done already.
pub(crate) fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => other,
    }
}

/// A look for what is not there finds nothing.
pub(crate) fn optional<V>(result: Result<V, MapError>) -> Result<Option<V>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
