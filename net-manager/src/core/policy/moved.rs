//! How many clients a new lookup table sends elsewhere than the old one.

use std::collections::{BTreeSet, HashMap};

use crate::core::tables::InstanceId;

/// The share of clients, 0 to 1, whose instance changes from `old` to `new`, where a client takes
/// the place `hash % length` and its hash may be anything.
///
/// For tables of one length, the share of places that differ; else, by the Chinese remainder
/// theorem, of the pairs of places that agree modulo the lengths' common divisor. Where `old` is
/// empty nobody is moved; where only `new` is, everybody.
pub fn share_moved(old: &[InstanceId], new: &[InstanceId]) -> f64 {
    moved(old, new, |_, _| true)
}

/// The part of [`share_moved`] that no instance's coming or going asked for: the old instance is
/// still in the table, and the new one was there before.
pub fn share_moved_needlessly(old: &[InstanceId], new: &[InstanceId]) -> f64 {
    let before: BTreeSet<InstanceId> = old.iter().copied().collect();
    let after: BTreeSet<InstanceId> = new.iter().copied().collect();
    moved(old, new, |from, to| after.contains(&from) && before.contains(&to))
}

fn moved(
    old: &[InstanceId],
    new: &[InstanceId],
    counts: impl Fn(InstanceId, InstanceId) -> bool,
) -> f64 {
    if old.is_empty() || new.is_empty() {
        // With nobody to move to, no move is needless.
        return if old.is_empty() || !counts(old[0], old[0]) { 0.0 } else { 1.0 };
    }
    let classes = gcd(old.len(), new.len());
    let (mut moved, mut all) = (0_u64, 0_u64);
    for class in 0..classes {
        let (from, to) = (census(old, class, classes), census(new, class, classes));
        for (was, old_places) in &from {
            for (is, new_places) in &to {
                all += old_places * new_places;
                if was != is && counts(*was, *is) {
                    moved += old_places * new_places;
                }
            }
        }
    }
    moved as f64 / all as f64
}

/// How often each instance stands at places `class`, `class + step`, ….
fn census(table: &[InstanceId], class: usize, step: usize) -> HashMap<InstanceId, u64> {
    let mut census = HashMap::new();
    for id in table.iter().skip(class).step_by(step) {
        *census.entry(*id).or_default() += 1;
    }
    census
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn simple_cases() {
        assert_eq!(share_moved(&[1, 2, 3, 4], &[1, 2, 3, 4]), 0.0);
        assert_eq!(share_moved(&[1, 2, 3, 4], &[1, 2, 4, 4]), 0.25);
        assert_eq!(share_moved(&[], &[1, 2]), 0.0);
        assert_eq!(share_moved(&[1, 2], &[]), 1.0);
        assert_eq!(share_moved(&[1], &[1, 1, 2, 2]), 0.5);
        assert_eq!(share_moved_needlessly(&[1, 2], &[]), 0.0);
        assert_eq!(share_moved_needlessly(&[1, 2, 3], &[1, 2, 2]), 0.0);
        assert_eq!(share_moved_needlessly(&[1, 2, 2, 3], &[1, 1, 2, 2]), 0.25);
    }

    proptest! {
        #[test]
        fn it_is_the_share_of_clients_counted_one_by_one(
            old in prop::collection::vec(1..5_u32, 1..14),
            new in prop::collection::vec(1..5_u32, 1..14),
        ) {
            let clients = old.len() * new.len();
            let pairs = || (0..clients).map(|hash| (old[hash % old.len()], new[hash % new.len()]));
            let share = |n: usize| n as f64 / clients as f64;
            let all = pairs().filter(|(was, is)| was != is).count();
            prop_assert!((share_moved(&old, &new) - share(all)).abs() < 1e-9);
            let needless = pairs()
                .filter(|(was, is)| was != is && new.contains(was) && old.contains(is))
                .count();
            prop_assert!((share_moved_needlessly(&old, &new) - share(needless)).abs() < 1e-9);
        }
    }
}
