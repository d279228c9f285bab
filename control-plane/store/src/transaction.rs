//! A consistent view of the store, and a view that can write.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::{StoreError, Table};

/// The store as it was at one moment.
pub struct Snapshot {
    transaction: redb::ReadTransaction,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(crate) fn new(transaction: redb::ReadTransaction) -> Self {
        Self { transaction }
    }

    /// # Errors
    /// [`StoreError`] when the row cannot be read; a missing row is `None`.
    pub fn get<T: Serialize + DeserializeOwned>(
        &self,
        table: Table<T>,
        key: &str,
    ) -> Result<Option<T>, StoreError> {
        match self.transaction.open_table(table.definition()) {
            Ok(rows) => table.get_from(&rows, key),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(StoreError::redb(error)),
        }
    }

    /// Every row whose key begins with `prefix`, in the order of keys.
    ///
    /// # Errors
    /// [`StoreError`] when a row cannot be read.
    pub fn scan<T: Serialize + DeserializeOwned>(
        &self,
        table: Table<T>,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        match self.transaction.open_table(table.definition()) {
            Ok(rows) => table.scan_from(&rows, prefix),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
            Err(error) => Err(StoreError::redb(error)),
        }
    }
}

/// A transaction: reads see what it has written, nobody else does until it is committed.
pub struct Transaction {
    transaction: redb::WriteTransaction,
    written: bool,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("written", &self.written).finish_non_exhaustive()
    }
}

impl Transaction {
    pub(crate) fn new(transaction: redb::WriteTransaction) -> Self {
        Self { transaction, written: false }
    }

    /// # Errors
    /// [`StoreError`] when the row cannot be read; a missing row is `None`.
    pub fn get<T: Serialize + DeserializeOwned>(
        &self,
        table: Table<T>,
        key: &str,
    ) -> Result<Option<T>, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(StoreError::redb)?;
        table.get_from(&rows, key)
    }

    /// Every row whose key begins with `prefix`, in the order of keys.
    ///
    /// # Errors
    /// [`StoreError`] when a row cannot be read.
    pub fn scan<T: Serialize + DeserializeOwned>(
        &self,
        table: Table<T>,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(StoreError::redb)?;
        table.scan_from(&rows, prefix)
    }

    /// # Errors
    /// [`StoreError`] when the row cannot be written.
    pub fn put<T: Serialize + DeserializeOwned>(
        &mut self,
        table: Table<T>,
        key: &str,
        value: &T,
    ) -> Result<(), StoreError> {
        let bytes = table.encode(key, value)?;
        let mut rows = self.transaction.open_table(table.definition()).map_err(StoreError::redb)?;
        rows.insert(key, bytes.as_slice()).map_err(StoreError::redb)?;
        self.written = true;
        Ok(())
    }

    /// Deletes the row, and says whether there was one.
    ///
    /// # Errors
    /// [`StoreError`] when the table cannot be written.
    pub fn delete<T>(&mut self, table: Table<T>, key: &str) -> Result<bool, StoreError> {
        let mut rows = self.transaction.open_table(table.definition()).map_err(StoreError::redb)?;
        let existed = rows.remove(key).map_err(StoreError::redb)?.is_some();
        self.written |= existed;
        Ok(existed)
    }

    pub(crate) fn finish(self) -> Result<(), StoreError> {
        if self.written {
            self.transaction.commit().map_err(StoreError::redb)
        } else {
            self.transaction.abort().map_err(StoreError::redb)
        }
    }

    /// Nothing was committed, so an error here takes nothing back; the next transaction meets it.
    pub(crate) fn abort(self) {
        drop(self.transaction);
    }
}
