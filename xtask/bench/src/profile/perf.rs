//! Samples of what all CPUs do, by `perf`.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{libc::O_NONBLOCK, sys::stat::Mode, unistd::mkfifo};
use xylem_tests::wait::wait_for;

use crate::tool::Tool;

const PERF: Tool =
    Tool { program: "perf", package: "linux-perf", otherwise: "nothing else samples the kernel" };

/// CPU time between two samples of a CPU. The event is a timer of the kernel, which every machine
/// has, also one without counters of its own.
const PERIOD: Duration = Duration::from_micros(200);
const EVENT: &str = "cpu-clock";

/// How long `perf` may take to begin or to end.
const LIMIT: Duration = Duration::from_secs(20);

/// What a CPU does that has nothing to do.
const IDLE: [&str; 6] = [
    "acpi_safe_halt",
    "default_idle",
    "intel_idle",
    "mwait_idle",
    "native_safe_halt",
    "pv_native_safe_halt",
];

/// Files of a recording.
const SAMPLES: &str = "samples";
const SAID: &str = "said";

/// What is no function of the kernel: of this program, and of all others, a proxy among them.
const USER_SPACE: &str = "(client and server)";
const OTHER_PROGRAMS: &str = "(other programs)";

#[derive(Debug)]
pub(super) struct Perf {
    program: PathBuf,
}

/// CPU time by function of the kernel.
pub(super) type Times = BTreeMap<String, Duration>;

impl Perf {
    /// # Errors
    /// If it is not installed; with what to do.
    pub(super) fn find() -> Result<Self> {
        Ok(Self { program: PERF.find()? })
    }

    /// What was done while `work` ran.
    ///
    /// # Errors
    /// If `work` fails or `perf` does; with what it says.
    pub(super) fn record<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Times)> {
        let folder = tempfile::Builder::new().prefix("xylem-profile-").tempdir();
        let folder = folder.context("no temporary folder")?;
        let mut recording = Recording::start(&self.program, folder.path())?;
        recording.tell("enable")?;
        let done = work()?;
        recording.tell("disable")?;
        recording.end()?;
        Ok((done, self.read(&folder.path().join(SAMPLES))?))
    }

    fn read(&self, file: &Path) -> Result<Times> {
        let output = Command::new(&self.program)
            .args(["script", "--fields", "pid,ip,sym", "--input"])
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .context("cannot start perf")?;
        ensure!(
            output.status.success(),
            "perf cannot read what it recorded: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let times = times(&String::from_utf8_lossy(&output.stdout), std::process::id());
        ensure!(!times.is_empty(), "perf has no samples of the event {EVENT}");
        Ok(times)
    }
}

/// A `perf` at work; it is ended when this is dropped.
struct Recording {
    child: Child,
    control: File,
    answers: File,
    /// What `perf` says.
    said: PathBuf,
}

impl Recording {
    /// It is told when to begin.
    fn start(program: &Path, folder: &Path) -> Result<Self> {
        let pipe = |name: &str| -> Result<(PathBuf, File)> {
            let path = folder.join(name);
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            // For both, so that neither end waits for the other to be opened.
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).custom_flags(O_NONBLOCK).open(&path)?;
            Ok((path, file))
        };
        let (control_path, control) = pipe("control")?;
        let (answers_path, answers) = pipe("answers")?;
        let said = folder.join(SAID);
        let child = Command::new(program)
            .args(["record", "--all-cpus", "--event", EVENT, "--delay", "-1", "--count"])
            .arg(PERIOD.as_nanos().to_string())
            .arg("--control")
            .arg(format!("fifo:{},{}", control_path.display(), answers_path.display()))
            .arg("--output")
            .arg(folder.join(SAMPLES))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&said)?)
            .spawn()
            .context("cannot start perf")?;
        Ok(Self { child, control, answers, said })
    }

    /// See "--control" in perf-record(1).
    fn tell(&mut self, command: &str) -> Result<()> {
        self.write(command)?;
        let mut answer = [0; 16];
        let answered = wait_for("an answer of perf", LIMIT, || {
            if let Some(status) = self.child.try_wait()? {
                // There is nothing to wait for any more.
                return Ok(Err(format!("perf ended with {status}")));
            }
            match self.answers.read(&mut answer) {
                Ok(_) => Ok(Ok(())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("none yet"),
                Err(error) => Err(error.into()),
            }
        });
        match answered? {
            Ok(()) => Ok(()),
            Err(ended) => bail!("{ended}: {}", self.said()),
        }
    }

    /// Has it write down what it has.
    fn end(mut self) -> Result<()> {
        // Not by a signal: those that end us are blocked here, and so they are in what we start.
        self.write("stop")?;
        let status = wait_for("perf to end", LIMIT, || {
            self.child.try_wait()?.context("it writes what it has recorded")
        })?;
        ensure!(status.success(), "perf ended with {status}: {}", self.said());
        Ok(())
    }

    fn write(&mut self, command: &str) -> Result<()> {
        writeln!(self.control, "{command}").context("cannot tell perf anything")
    }

    fn said(&self) -> String {
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        said.trim().to_owned()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // What has ended already cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From `perf script`: a line for each sample, with the process, the address and the function.
/// `own` is the process that is client and server.
fn times(script: &str, own: u32) -> Times {
    let mut times = Times::new();
    for line in script.lines() {
        let mut words = line.split_whitespace();
        let (Some(pid), Some(address), Some(symbol)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Ok(address) = u64::from_str_radix(address, 16) else { continue };
        if !IDLE.contains(&symbol) {
            *times.entry(name(pid == own.to_string(), address, symbol)).or_default() += PERIOD;
        }
    }
    times
}

/// Programs of several nodes are one to us.
fn name(is_own: bool, address: u64, symbol: &str) -> String {
    // The upper half of the address space is the kernel's.
    if address.cast_signed() >= 0 {
        return if is_own { USER_SPACE } else { OTHER_PROGRAMS }.to_owned();
    }
    let program = symbol.strip_prefix("bpf_prog_").and_then(|tagged| tagged.split_once('_'));
    match program {
        Some((_tag, name)) => format!("bpf {name}"),
        None => symbol.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, Signal};

    use super::*;

    #[test]
    fn samples_are_added_up_by_function() {
        let times = times(
            "
    0 ffffffff821f236b pv_native_safe_halt
   70 ffffffff8130aa10 memcpy_orig
   71 ffffffff8130aa14 memcpy_orig
   70 ffffffffc0a01234 bpf_prog_3b185187f1855c4c_from_instance
   16 ffffffffc0b05678 bpf_prog_0123456789abcdef_from_instance
   70     7f8027881c30 std::thread::sleep
   70     55d5b2c0a1f2 [unknown]
   71     55d5b2c0a1f2 main
    0 ffffffff99999999 [unknown]
",
            70,
        );
        let samples = |symbol: &str| times[symbol].as_micros() / PERIOD.as_micros();
        assert_eq!(times.len(), 5, "{times:?}");
        assert_eq!(samples("memcpy_orig"), 2);
        assert_eq!(samples("bpf from_instance"), 2);
        assert_eq!((samples(USER_SPACE), samples(OTHER_PROGRAMS)), (2, 1));
        assert_eq!(samples("[unknown]"), 1);
    }

    /// Needs root, for CPUs of all.
    #[test]
    fn a_busy_thread_is_seen() {
        let perf = match Perf::find() {
            Ok(perf) => perf,
            Err(error) => return assert!(error.to_string().contains("linux-perf"), "{error}"),
        };
        // As in the program, where they are waited for.
        SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]).thread_block().unwrap();
        let spin = || {
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(300) {
                std::hint::spin_loop();
            }
            Ok(start.elapsed())
        };
        let (elapsed, times) = perf.record(spin).unwrap();
        assert!(times[USER_SPACE] > elapsed / 4, "{times:?}");
    }

    #[test]
    fn what_perf_says_is_part_of_the_error() {
        let perf = Perf { program: "/bin/false".into() };
        let error = format!("{:#}", perf.record(|| Ok(())).unwrap_err());
        assert!(error.contains("perf ended with exit status: 1"), "{error}");
    }
}
