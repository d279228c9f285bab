//! Reading a whole map while others write it.

use std::{collections::HashSet, hash::Hash};

use aya::{
    Pod,
    maps::{Array, HashMap, IterableMap, MapData, MapError},
};

use crate::batch::{self, Outcome};

/// Every entry that was there all the time, once each.
pub(crate) fn entries<K, V>(map: &HashMap<MapData, K, V>) -> Result<Vec<(K, V)>, MapError>
where
    K: Pod + Eq + Hash,
    V: Pod,
{
    let mut entries = Vec::new();
    for_each(
        map,
        |error| error,
        |key, value| {
            entries.push((key, value));
            Ok(())
        },
    )?;
    Ok(entries)
}

/// Calls `each` for every entry that was there all the time, once each.
///
/// # Errors
/// Those of the map, by way of `failed`, and of `each`.
pub(crate) fn for_each<K, V, E>(
    map: &HashMap<MapData, K, V>,
    failed: impl Fn(MapError) -> E,
    mut each: impl FnMut(K, V) -> Result<(), E>,
) -> Result<(), E>
where
    K: Pod + Eq + Hash,
    V: Pod,
{
    if let Outcome::Done = batch::for_each(map.map(), &failed, &mut each)? {
        return Ok(());
    }
    for key in keys(map).map_err(&failed)? {
        match map.get(&key, 0) {
            Ok(value) => each(key, value)?,
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Every key, once each.
///
/// The kernel walks a hash map by "the key after this one", and starts again from the first when
/// that one is gone by then. So keys are collected first, once each, and for no more steps than
/// a walk through two full maps would take.
pub(crate) fn keys<K, V>(map: &HashMap<MapData, K, V>) -> Result<HashSet<K>, MapError>
where
    K: Pod + Eq + Hash,
    V: Pod,
{
    let most = 2 * usize::try_from(capacity(map)?).unwrap_or(usize::MAX);
    map.keys().take(most).collect()
}

/// The entries of an array that are not all zero.
pub(crate) fn written<V: Pod + Default + PartialEq>(
    array: &Array<MapData, V>,
) -> Result<Vec<(u32, V)>, MapError> {
    let mut entries = Vec::new();
    let mut add = |index: u32, value: V| {
        if value != V::default() {
            entries.push((index, value));
        }
        Ok(())
    };
    if let Outcome::Unsupported = batch::for_each(array.map(), |error| error, &mut add)? {
        for (index, value) in (0..).zip(array.iter()) {
            add(index, value?)?;
        }
    }
    Ok(entries)
}

/// How many entries the map can have.
pub(crate) fn capacity<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>) -> Result<u32, MapError> {
    Ok(map.map().info()?.max_entries())
}
