//! How much the verifier may have to do for each program: more of it is a decision that somebody
//! makes, and no accident that is noticed when the verifier gives up.

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    command::workspace,
    ebpf,
    verifier::{self, Count, NotCounted},
};

/// Room above what was counted, so that only what changes the programs' shape is noticed.
const ROOM_PERCENT: u32 = 10;

const HOW_TO_ACCEPT: &str = "if it is meant to be so, `cargo xtask build-ebpf --accept` writes \
                             what is now into net-ebpf/budget.toml, which belongs into the commit";

/// The committed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Budget {
    /// Release of the kernel that counted, `major.minor`: another's verifier counts otherwise.
    kernel: String,
    verified_instructions_max: BTreeMap<String, u32>,
}

/// A program and what it may take.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    #[serde(flatten)]
    count: Count,
    /// Nothing for a program that has no budget yet.
    budget: Option<u32>,
}

/// What came of the comparison.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) lines: Vec<Line>,
    /// In words.
    pub(crate) exceeded: Vec<String>,
    /// The kernels, if the budget was made on another than this one.
    other_kernel: Option<(String, String)>,
}

/// Counts, and compares with the budget; with `accept`, makes the counts the budget. Nothing
/// where programs cannot be loaded, which it says.
///
/// # Errors
/// The kernel refuses a program, or the budget cannot be read or written.
pub(crate) fn check(accept: bool) -> Result<Option<Report>> {
    let counts = match verifier::count(&ebpf::object()) {
        Ok(counts) => counts,
        Err(NotCounted::Failed(error)) => return Err(error),
        Err(NotCounted::NotAllowed) if accept => {
            bail!("programs may not be loaded here, so there is nothing to accept: run it as root")
        }
        Err(NotCounted::NotAllowed) => {
            eprintln!(
                "build-ebpf: the verifier's counts were NOT taken, and not compared with the \
                 budget: loading programs takes root, or CAP_BPF and CAP_NET_ADMIN"
            );
            return Ok(None);
        }
    };
    let kernel = kernel()?;
    if accept {
        Budget::with_room(&counts, kernel.clone()).write()?;
    }
    Ok(Some(Budget::read()?.compare(counts, &kernel)))
}

impl Report {
    /// # Errors
    /// A budget is exceeded, on the kernel that it was made on.
    pub(crate) fn judge(&self) -> Result<()> {
        if self.exceeded.is_empty() {
            return Ok(());
        }
        let what = self.exceeded.join("\n  ");
        match &self.other_kernel {
            None => bail!("the verifier has more to do:\n  {what}\n{HOW_TO_ACCEPT}"),
            Some((theirs, ours)) => {
                eprintln!(
                    "build-ebpf: kernel {ours} has more to verify than {theirs}, which the \
                     budget was made on:\n  {what}"
                );
                Ok(())
            }
        }
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<20} {:<16} {:>12} {:>10} {:>10} {:>10}\n",
            "PROGRAM", "KIND", "INSTRUCTIONS", "VERIFIED", "BUDGET", "JITED"
        );
        for Line { count, budget } in &self.lines {
            let budget = budget.map_or_else(|| "none".to_owned(), |budget| budget.to_string());
            let _ = writeln!(
                text,
                "{:<20} {:<16} {:>12} {:>10} {:>10} {:>8} B",
                count.program,
                count.kind,
                count.instructions,
                count.verified_instructions,
                budget,
                count.jited_bytes
            );
        }
        text
    }
}

impl Budget {
    fn file() -> PathBuf {
        workspace().join("net-ebpf/budget.toml")
    }

    fn read() -> Result<Self> {
        let file = Self::file();
        let text = fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}; {HOW_TO_ACCEPT}", file.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not valid", file.display()))
    }

    fn write(&self) -> Result<()> {
        let text = format!(
            "# Most instructions that the verifier may look at for each program: the count of the\n\
             # day when it was accepted and a tenth more. Written by\n\
             # `cargo xtask build-ebpf --accept`; `cargo xtask test` and `ci` fail above it.\n\n{}",
            toml::to_string(self).context("a budget is no TOML")?
        );
        let file = Self::file();
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    fn with_room(counts: &[Count], kernel: String) -> Self {
        let max = |count: &Count| {
            let room = count.verified_instructions.div_ceil(100 / ROOM_PERCENT);
            (count.program.clone(), count.verified_instructions + room)
        };
        Self { kernel, verified_instructions_max: counts.iter().map(max).collect() }
    }

    fn compare(&self, counts: Vec<Count>, kernel: &str) -> Report {
        let mut exceeded = Vec::new();
        let mut lines = Vec::new();
        for count in counts {
            let budget = self.verified_instructions_max.get(&count.program).copied();
            let (program, verified) = (&count.program, count.verified_instructions);
            match budget {
                None => exceeded.push(format!("{program}: {verified}, and it has no budget")),
                Some(max) if verified > max => {
                    exceeded.push(format!("{program}: {verified}, {max} is its budget"))
                }
                Some(_) => {}
            }
            lines.push(Line { count, budget });
        }
        let other = self.kernel != kernel;
        Report {
            lines,
            exceeded,
            other_kernel: other.then(|| (self.kernel.clone(), kernel.to_owned())),
        }
    }
}

/// `major.minor` of the running kernel.
fn kernel() -> Result<String> {
    const FILE: &str = "/proc/sys/kernel/osrelease";
    let release = fs::read_to_string(FILE).with_context(|| format!("cannot read {FILE}"))?;
    Ok(release.trim().split('.').take(2).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(program: &str, verified_instructions: u32) -> Count {
        Count {
            program: program.to_owned(),
            kind: "SchedClassifier".to_owned(),
            instructions: 100,
            verified_instructions,
            jited_bytes: 500,
        }
    }

    #[test]
    fn growth_beyond_the_room_is_noticed_and_nothing_else() {
        let budget = Budget::with_room(&[count("a", 1000), count("b", 1)], "6.18".to_owned());
        let judged = |a, b| budget.compare(vec![count("a", a), count("b", b)], "6.18").judge();
        judged(1100, 2).unwrap();
        judged(10, 1).unwrap();
        let error = judged(1101, 1).unwrap_err().to_string();
        assert!(error.contains("a: 1101") && error.contains("--accept"), "{error}");
        assert!(!error.contains("b:"), "{error}");
    }

    #[test]
    fn a_new_program_needs_a_budget() {
        let budget = Budget::with_room(&[count("a", 1000)], "6.18".to_owned());
        let report = budget.compare(vec![count("a", 1000), count("new", 5)], "6.18");
        assert!(report.judge().unwrap_err().to_string().contains("new: 5"));
    }

    /// Someone who builds on another kernel is told, and not kept from working.
    #[test]
    fn another_kernels_verifier_may_count_otherwise() {
        let budget = Budget::with_room(&[count("a", 1000)], "6.18".to_owned());
        let report = budget.compare(vec![count("a", 5000)], "6.6");
        assert_eq!(report.exceeded.len(), 1);
        report.judge().unwrap();
    }

    #[test]
    fn the_file_comes_back_as_it_was_written() {
        let budget = Budget::with_room(&[count("a", 1000)], "6.18".to_owned());
        assert_eq!(toml::from_str::<Budget>(&toml::to_string(&budget).unwrap()).unwrap(), budget);
    }
}
