//! Command lines for people to try; `--check` tries them itself, so that they work as printed.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use xylem_tests::{daemon, platform::Platform};

use crate::facts::Facts;

/// One command line.
#[derive(Debug)]
pub(crate) struct Try {
    program: PathBuf,
    arguments: Vec<String>,
    pub(crate) why: String,
}

/// What there is to try on the client's worker and at the root; the last changes something.
pub(crate) fn all(platform: &Platform, facts: &Facts) -> Vec<Try> {
    let worker = &platform.workers[facts.client.worker];
    let (root, bpffs) = (platform.root_url(), worker.paths.bpffs_root.display());
    let netns = platform.topology.workers[facts.client.worker].netns.name();
    let xylem = |line: String, why: String| Try {
        program: daemon::program("xylem"),
        arguments: line.split(' ').map(str::to_owned).collect(),
        why,
    };
    let login = format!("login --root {root} --user Admin --password Admin");
    let enter = format!("--net=/run/netns/{netns} ip -br address");
    vec![
        xylem(login, "a session, kept for the next commands".to_owned()),
        xylem("service list".to_owned(), "all services".to_owned()),
        xylem("service inspect web".to_owned(), "one, with its instances".to_owned()),
        xylem("node list".to_owned(), "all workers".to_owned()),
        xylem(
            format!("net --bpffs {bpffs} services"),
            format!("what the kernel of {} knows", worker.name),
        ),
        xylem(format!("net --bpffs {bpffs} flows"), "who talks to whom".to_owned()),
        xylem(format!("net --bpffs {bpffs} drops"), "what was dropped, and why".to_owned()),
        Try {
            program: "nsenter".into(),
            arguments: enter.split(' ').map(str::to_owned).collect(),
            why: format!("the host that is {}", worker.name),
        },
        xylem(
            format!("service scale web {}", facts.web.len() + 2),
            "the client's next rounds see them".to_owned(),
        ),
    ]
}

impl Try {
    /// As one types it.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.program.display(), self.arguments.join(" "))
    }

    /// Runs it with a configuration of the platform's own.
    pub(crate) fn run(&self, platform: &Platform) -> Result<()> {
        let output = Command::new(&self.program)
            .args(&self.arguments)
            .env("XYLEM_CONFIG", platform.folder().join("cli.toml"))
            .output()
            .with_context(|| format!("cannot run {}", self.line()))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("{} ended with {}: {}", self.line(), output.status, words.trim());
        }
        Ok(())
    }
}
