//! A table's name and the type of its values.

use std::{fmt, marker::PhantomData};

use redb::{ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

use crate::StoreError;

/// A table by name, with values of type `T`. Declared as a constant, so that a table has one
/// type everywhere.
pub struct Table<T> {
    name: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

impl<T> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.name).finish()
    }
}

impl<T> Table<T> {
    pub const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn definition(&self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(self.name)
    }
}

impl<T: Serialize + DeserializeOwned> Table<T> {
    pub(crate) fn encode(&self, key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(value).map_err(|source| StoreError::Encode {
            table: self.name,
            key: key.to_owned(),
            source,
        })
    }

    fn decode(&self, key: &str, bytes: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(bytes).map_err(|source| StoreError::Decode {
            table: self.name,
            key: key.to_owned(),
            source,
        })
    }

    pub(crate) fn get_from(
        &self,
        rows: &impl ReadableTable<&'static str, &'static [u8]>,
        key: &str,
    ) -> Result<Option<T>, StoreError> {
        match rows.get(key).map_err(StoreError::redb)? {
            Some(bytes) => self.decode(key, bytes.value()).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn scan_from(
        &self,
        rows: &impl ReadableTable<&'static str, &'static [u8]>,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let mut found = Vec::new();
        for row in rows.range(prefix..).map_err(StoreError::redb)? {
            let (key, bytes) = row.map_err(StoreError::redb)?;
            let key = key.value();
            if !key.starts_with(prefix) {
                break;
            }
            found.push((key.to_owned(), self.decode(key, bytes.value())?));
        }
        Ok(found)
    }
}
