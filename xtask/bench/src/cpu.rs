//! CPU time of the whole machine: a packet's way runs in softirqs, which no process is charged for.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Measures how long CPUs were busy.
#[derive(Debug)]
pub(crate) struct Meter {
    start: Instant,
    idle: Duration,
}

impl Meter {
    pub(crate) fn start() -> Result<Self> {
        Ok(Self { start: Instant::now(), idle: Stat::read()?.idle })
    }

    /// CPU time since the start, all CPUs together, and the time that has passed.
    ///
    /// It is what was not idle: of that the kernel keeps exact account, while it only samples
    /// what a busy CPU does.
    pub(crate) fn busy(&self) -> Result<(Duration, Duration)> {
        let stat = Stat::read()?;
        let elapsed = self.start.elapsed();
        let idle = stat.idle.saturating_sub(self.idle);
        Ok(((elapsed * stat.cpus).saturating_sub(idle), elapsed))
    }
}

/// What the machine does with nothing to do, for `duration`: busy CPUs on average.
#[expect(clippy::disallowed_methods, reason = "what is measured is that nothing is done")]
pub(crate) fn idle_load(duration: Duration) -> Result<f64> {
    let meter = Meter::start()?;
    std::thread::sleep(duration);
    let (busy, elapsed) = meter.busy()?;
    Ok(busy.as_secs_f64() / elapsed.as_secs_f64())
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpus: u32,
    /// All CPUs together, since boot; also what a hypervisor gave to others.
    idle: Duration,
}

impl Stat {
    fn read() -> Result<Self> {
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick length")?;
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&text, u32::try_from(ticks)?).context("/proc/stat is not as expected")
    }

    /// See proc_stat(5).
    fn parse(text: &str, ticks_per_second: u32) -> Option<Self> {
        const IDLE: usize = 3;
        const IOWAIT: usize = 4;
        const STEAL: usize = 7;
        let total = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields: Vec<u64> =
            total.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let ticks = fields.get(IDLE)? + fields.get(IOWAIT)? + fields.get(STEAL)?;
        let is_cpu = |line: &&str| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let cpus = u32::try_from(text.lines().filter(is_cpu).count()).ok()?;
        Some(Self { cpus, idle: Duration::from_secs(ticks) / ticks_per_second })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
cpu  447476 50189 109461 480141 8251 0 5279 2989 0 0
cpu0 212168 24563 52658 255611 2898 0 2335 1558 0 0
cpu1 235307 25625 56803 224529 5352 0 2943 1431 0 0
intr 1 2 3
ctxt 12
";

    #[test]
    fn idle_is_idle_waiting_and_stolen_time_of_all_cpus() {
        let stat = Stat::parse(TEXT, 100).unwrap();
        assert_eq!(stat.cpus, 2);
        assert_eq!(stat.idle, Duration::from_millis(10 * (480_141 + 8_251 + 2_989)));
    }

    #[test]
    fn another_format_is_noticed() {
        assert_eq!(Stat::parse("", 100), None);
        assert_eq!(Stat::parse("cpu  1 2 3 four 5 6 7 8\ncpu0 1 2", 100), None);
        assert_eq!(Stat::parse("cpu  1 2 3 4\n", 100), None);
    }

    #[test]
    fn a_busy_thread_is_seen() {
        let meter = Meter::start().unwrap();
        let start = Instant::now();
        // The kernel tells hundredths of a second.
        while start.elapsed() < Duration::from_millis(300) {
            std::hint::spin_loop();
        }
        assert!(meter.busy().unwrap().0 > Duration::from_millis(200), "{meter:?}");
    }
}
