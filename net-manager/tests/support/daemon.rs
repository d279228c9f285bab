//! The net manager as the program that it is, to be killed at any instant.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{NetManager, process::Process};

/// For a program without optimization on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that is started and killed again and again, on the state in one folder. Its last
/// words are printed should the test fail.
pub struct Daemon {
    folder: PathBuf,
    flags: Vec<String>,
    /// Where it runs, if not in the test's own network namespace.
    namespace: Option<Process>,
    child: Option<Child>,
}

impl Daemon {
    /// It keeps everything in `folder`, as [`super::Host::config`] has it.
    pub fn new(folder: &Path, flags: &[&str], namespace: Option<Process>) -> Self {
        fs::create_dir_all(folder).unwrap();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self { folder: folder.into(), flags, namespace, child: None }
    }

    pub fn bpffs(&self) -> PathBuf {
        self.folder.join("bpf")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// To speak to it.
    pub fn net_manager(&self) -> NetManager {
        NetManager::at(self.folder.join("net.sock"))
    }

    pub fn namespace(&self) -> Option<&Process> {
        self.namespace.as_ref()
    }

    /// Starts it, and does not wait until it is of use.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xylem-net-manager"));
        command
            .args(&self.flags)
            .arg("--bpffs-root")
            .arg(self.bpffs())
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--socket")
            .arg(self.folder.join("net.sock"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut spawn = || command.spawn().unwrap();
        self.child = Some(match &self.namespace {
            Some(namespace) => namespace.inside(spawn),
            None => spawn(),
        });
    }

    /// Waits until it answers.
    pub async fn ready(&mut self) {
        let started = Instant::now();
        let manager = self.net_manager();
        while manager.status().await.is_err() {
            let child = self.child.as_mut().expect("it was started");
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the net manager ended with {status}");
            }
            assert!(started.elapsed() < PATIENCE, "the net manager does not start");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends it with SIGKILL. That it still runs is asserted: nothing but this may end it.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it was started");
        let ended = child.try_wait().unwrap();
        assert_eq!(ended, None, "the net manager ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// How many lines with these words it has logged.
    pub fn said(&self, words: &str) -> usize {
        let log = fs::read_to_string(self.log()).unwrap();
        log.lines().filter(|line| line.contains(words)).count()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        if thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("last words of {}:\n{last}", self.folder.display());
        }
    }
}
