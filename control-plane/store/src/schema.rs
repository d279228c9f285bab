//! What a store holds and in which version, written into it at its first opening.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};

use crate::{OpenError, Store, StoreError, Table};

/// Whose store it is, and the version of its values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// `root`, `cluster`: a daemon refuses another's store.
    pub name: String,
    /// Raised when values written before can no longer be read.
    pub version: u32,
}

impl Schema {
    pub fn new(name: &str, version: u32) -> Self {
        Self { name: name.to_owned(), version }
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.name, self.version)
    }
}

const SCHEMA: Table<Schema> = Table::new("schema");
const KEY: &str = "schema";

/// Refuses a store of another schema; a new one becomes `expected`.
pub(crate) fn claim(store: &Store, path: &Path, expected: Schema) -> Result<(), OpenError> {
    let found = store
        .transact_blocking(|tx| match tx.get(SCHEMA, KEY)? {
            Some(found) => Ok(found),
            None => {
                tx.put(SCHEMA, KEY, &expected)?;
                Ok::<_, StoreError>(expected.clone())
            }
        })
        .map_err(|source| OpenError::Schema { path: path.to_owned(), source })?;
    if found == expected {
        Ok(())
    } else {
        Err(OpenError::OtherSchema { path: path.to_owned(), found, expected })
    }
}
