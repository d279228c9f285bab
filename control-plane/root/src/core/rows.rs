//! Rows in memory that can be taken back until they are kept, and that know which of them the
//! disk has not seen.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    ops::RangeBounds,
};

/// A key that is text in the store, with the same order.
pub(crate) trait RowKey: Ord + Clone {
    fn encode(&self) -> String;
    /// `None` for a text that [`RowKey::encode`] never makes.
    fn decode(text: &str) -> Option<Self>;
}

impl RowKey for String {
    fn encode(&self) -> String {
        self.clone()
    }
    fn decode(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

/// The rows of one table. Every change can be undone by [`Rows::roll_back`] until
/// [`Rows::keep`], and is then waiting to be written by [`Rows::take_unwritten`].
#[derive(Debug)]
pub(crate) struct Rows<K, V> {
    rows: BTreeMap<K, V>,
    /// What each change replaced, oldest first.
    undo: Vec<(K, Option<V>)>,
    unwritten: BTreeSet<K>,
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), undo: Vec::new(), unwritten: BTreeSet::new() }
    }
}

impl<K: RowKey, V: Clone + PartialEq> Rows<K, V> {
    /// Rows as they were read from the disk.
    pub(crate) fn written(rows: BTreeMap<K, V>) -> Self {
        Self { rows, ..Self::default() }
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.rows.get(key)
    }

    pub(crate) fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.rows.contains_key(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.values()
    }

    pub(crate) fn range(&self, keys: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.rows.range(keys)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Inserts or replaces; the same value again changes nothing.
    pub(crate) fn put(&mut self, key: K, value: V) {
        if self.rows.get(&key) == Some(&value) {
            return;
        }
        let replaced = self.rows.insert(key.clone(), value);
        self.undo.push((key, replaced));
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        V: Clone,
    {
        let (key, removed) = self.rows.remove_entry(key)?;
        self.undo.push((key, Some(removed.clone())));
        Some(removed)
    }

    pub(crate) fn keep(&mut self) {
        self.unwritten.extend(self.undo.drain(..).map(|(key, _)| key));
    }

    pub(crate) fn roll_back(&mut self) {
        for (key, replaced) in self.undo.drain(..).rev() {
            match replaced {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }

    /// The kept changes that were not taken before: each key with its value, none when deleted.
    pub(crate) fn take_unwritten(&mut self) -> Vec<(String, Option<V>)> {
        std::mem::take(&mut self.unwritten)
            .into_iter()
            .map(|key| (key.encode(), self.rows.get(&key).cloned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn what_is_not_kept_is_taken_back_in_order() {
        let mut rows = Rows::default();
        rows.put(text("a"), 1);
        rows.keep();
        rows.put(text("a"), 2);
        rows.put(text("a"), 3);
        rows.remove("a");
        rows.put(text("b"), 1);
        rows.roll_back();
        assert_eq!(rows.iter().collect::<Vec<_>>(), [(&text("a"), &1)]);
    }

    #[test]
    fn kept_changes_are_written_once_and_rolled_back_ones_never() {
        let mut rows = Rows::default();
        rows.put(text("a"), 1);
        rows.put(text("b"), 1);
        rows.keep();
        rows.remove("b");
        rows.keep();
        rows.put(text("c"), 1);
        rows.roll_back();
        assert_eq!(rows.take_unwritten(), [(text("a"), Some(1)), (text("b"), None)]);
        assert_eq!(rows.take_unwritten(), []);
    }

    #[test]
    fn putting_the_same_again_writes_nothing() {
        let mut rows = Rows::written([(text("a"), 1)].into());
        rows.put(text("a"), 1);
        rows.keep();
        assert_eq!(rows.take_unwritten(), []);
    }
}
