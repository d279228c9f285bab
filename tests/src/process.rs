//! Processes of a test: started in a host, watched, and ended.

use std::{
    fs::{self, File},
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
    },
    unistd::{Pid, SysconfVar, sysconf},
};

use crate::{netns::Netns, wait::wait_for};

/// How long a daemon may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A running program with its output in a file; it is stopped when this is dropped, and killed
/// by the kernel should the thread that started it die.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in `netns` (here, without one), stdout and stderr appended to `log`.
    ///
    /// # Errors
    /// If the log cannot be written or the program not started.
    pub fn start(
        name: &str,
        mut command: Command,
        netns: Option<&Netns>,
        log: &Path,
    ) -> Result<Self> {
        if let Some(netns) = netns {
            netns.enter(&mut command);
        }
        // The output goes to a file.
        command.env("NO_COLOR", "1");
        // Ctrl-C on a terminal is for whoever started us, who ends us in order.
        command.process_group(0);
        // SAFETY: both are bare system calls and touch no memory but the stack's, so they are
        // allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // Who started us may have blocked what is to stop the program.
                SigSet::empty().thread_set_mask()?;
                Ok(())
            });
        }
        let output = || File::options().create(true).append(true).open(log);
        let child = output()
            .and_then(|stdout| Ok((stdout, output()?)))
            .and_then(|(stdout, stderr)| {
                command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn()
            })
            .with_context(|| {
                format!("cannot start {name} ({})", command.get_program().display())
            })?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Nothing while it runs.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Whether it runs still; one that ended and was not waited for does not.
    pub fn is_running(&self) -> bool {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(path).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// Waits for `ready`, but not for a process that has ended.
    ///
    /// # Errors
    /// If it is not ready within `limit` or ends; with the last lines of its log.
    pub fn wait_ready(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut ended = None;
        let name = self.name.clone();
        let outcome = wait_for(&format!("{name} to be ready"), limit, || {
            ended = self.ended().context("cannot watch it")?;
            if ended.is_some() { Ok(()) } else { ready() }
        });
        let outcome = match ended {
            Some(status) => Err(anyhow!("{name} ended at once with {status}")),
            None => outcome,
        };
        outcome.map_err(|error| anyhow!("{error:#}\nIts last words:\n{}", self.log_tail(15)))
    }

    /// The last lines of its output.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// CPU time used so far by all its threads.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let ticks: u64 = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().skip(11).take(2))
            .context("no fields")?
            .map(str::parse::<u64>)
            .sum::<Result<_, _>>()
            .with_context(|| format!("{path} is not as expected: {stat}"))?;
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick length")?;
        Ok(Duration::from_secs(ticks) / u32::try_from(per_second)?)
    }

    /// Ends it as a crash would.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// If it has to be killed, or ends otherwise than with exit code 0.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            return self.judge(status);
        }
        kill(self.nix_pid(), Signal::SIGTERM)
            .with_context(|| format!("cannot signal {}", self.name))?;
        let waited = wait_for(&format!("{} to stop", self.name.clone()), STOP_LIMIT, || {
            self.ended().context("cannot watch it")?.context("still running")
        });
        match waited {
            Ok(status) => self.judge(status),
            Err(error) => {
                self.kill()?;
                Err(error.context(format!("{} had to be killed", self.name)))
            }
        }
    }

    fn judge(&self, status: ExitStatus) -> Result<()> {
        if status.success() || status.signal() == Some(Signal::SIGKILL as i32) {
            return Ok(());
        }
        bail!("{} ended with {status}:\n{}", self.name, self.log_tail(15));
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("the kernel's pids are positive i32"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

/// The last lines of a file, or why there are none.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Err(error) => format!("(no log at {}: {error})", path.display()),
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
    }
}
