//! Numbers of one array map, handed out and taken back.

use std::collections::{BTreeSet, VecDeque};

/// Which indices of an array are taken; 0 never is handed out.
///
/// A number that was given back rests until [`Ids::settle`] says that the maps no longer name its
/// last owner, and is then used again as late as possible.
#[derive(Clone, Debug)]
pub struct Ids {
    /// The lowest number that was never taken.
    fresh: u32,
    capacity: u32,
    /// Least recently used first.
    free: VecDeque<u32>,
    resting: Vec<u32>,
}

/// Every number is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoIdLeft;

impl Ids {
    /// For an array of `capacity` elements, those in `taken` being in use.
    pub fn new(capacity: u32, taken: &BTreeSet<u32>) -> Self {
        let fresh = taken.last().map_or(1, |last| last + 1);
        let free = (1..fresh).filter(|id| !taken.contains(id)).collect();
        Self { fresh, capacity, free, resting: Vec::new() }
    }

    /// # Errors
    /// Every number is taken or resting.
    pub fn take(&mut self) -> Result<u32, NoIdLeft> {
        if self.fresh < self.capacity {
            self.fresh += 1;
            return Ok(self.fresh - 1);
        }
        self.free.pop_front().ok_or(NoIdLeft)
    }

    pub fn give_back(&mut self, id: u32) {
        self.resting.push(id);
    }

    /// What was given back is no longer named by the maps.
    pub fn settle(&mut self) {
        self.free.extend(self.resting.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_before_it_is_used_again() {
        let mut ids = Ids::new(4, &BTreeSet::from([2]));
        assert_eq!(ids.take(), Ok(3));
        assert_eq!(ids.take(), Ok(1));
        assert_eq!(ids.take(), Err(NoIdLeft));
        ids.give_back(3);
        assert_eq!(ids.take(), Err(NoIdLeft));
        ids.settle();
        assert_eq!(ids.take(), Ok(3));
    }
}
