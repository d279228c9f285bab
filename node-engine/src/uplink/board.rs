//! What the cluster has to know of instances, and has not been told on this connection.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use xylem_types::mqtt::InstanceReport;

use crate::core::id::InstanceId;

/// Last words kept, at most; the oldest go first.
const GONE_MAX: usize = 256;

/// A last word is said again on a new connection for this long, because the broker may have lost
/// it: its queues do not outlive it.
const GONE_REPEATED_FOR: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Board {
    states: BTreeMap<InstanceId, InstanceReport>,
    untold: BTreeSet<InstanceId>,
    gone: VecDeque<Gone>,
}

#[derive(Debug)]
struct Gone {
    id: InstanceId,
    report: InstanceReport,
    told_at: Option<Instant>,
    /// Told on this connection.
    told: bool,
}

impl Board {
    pub(super) fn state(&mut self, id: InstanceId, report: InstanceReport) {
        self.gone.retain(|gone| gone.id != id);
        self.untold.insert(id.clone());
        self.states.insert(id, report);
    }

    pub(super) fn gone(&mut self, id: InstanceId, report: InstanceReport) {
        // A newer generation may be here, whose state goes on to count.
        if self.states.get(&id).is_some_and(|state| state.generation <= report.generation) {
            self.states.remove(&id);
            self.untold.remove(&id);
        }
        if self.gone.len() == GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back(Gone { id, report, told_at: None, told: false });
    }

    /// Nothing was told on the new connection yet.
    pub(super) fn connected(&mut self, now: Instant) {
        self.untold = self.states.keys().cloned().collect();
        self.gone.retain(|gone| gone.told_at.is_none_or(|at| now - at < GONE_REPEATED_FOR));
        for gone in &mut self.gone {
            gone.told = false;
        }
    }

    /// Hands out what is untold until `tell` does not take any more.
    pub(super) fn flush(&mut self, now: Instant, mut tell: impl FnMut(&InstanceReport) -> bool) {
        for gone in self.gone.iter_mut().filter(|gone| !gone.told) {
            if !tell(&gone.report) {
                return;
            }
            gone.told = true;
            gone.told_at = Some(now);
        }
        while let Some(id) = self.untold.first() {
            let taken = self.states.get(id).is_none_or(&mut tell);
            if !taken {
                return;
            }
            self.untold.pop_first();
        }
    }

    pub(super) fn is_told(&self) -> bool {
        self.untold.is_empty() && self.gone.iter().all(|gone| gone.told)
    }
}

#[cfg(test)]
mod tests {
    use xylem_types::instance::InstanceStatus;

    use super::*;

    fn id(number: u32) -> InstanceId {
        InstanceId::new("a.b.c.d", number).unwrap()
    }

    fn report(number: u32, status: InstanceStatus) -> InstanceReport {
        InstanceReport {
            sname: "a.b.c.d".into(),
            status,
            status_detail: String::new(),
            instance: number,
            publicip: String::new(),
            generation: 1,
        }
    }

    fn told(board: &mut Board, now: Instant) -> Vec<(u32, InstanceStatus)> {
        let mut told = vec![];
        board.flush(now, |report| {
            told.push((report.instance, report.status.clone()));
            true
        });
        told
    }

    #[test]
    fn the_newest_state_is_told_once_a_connection() {
        let (mut board, now) = (Board::default(), Instant::now());
        board.state(id(0), report(0, InstanceStatus::Creating));
        board.state(id(0), report(0, InstanceStatus::Running));
        assert_eq!(told(&mut board, now), [(0, InstanceStatus::Running)]);
        assert_eq!(told(&mut board, now), []);
        board.connected(now);
        assert_eq!(told(&mut board, now), [(0, InstanceStatus::Running)]);
        assert!(board.is_told());
    }

    #[test]
    fn what_is_not_taken_is_told_later() {
        let (mut board, now) = (Board::default(), Instant::now());
        board.state(id(0), report(0, InstanceStatus::Running));
        board.state(id(1), report(1, InstanceStatus::Running));
        let mut first = true;
        board.flush(now, |_| std::mem::take(&mut first));
        assert!(!board.is_told());
        assert_eq!(told(&mut board, now), [(1, InstanceStatus::Running)]);
    }

    #[test]
    fn a_last_word_is_repeated_for_a_while_unless_the_instance_is_back() {
        let (mut board, now) = (Board::default(), Instant::now());
        board.gone(id(0), report(0, InstanceStatus::Undeployed));
        board.gone(id(1), report(1, InstanceStatus::Undeployed));
        assert_eq!(told(&mut board, now).len(), 2);
        board.state(id(1), report(1, InstanceStatus::Creating));

        board.connected(now + Duration::from_secs(1));
        let again = told(&mut board, now);
        assert_eq!(again, [(0, InstanceStatus::Undeployed), (1, InstanceStatus::Creating)]);

        board.connected(now + GONE_REPEATED_FOR + Duration::from_secs(1));
        assert_eq!(told(&mut board, now), [(1, InstanceStatus::Creating)]);
    }

    #[test]
    fn the_last_word_on_an_old_generation_leaves_the_new_one() {
        let (mut board, now) = (Board::default(), Instant::now());
        board.state(id(0), report(0, InstanceStatus::Running));
        let old = InstanceReport { generation: 0, ..report(0, InstanceStatus::Undeployed) };
        board.gone(id(0), old);
        assert_eq!(
            told(&mut board, now),
            [(0, InstanceStatus::Undeployed), (0, InstanceStatus::Running)]
        );
    }

    #[test]
    fn a_last_word_that_was_never_told_is_kept_but_not_without_bound() {
        let (mut board, now) = (Board::default(), Instant::now());
        for number in 0..1000 {
            board.gone(id(number), report(number, InstanceStatus::Undeployed));
        }
        board.connected(now + Duration::from_secs(3600));
        assert_eq!(told(&mut board, now).len(), GONE_MAX);
    }
}
