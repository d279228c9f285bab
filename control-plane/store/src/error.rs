//! Why the store cannot be opened, read or written.

use std::{io, path::PathBuf};

use crate::Schema;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot make the folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "{} is in use by another process: stop that one, or give this one a data folder of its own",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "{} is damaged or no store of ours: restore it from a backup, or move it away to start empty",
        path.display()
    )]
    Damaged { path: PathBuf, source: Box<redb::Error> },
    #[error(
        "{} was written by another version of the software ({found}, this one needs {expected}): \
         run the version that wrote it, or start with another data folder",
        path.display()
    )]
    OtherSchema { path: PathBuf, found: Schema, expected: Schema },
    #[error("cannot open {}", path.display())]
    Io { path: PathBuf, source: Box<redb::Error> },
    #[error("cannot read the schema of {}", path.display())]
    Schema { path: PathBuf, source: StoreError },
}

impl OpenError {
    pub(crate) fn from_redb(path: &std::path::Path, error: redb::DatabaseError) -> Self {
        use redb::{DatabaseError, StorageError};
        let path = path.to_owned();
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                Self::InUse { path }
            }
            DatabaseError::Storage(StorageError::Io(ref io))
                if io.kind() != io::ErrorKind::InvalidData
                    && io.kind() != io::ErrorKind::UnexpectedEof =>
            {
                Self::Io { path, source: Box::new(error.into()) }
            }
            _ => Self::Damaged { path, source: Box::new(error.into()) },
        }
    }
}

/// Why the store cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full, failing, or the file is damaged. Once a write has failed, all that
    /// follow do, until the store is opened again.
    #[error("the store cannot be read or written")]
    Storage(#[source] Box<redb::Error>),
    #[error("the value of {key} in table {table} cannot be read as what it should be")]
    Decode { table: &'static str, key: String, source: serde_json::Error },
    #[error("the value of {key} in table {table} cannot be written as JSON")]
    Encode { table: &'static str, key: String, source: serde_json::Error },
    #[error("the process is shutting down")]
    ShuttingDown,
}

impl StoreError {
    pub(crate) fn redb(error: impl Into<redb::Error>) -> Self {
        Self::Storage(Box::new(error.into()))
    }
}
