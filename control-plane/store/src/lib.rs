//! Durable state of root and cluster: named tables of JSON values by string key, in one redb file.
//!
//! Three operations are all there is: get, prefix scan, and a transaction over any number of
//! tables, of which either everything is on disk when it returns or nothing ever will be. They
//! are what a replicated store (etcd) can do as well, so that a second backend does not change
//! the callers.
//!
//! Values are JSON and not a binary form, so that fields can be added without a migration and an
//! operator can read them. A change that old values do not survive raises [`Schema::version`].
//!
//! A commit waits for the disk. Async code calls [`Store::transact`] and [`Store::read`]; code
//! on a thread of its own calls the `_blocking` twins.

mod error;
mod schema;
mod table;
mod transaction;

use std::{fmt, path::Path, sync::Arc};

pub use error::{OpenError, StoreError};
pub use schema::Schema;
pub use table::Table;
pub use transaction::{Snapshot, Transaction};

/// A store; clones share it.
#[derive(Clone)]
pub struct Store {
    database: Arc<redb::Database>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store at `path`, making the file and the folders above it where they are
    /// missing. One process at a time may hold it.
    ///
    /// # Errors
    /// See [`OpenError`]; each says which file and what to do.
    pub fn open(path: &Path, schema: Schema) -> Result<Self, OpenError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|source| OpenError::Folder { path: folder.to_owned(), source })?;
        }
        let database =
            redb::Database::create(path).map_err(|source| OpenError::from_redb(path, source))?;
        let store = Self { database: Arc::new(database) };
        schema::claim(&store, path, schema)?;
        Ok(store)
    }

    /// Runs `work` on a consistent view of the store.
    ///
    /// # Errors
    /// Whatever `work` returns, and [`StoreError`] when the file cannot be read.
    pub fn read_blocking<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Snapshot) -> Result<T, E>,
    ) -> Result<T, E> {
        use redb::ReadableDatabase;
        let snapshot = Snapshot::new(self.database.begin_read().map_err(StoreError::redb)?);
        work(&snapshot)
    }

    /// Runs `work` and commits what it wrote, in every table or in none. One transaction runs at
    /// a time; others wait. When `work` fails, nothing is written; when it writes nothing, the
    /// disk is not touched.
    ///
    /// # Errors
    /// Whatever `work` returns, and [`StoreError`] when the commit fails.
    pub fn transact_blocking<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&mut Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut transaction =
            Transaction::new(self.database.begin_write().map_err(StoreError::redb)?);
        let outcome = work(&mut transaction);
        match outcome {
            Ok(value) => {
                transaction.finish()?;
                Ok(value)
            }
            Err(error) => {
                transaction.abort();
                Err(error)
            }
        }
    }

    /// [`Store::read_blocking`] on a thread that may block.
    ///
    /// # Errors
    /// As [`Store::read_blocking`].
    pub async fn read<T, E>(
        &self,
        work: impl FnOnce(&Snapshot) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let store = self.clone();
        join(tokio::task::spawn_blocking(move || store.read_blocking(work)).await)
    }

    /// [`Store::transact_blocking`] on a thread that may block. Dropping the future does not
    /// undo a transaction that has started.
    ///
    /// # Errors
    /// As [`Store::transact_blocking`].
    pub async fn transact<T, E>(
        &self,
        work: impl FnOnce(&mut Transaction) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let store = self.clone();
        join(tokio::task::spawn_blocking(move || store.transact_blocking(work)).await)
    }
}

/// A panic in the caller's closure goes on in the caller.
fn join<T, E: From<StoreError>>(
    joined: Result<Result<T, E>, tokio::task::JoinError>,
) -> Result<T, E> {
    match joined {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(StoreError::ShuttingDown.into()),
    }
}
