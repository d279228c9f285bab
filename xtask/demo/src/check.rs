//! `--check`: what must be so.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use net_common::ProgramCounter;
use xylem_types::instance::InstanceStatus;

use crate::facts::Facts;

/// How much more often one instance may answer than another, in a round of 30.
const SPREAD_MAX: u32 = 2;

/// Below TCP's first retransmission of a lost packet, which comes after 200 ms, or after 1 s for
/// a SYN; far above what anything here takes.
const ANSWER_LIMIT_MS: f64 = 200.0;

/// Says everything that is wrong, not only the first thing.
pub(crate) fn check(facts: &Facts, workers: usize) -> Result<()> {
    let mut wrong = Vec::new();
    let mut must = |holds: bool, otherwise: String| {
        if !holds {
            wrong.push(otherwise);
        }
    };

    must(facts.web.len() == workers, format!("{} instances of {workers}", facts.web.len()));
    for instance in facts.web.iter().chain([&facts.client]) {
        let Some(_) = instance.namespace_ip.zip(instance.instance_ip) else {
            must(false, format!("{} has not all its addresses: {instance:?}", instance.name));
            continue;
        };
        must(
            instance.status == InstanceStatus::Running,
            format!("{} is {}", instance.name, instance.status),
        );
    }
    let used: BTreeSet<_> = facts.web.iter().map(|instance| instance.worker).collect();
    must(used.len() == workers, format!("the instances are on {} workers only", used.len()));
    must(
        used.contains(&facts.client.worker) && used.len() > 1,
        "the client does not see both an instance of its own worker and another's".to_owned(),
    );

    let answers: Vec<_> = facts.web.iter().map(|instance| facts.answers(instance)).collect();
    let (least, most) = (answers.iter().min().unwrap_or(&0), answers.iter().max().unwrap_or(&0));
    must(*least > 0, format!("not every instance answered: {:?}", facts.tally));
    must(most - least <= SPREAD_MAX, format!("the spread is not even: {:?}", facts.tally));
    must(facts.tally.failed == 0, format!("connections failed: {:?}", facts.tally));
    must(
        facts.tally.slowest_ms < ANSWER_LIMIT_MS,
        format!("a packet was lost or waited for: {:?}", facts.tally),
    );
    let strangers = facts.tally.answers.values().sum::<u32>() - answers.iter().sum::<u32>();
    must(strangers == 0, format!("somebody else answered: {:?}", facts.tally));

    for link in facts.links.iter().filter(|link| !matches!(&*link.kind, "" | "veth")) {
        must(false, format!("{} is a {} on {}", link.ifname, link.kind, link.place));
    }
    for wanted in [ProgramCounter::Encapsulated, ProgramCounter::Delivered] {
        let count = facts.programs.iter().find(|(which, _)| *which == wanted);
        let packets = count.map_or(0, |(_, counter)| counter.packets);
        must(packets > 0, format!("the kernel programs count no packet as {wanted:?}"));
    }

    if !wrong.is_empty() {
        bail!("{} things are wrong:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    Ok(())
}
