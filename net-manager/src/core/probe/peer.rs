//! One peer: its probes on the way, and whether it counts as up.
//!
//! A probe is missed when its answer is not there after the timeout. Missed probes count in a row
//! from the newest answered one on, so an old answer that comes late does not hide that the later
//! probes are lost. With `misses` in a row the peer is down, and it is up again after as many
//! answers in a row as [`super::damping`] asks for.
//!
//! An answer after its timeout, but within [`Settings::patience`], is an answer all the same: a
//! path that has become slow could never come back if its answers were thrown away.
//!
//! A peer that has never answered is up, unless it must answer: Oakestra's proxy ignores probes.

use std::{collections::VecDeque, time::Duration};

use super::{
    Settings,
    damping::Damping,
    loss::Loss,
    rtt::{Estimate, Rtt},
};

/// Probes remembered of a peer, far more than `patience / interval`.
const REMEMBERED: usize = 256;

/// Why an answer is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// No peer has this node id.
    NoPeer,
    /// No probe with this number is awaited: it was never sent, or is long forgotten.
    NotAwaited,
    /// It came after [`Settings::patience`].
    Late,
    /// The probe was answered before.
    Duplicate,
    /// The number fits, the nonce or the time of sending does not.
    Forged,
}

/// Counts since the peer was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub sent: u64,
    pub answered: u64,
    /// Of those, after the timeout.
    pub slow: u64,
    pub not_awaited: u64,
    pub late: u64,
    pub duplicate: u64,
    pub forged: u64,
    /// How often it went down.
    pub downs: u64,
}

/// What is known of the way to a peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// Whether new flows may go there.
    pub is_up: bool,
    /// It has answered since it was added, or since it was last said that it need not.
    pub has_answered: bool,
    /// `None` before the first answer.
    pub rtt: Option<Estimate>,
    /// The least in [`Settings::min_window`].
    pub rtt_min: Option<Duration>,
    /// Of the last 100 probes whose fate is known, 0 to 1.
    pub loss: Option<f64>,
    /// Answers in a row that are missing until it is up; 0 while it is.
    pub answers_missing: u32,
    /// What it is punished with for going down, see [`super::damping`].
    pub penalty: f64,
    pub stats: Stats,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    seq: u32,
    at: Duration,
    nonce: u64,
    answered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down { since: Duration },
}

#[derive(Clone, Debug)]
pub(super) struct Peer {
    must_answer: bool,
    has_answered: bool,
    state: State,
    /// Their numbers follow one another, the oldest first.
    sent: VecDeque<Sent>,
    next_seq: u32,
    /// Probes before this one say nothing (any more) about the peer: this one is the first after
    /// the newest answered.
    open: u32,
    /// Probes answered in a row up to `open`.
    streak: u32,
    last_answer: Option<Duration>,
    damping: Damping,
    rtt: Rtt,
    loss: Loss,
    stats: Stats,
}

impl Peer {
    pub(super) fn new(must_answer: bool) -> Self {
        Self {
            must_answer,
            has_answered: false,
            state: State::Up,
            sent: VecDeque::new(),
            next_seq: 0,
            open: 0,
            streak: 0,
            last_answer: None,
            damping: Damping::default(),
            rtt: Rtt::default(),
            loss: Loss::default(),
            stats: Stats::default(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Says whether it must answer. What was unanswered so far is not held against it.
    pub(super) fn set_must_answer(&mut self, must_answer: bool) {
        if must_answer != self.must_answer {
            self.must_answer = must_answer;
            self.open = self.next_seq;
            self.streak = 0;
            if !must_answer {
                self.has_answered = false;
                self.state = State::Up;
            }
        }
    }

    pub(super) fn next_seq(&self) -> u32 {
        self.next_seq
    }

    pub(super) fn send(&mut self, settings: &Settings, nonce: u64, now: Duration) {
        let forgotten = |sent: &Sent| now.saturating_sub(sent.at) > settings.patience;
        // Those that decide whether it is down are needed, however slow the pace is.
        while self.sent.len() > settings.misses as usize && self.sent.front().is_some_and(forgotten)
            || self.sent.len() >= REMEMBERED
        {
            if let Some(sent) = self.sent.pop_front() {
                self.loss.add(!sent.answered);
            }
        }
        self.sent.push_back(Sent { seq: self.next_seq, at: now, nonce, answered: false });
        self.next_seq = self.next_seq.wrapping_add(1);
        self.stats.sent += 1;
    }

    /// When the probe really left.
    pub(super) fn sent(&mut self, seq: u32, at: Duration) {
        if let Some(sent) = self.find(seq).filter(|sent| !sent.answered) {
            sent.at = at;
        }
    }

    fn find(&mut self, seq: u32) -> Option<&mut Sent> {
        let first = self.sent.front()?.seq;
        self.sent.get_mut(seq.wrapping_sub(first) as usize)
    }

    /// Takes an answer; returns the round trip.
    pub(super) fn answer(
        &mut self,
        settings: &Settings,
        reply: &super::Reply,
        now: Duration,
    ) -> Result<Duration, Ignored> {
        let rtt = self.check(settings, reply).inspect_err(|ignored| match ignored {
            Ignored::NoPeer | Ignored::NotAwaited => self.stats.not_awaited += 1,
            Ignored::Late => self.stats.late += 1,
            Ignored::Duplicate => self.stats.duplicate += 1,
            Ignored::Forged => self.stats.forged += 1,
        })?;
        self.stats.answered += 1;
        self.stats.slow += u64::from(rtt > self.timeout(settings));
        self.rtt.add(rtt, settings.min_window, reply.received);
        self.has_answered = true;
        self.last_answer = Some(now);

        // Numbers wrap, so a newer one is the one that is less than half the range ahead.
        let ahead = reply.seq.wrapping_sub(self.open);
        if ahead < u32::MAX / 2 {
            self.streak = if ahead == 0 { self.streak.saturating_add(1) } else { 1 };
            self.open = reply.seq.wrapping_add(1);
        }
        if self.streak >= self.damping.answers(&settings.damping, now) {
            self.state = State::Up;
        }
        Ok(rtt)
    }

    fn check(&mut self, settings: &Settings, reply: &super::Reply) -> Result<Duration, Ignored> {
        let sent = self.find(reply.seq).ok_or(Ignored::NotAwaited)?;
        if sent.nonce != reply.nonce || sent.at != reply.sent || reply.received < sent.at {
            return Err(Ignored::Forged);
        }
        if sent.answered {
            return Err(Ignored::Duplicate);
        }
        let rtt = reply.received - sent.at;
        if rtt > settings.patience {
            return Err(Ignored::Late);
        }
        sent.answered = true;
        Ok(rtt)
    }

    fn timeout(&self, settings: &Settings) -> Duration {
        let timeout = self.rtt.timeout().unwrap_or(settings.timeout_first);
        timeout.max(settings.timeout_min).min(settings.patience)
    }

    /// When it will be down, if no answer comes until then.
    pub(super) fn down_at(&self, settings: &Settings) -> Option<Duration> {
        if !self.is_up() || !(self.must_answer || self.has_answered) {
            return None;
        }
        let first = self.sent.front()?.seq;
        let open = self.open.wrapping_sub(first);
        // Older than all that is remembered, it has wrapped.
        let open = if open > u32::MAX / 2 { 0 } else { open as usize };
        let last = self.sent.get(open + settings.misses.max(1) as usize - 1)?;
        Some(last.at + self.timeout(settings))
    }

    /// Its probes went unanswered for too long.
    pub(super) fn go_down(&mut self, settings: &Settings, now: Duration) {
        self.state = State::Down { since: now };
        self.streak = 0;
        self.damping.punish(&settings.damping, now);
        self.stats.downs += 1;
    }

    /// From one probe to the next.
    pub(super) fn period(&self, settings: &Settings, now: Duration) -> Duration {
        let is_idle = match self.state {
            State::Up => {
                !self.must_answer
                    && !self.has_answered
                    && self.stats.sent >= u64::from(settings.misses)
            }
            State::Down { since } => {
                let since = self.last_answer.map_or(since, |last| last.max(since));
                now.saturating_sub(since) > settings.resignation
            }
        };
        if is_idle { settings.idle_interval } else { settings.interval }
    }

    pub(super) fn path(&self, settings: &Settings, now: Duration) -> Path {
        let wanted = self.damping.answers(&settings.damping, now);
        Path {
            is_up: self.is_up(),
            has_answered: self.has_answered,
            rtt: self.rtt.estimate(),
            rtt_min: self.rtt.least(),
            loss: self.loss.ratio(),
            answers_missing: if self.is_up() {
                0
            } else {
                wanted.saturating_sub(self.streak).max(1)
            },
            penalty: self.damping.penalty(&settings.damping, now),
            stats: self.stats,
        }
    }
}
