//! Which measurements are worth telling: each that is told costs a write to the maps, and there are
//! ten a second of each peer.

use std::{collections::BTreeMap, time::Duration};

use crate::core::tables::NodeId;

/// How often a round trip that changes slowly is told at most.
const EVERY: Duration = Duration::from_secs(1);
/// Of the round trip that was told last: a smaller change is none.
const CHANGE_SHARE: u32 = 16;

#[derive(Clone, Copy, Debug)]
struct Told {
    at: Duration,
    is_up: bool,
    rtt: Option<Duration>,
}

/// What was told of each peer.
#[derive(Clone, Debug, Default)]
pub struct Reporter {
    told: BTreeMap<NodeId, Told>,
}

impl Reporter {
    /// Whether this is to be told of a peer; then it counts as told.
    pub fn is_news(
        &mut self,
        node: NodeId,
        is_up: bool,
        rtt: Option<Duration>,
        now: Duration,
    ) -> bool {
        let is_news = match self.told.get(&node) {
            None => rtt.is_some() || !is_up,
            Some(told) if told.is_up != is_up || told.rtt.is_some() != rtt.is_some() => true,
            Some(told) => {
                let (old, new) = (told.rtt.unwrap_or_default(), rtt.unwrap_or_default());
                new.abs_diff(old) > old / CHANGE_SHARE && now.saturating_sub(told.at) >= EVERY
            }
        };
        if is_news {
            self.told.insert(node, Told { at: now, is_up, rtt });
        }
        is_news
    }

    /// Whatever is known of a peer next is told.
    pub fn forget(&mut self, node: NodeId) {
        self.told.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = 3;

    #[test]
    fn a_change_of_state_is_told_at_once_and_a_round_trip_now_and_then() {
        let mut reporter = Reporter::default();
        let ms = Duration::from_millis;
        let mut told =
            |is_up, rtt: Option<u64>, at| reporter.is_news(NODE, is_up, rtt.map(ms), ms(at));
        assert!(!told(true, None, 0), "that is what is assumed");
        assert!(told(true, Some(32), 100));
        assert!(!told(true, Some(90), 200), "soon after");
        assert!(!told(true, Some(33), 1100), "as good as the same");
        assert!(told(true, Some(35), 1101));
        assert!(told(false, Some(35), 1102));
        assert!(!told(false, Some(35), 9999));
        assert!(told(true, Some(35), 10_000));
        reporter.forget(NODE);
        assert!(reporter.is_news(NODE, true, Some(ms(35)), ms(10_001)));
    }
}
