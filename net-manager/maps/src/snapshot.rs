//! Reading a whole hash map while others write it.

use std::hash::Hash;

use aya::{
    Pod,
    maps::{HashMap, MapData, MapError},
};

/// Every entry that was there all the time, once each.
///
/// The kernel walks a hash map by "the key after this one", and starts again from the first when
/// that one is gone by then. So keys are collected first, once each, and for no more steps than
/// a walk through two full maps would take.
pub(crate) fn entries<K, V>(map: &HashMap<MapData, K, V>) -> Result<Vec<(K, V)>, MapError>
where
    K: Pod + Eq + Hash,
    V: Pod,
{
    let mut entries = Vec::new();
    for key in keys(map)? {
        match map.get(&key, 0) {
            Ok(value) => entries.push((key, value)),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

/// Every key, once each.
pub(crate) fn keys<K, V>(
    map: &HashMap<MapData, K, V>,
) -> Result<std::collections::HashSet<K>, MapError>
where
    K: Pod + Eq + Hash,
    V: Pod,
{
    let most = 2 * usize::try_from(capacity(map)?).unwrap_or(usize::MAX);
    map.keys().take(most).collect()
}

fn capacity<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>) -> Result<u32, MapError> {
    use aya::maps::IterableMap as _;
    Ok(map.map().info()?.max_entries())
}
