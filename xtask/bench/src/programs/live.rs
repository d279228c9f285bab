//! The attached programs in a flood, by the kernel's own account (`BPF_ENABLE_STATS`): it looks at
//! the clock before and after each run, which is part of what it tells.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use xylem_tests::{load::datagrams_per_second, platform::Name};

use super::{
    case::{Case, Family, How, Sample, Work},
    test_run,
};
use crate::{contender::Contender as _, interrupt::Interrupt, metric::Place, xylem::Xylem};

/// What is looked at: a flood from where to where, and the program that does the work.
const CASES: [(Place, &str, Work); 3] = [
    (Place::Same, "from_instance", Work::TranslateUdp),
    (Place::Cross, "from_instance", Work::Encapsulate),
    (Place::Cross, "from_uplink", Work::DecapsulateAndDeliver),
];

const PAYLOAD: usize = 64;

/// # Errors
/// If the platform does not start, a flood fails, or it was interrupted.
pub(super) fn measure(
    rounds: u32,
    duration: Duration,
    interrupt: &Interrupt,
) -> Result<Vec<Sample>> {
    let case =
        |work, program| Case { how: How::Live, work, family: Family::Ipv4, program, services: 0 };
    let mut samples = Vec::new();
    for round in 0..rounds {
        let nanos = test_run::clock_of_account()?;
        samples.push(Sample { case: case(Work::Clock, "from_instance"), round, nanos });
    }
    eprintln!("setting up xylem");
    let xylem = Xylem::start(Name::new(format!("b{}", std::process::id())))?;
    // Held while it is measured, and no longer: it costs every program on the machine.
    let _enabled = enable_stats(Stats::RunTime).context("the kernel keeps no account")?;
    for round in 0..rounds {
        eprintln!("live: round {} of {rounds}", round + 1);
        for place in Place::ALL {
            interrupt.check()?;
            let path = xylem.path(place);
            let before = account()?;
            path.client.run(|| datagrams_per_second(path.server, PAYLOAD, duration))?;
            let after = account()?;
            for (_, program, work) in CASES.into_iter().filter(|case| case.0 == place) {
                let nanos = busiest(&before, &after, program)
                    .with_context(|| format!("no program {program} ran in the flood"))?;
                samples.push(Sample { case: case(work, program), round, nanos });
            }
        }
    }
    Ok(samples)
}

/// Of one program: its name, how often it ran and how long all together.
#[derive(Clone, Debug)]
struct Account {
    name: String,
    runs: u64,
    time: Duration,
}

/// All programs of the machine, by id.
fn account() -> Result<BTreeMap<u32, Account>> {
    let mut accounts = BTreeMap::new();
    // One that is unloaded while we look is none of ours.
    for program in loaded_programs().flatten() {
        let account = Account {
            name: program.name_as_str().unwrap_or_default().to_owned(),
            runs: program.run_count(),
            time: program.run_time(),
        };
        accounts.insert(program.id(), account);
    }
    Ok(accounts)
}

/// Nanoseconds a run of the program called `name` that ran most often in between: each node has
/// one of its own, and another platform may be on this machine.
fn busiest(
    before: &BTreeMap<u32, Account>,
    after: &BTreeMap<u32, Account>,
    name: &str,
) -> Option<f64> {
    let changes = after.iter().filter(|(_, account)| account.name == name).map(|(id, after)| {
        let (runs, time) = before.get(id).map_or((0, Duration::ZERO), |b| (b.runs, b.time));
        (after.runs - runs, after.time.saturating_sub(time))
    });
    let (runs, time) = changes.max_by_key(|(runs, _)| *runs)?;
    (runs > 0).then(|| time.as_nanos() as f64 / runs as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_nodes_the_one_in_the_flood_counts() {
        let account = |runs, micros| Account {
            name: "from_instance".to_owned(),
            runs,
            time: Duration::from_micros(micros),
        };
        let before = BTreeMap::from([(1, account(1_000_000, 900_000)), (2, account(0, 0))]);
        let after = BTreeMap::from([(1, account(1_000_010, 900_100)), (2, account(1_000, 250))]);
        assert_eq!(busiest(&before, &after, "from_instance"), Some(250.0));
        assert_eq!(busiest(&before, &before, "from_instance"), None);
        assert_eq!(busiest(&before, &after, "other"), None);
    }
}
