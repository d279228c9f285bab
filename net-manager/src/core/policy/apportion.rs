//! From shares to whole places of a table.

use net_common::limits::TABLE_SLOTS;

/// Places that a table of few instances may have: two chunks of 32 ids.
const SHORT: usize = 64;
/// Places for each instance, at least, where there is room: a share is met to a quarter.
const PLACES_EACH: usize = 4;

/// Places for each share, in their order: by largest remainder (Hamilton's method), at least one
/// for a positive share, none for any other, divided by their common divisor.
///
/// Few instances get 64 places or less, many get 4 each, up to `TABLE_SLOTS` in all. Equal shares
/// come out as one place each. Of more than `TABLE_SLOTS` positive shares the first are served.
pub fn apportion(shares: &[f64]) -> Vec<u32> {
    let mut served = 0;
    let shares: Vec<f64> = shares
        .iter()
        .map(|share| {
            let positive = share.is_finite() && *share > 0.0 && served < TABLE_SLOTS as usize;
            served += usize::from(positive);
            if positive { *share } else { 0.0 }
        })
        .collect();
    if served == 0 {
        return vec![0; shares.len()];
    }
    // A multiple of their number, so that equal shares are equal places.
    let each = (SHORT / served).max(PLACES_EACH).min(TABLE_SLOTS as usize / served);
    let places = each * served;

    let total: f64 = shares.iter().sum();
    let exact: Vec<f64> = shares.iter().map(|share| share / total * places as f64).collect();
    let mut given: Vec<u32> = exact
        .iter()
        .map(|exact| if *exact > 0.0 { (exact.floor() as u32).max(1) } else { 0 })
        .collect();

    let by_need = |left: usize, right: usize, given: &[u32]| {
        let need = |at: usize| exact[at] - f64::from(given[at]);
        // The earlier one where both need the same.
        need(left).total_cmp(&need(right)).then(right.cmp(&left))
    };
    let served: Vec<usize> = (0..shares.len()).filter(|at| shares[*at] > 0.0).collect();
    loop {
        let sum: usize = given.iter().map(|places| *places as usize).sum();
        let chosen = if sum < places {
            served.iter().copied().max_by(|l, r| by_need(*l, *r, &given))
        } else if sum > places {
            let many = served.iter().copied().filter(|at| given[*at] > 1);
            many.min_by(|l, r| by_need(*l, *r, &given))
        } else {
            None
        };
        match chosen {
            Some(at) if sum < places => given[at] += 1,
            Some(at) => given[at] -= 1,
            None => break,
        }
    }
    let divisor = given.iter().copied().fold(0, gcd).max(1);
    given.iter().map(|places| places / divisor).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_shares_are_one_place_each() {
        for n in [1, 2, 3, 5, 7, 17, 63, 65, 300, 1021] {
            assert_eq!(apportion(&vec![1.0 / n as f64; n]), vec![1; n]);
        }
    }

    #[test]
    fn simple_shares_are_met_as_nearly_as_places_allow() {
        assert_eq!(apportion(&[0.75, 0.25]), [3, 1]);
        assert_eq!(apportion(&[0.5, 0.25, 0.25]), [31, 16, 16]);
        assert_eq!(apportion(&[0.999, 0.0, 0.001]), [63, 0, 1]);
    }

    proptest! {
        #[test]
        fn places_are_near_the_shares(shares in prop::collection::vec(0.0..1.0_f64, 1..40)) {
            let places = apportion(&shares);
            let total: f64 = shares.iter().sum();
            let sum: u32 = places.iter().sum();
            let positive = shares.iter().filter(|share| **share > 0.0).count();
            prop_assert!(sum as usize <= (positive * PLACES_EACH).max(SHORT));
            for (share, places) in shares.iter().zip(&places) {
                prop_assert_eq!(*share > 0.0, *places > 0);
                if *share > 0.0 {
                    let exact = share / total;
                    let got = f64::from(*places) / f64::from(sum);
                    // One place off, and the places lent to those with too little for one.
                    prop_assert!(got <= exact + 1.0 / 32.0, "{got} for {exact}");
                    prop_assert!(got >= exact / 2.0, "{got} for {exact}");
                }
            }
        }
    }

    #[test]
    fn more_shares_than_places_serves_the_first() {
        let places = apportion(&vec![1.0; 1100]);
        assert_eq!(places.iter().sum::<u32>(), TABLE_SLOTS);
        assert_eq!(places[..1021], vec![1; 1021]);
    }

    #[test]
    fn nothing_sensible_is_nothing() {
        assert_eq!(apportion(&[]), [0; 0]);
        assert_eq!(apportion(&[0.0, f64::NAN, -1.0, f64::INFINITY]), [0; 4]);
    }
}
