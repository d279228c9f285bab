//! `bench profile`: where the CPU time of one load goes, plain routing and another side beside it.
//!
//! `perf` samples all CPUs while the load runs, in turn for each side. Each sample stands for a
//! stretch of CPU time; divided by what the load got done in it, the sides can be compared symbol
//! by symbol, however fast each is.

mod perf;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use comfy_table::Table;

use self::perf::Perf;
use crate::{
    interrupt::Interrupt,
    measure::run,
    metric::{Load, Metric, Place, Side},
    options::check_seconds,
    report::new_table,
    scene::Scene,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The times are CPU time of the whole machine, by `perf` (Debian: linux-perf), for each packet, \
kilobyte, request or connection of the load: what other programs run is in it, so let nothing else \
run. Functions count without those that they call; a program of the data path has `bpf` in front of \
its name, and the kernel functions that it calls have lines of their own. What runs with interrupts \
off is put down to where they come on again, often a function with `unlock` or `irq` in its name.

Examples:
  cargo xtask bench profile udp64 cross
  cargo xtask bench profile rr_p50 same --side xylem_socket --top 40")]
pub(crate) struct Options {
    /// What is looked at: the load that tells this figure
    metric: Metric,
    /// Where client and server are
    #[arg(value_name = "WHERE")]
    place: Place,
    /// Shown beside plain routing
    #[arg(long, default_value = "xylem")]
    side: Side,
    /// How often each side is looked at
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each time
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// So many functions are shown, those with the most time on either side
    #[arg(long, default_value_t = 30)]
    top: usize,
}

/// CPU time by symbol, and what was got done in it.
#[derive(Debug, Default)]
struct Profile {
    times: BTreeMap<String, Duration>,
    done: f64,
}

/// # Errors
/// If `perf` is missing or does not work here, a side cannot be set up, a load fails, or it was
/// interrupted.
pub(crate) fn measure(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let &Options { metric, place, side, rounds, seconds, top } = options;
    let duration = check_seconds(seconds)?;
    ensure!(side != Side::Plain, "--side plain: that is what the side is shown beside");
    let load = Load::of_metric(metric);
    ensure!(side.carries(load), "{side} carries no such load");
    let perf = Perf::find()?;

    let sides = [Side::Plain, side];
    let scene = Scene::start(&sides)?;
    let mut profiles = [Profile::default(), Profile::default()];
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for (side, profile) in sides.iter().zip(&mut profiles) {
            interrupt.check()?;
            let path = scene.path(*side, place);
            let (values, times) = perf.record(|| run(load, &path, duration, 0.0))?;
            profile.done += load.done_per_second(&values) * duration.as_secs_f64();
            for (symbol, time) in times {
                *profile.times.entry(symbol).or_default() += time;
            }
        }
    }
    interrupt.end();
    drop(scene);
    println!("CPU time in ns for each {}, {place}, by function\n", load.done());
    println!("{}", table(&profiles, side, top));
    Ok(())
}

fn table(profiles: &[Profile; 2], side: Side, top: usize) -> Table {
    let [plain, other] = profiles;
    let symbols = plain.times.keys().chain(other.times.keys());
    let mut nanos: Vec<_> = symbols
        .map(|symbol| (&**symbol, profiles.each_ref().map(|profile| profile.nanos(symbol))))
        .collect();
    nanos.sort_by(|(a_name, a), (b_name, b)| {
        let most = |of: &[f64; 2]| of[0].max(of[1]);
        most(b).total_cmp(&most(a)).then(a_name.cmp(b_name))
    });
    nanos.dedup_by_key(|(symbol, _)| *symbol);
    let sum = |of: &[(&str, [f64; 2])]| {
        of.iter().fold([0.0; 2], |sum, (_, nanos)| [sum[0] + nanos[0], sum[1] + nanos[1]])
    };
    let (shown, others) = nanos.split_at(top.min(nanos.len()));
    let ends = [("all others", sum(others)), ("all together", sum(&nanos))];

    let name = side.to_string().to_uppercase();
    let mut table = new_table(&["FUNCTION", "PLAIN", &name, "DIFFERENCE"], &[1, 2, 3]);
    for (symbol, [plain, other]) in shown.iter().chain(&ends) {
        table.add_row([
            (*symbol).to_owned(),
            format!("{plain:.0}"),
            format!("{other:.0}"),
            format!("{:+.0}", other - plain),
        ]);
    }
    table
}

impl Profile {
    /// For each that was done.
    fn nanos(&self, symbol: &str) -> f64 {
        let time = self.times.get(symbol).copied().unwrap_or_default();
        time.as_nanos() as f64 / self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(done: f64, times: &[(&str, u64)]) -> Profile {
        let times = times
            .iter()
            .map(|(symbol, micros)| ((*symbol).to_owned(), Duration::from_micros(*micros)));
        Profile { times: times.collect(), done }
    }

    #[test]
    fn sides_are_compared_by_what_each_got_done() {
        let profiles = [
            profile(100.0, &[("memcpy", 40), ("nf_hook", 10), ("rare", 1)]),
            profile(200.0, &[("memcpy", 80), ("bpf from_instance", 60)]),
        ];
        let text = table(&profiles, Side::Xylem, 3).to_string();
        let lines: Vec<_> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "FUNCTION PLAIN XYLEM DIFFERENCE",
                "memcpy 400 400 +0",
                "bpf from_instance 0 300 +300",
                "nf_hook 100 0 -100",
                "all others 10 0 -10",
                "all together 510 700 +190",
            ]
        );
    }
}
