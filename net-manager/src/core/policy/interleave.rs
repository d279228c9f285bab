//! Weighted round robin whose turns are spread, as an order.

use crate::core::tables::InstanceId;

/// Each instance as often as its weight says, as evenly spread as turns allow: a cursor that
/// walks the table gives no instance a burst.
///
/// Smooth weighted round robin, as of nginx (commit 52327e0627f4): in each turn every instance's
/// credit grows by its weight; the one with the most credit is taken and pays the sum of all
/// weights. After as many turns as that sum all credits are zero again, so the order can repeat.
pub fn interleave(weighted: &[(InstanceId, u32)]) -> Vec<InstanceId> {
    let total: i64 = weighted.iter().map(|(_, weight)| i64::from(*weight)).sum();
    let mut credits = vec![0_i64; weighted.len()];
    (0..total)
        .filter_map(|_| {
            for (credit, (_, weight)) in credits.iter_mut().zip(weighted) {
                *credit += i64::from(*weight);
            }
            // The earlier one where both have as much.
            let taken = (0..credits.len()).rev().max_by_key(|at| credits[*at])?;
            credits[taken] -= total;
            Some(weighted[taken].0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_order_is_that_of_nginx() {
        // The example of its commit message.
        assert_eq!(interleave(&[(1, 5), (2, 1), (3, 1)]), [1, 1, 2, 1, 3, 1, 1]);
        assert_eq!(interleave(&[(7, 1), (8, 1), (9, 1)]), [7, 8, 9]);
        assert_eq!(interleave(&[(7, 0), (8, 2)]), [8, 8]);
        assert!(interleave(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn weights_are_met_and_turns_are_spread(
            weights in prop::collection::vec(0..20_u32, 1..12),
        ) {
            let weighted: Vec<_> = (1..).zip(weights.iter().copied()).collect();
            let order = interleave(&weighted);
            let total = weights.iter().sum::<u32>();
            prop_assert_eq!(order.len(), total as usize);
            for (id, weight) in weighted {
                prop_assert_eq!(order.iter().filter(|got| **got == id).count(), weight as usize);
                // At any moment its turns are near what it is due: the deviation of smooth
                // weighted round robin is below the number of instances, in practice below two.
                let mut turns = 0;
                for (at, got) in order.iter().enumerate() {
                    turns += u32::from(*got == id);
                    let due = (at + 1) as f64 * f64::from(weight) / f64::from(total);
                    prop_assert!((f64::from(turns) - due).abs() < 2.5, "{turns} of {due}");
                }
            }
        }
    }
}
