//! A worker: the real engine as a process, and everything it may leave on the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use xylem_types::mqtt::DeployCommand;

use super::{cluster::TestCluster, eventually, need_root, net::TestNet};

const ENGINE: &str = env!("CARGO_BIN_EXE_xylem-node-engine");

pub(crate) struct Worker {
    folder: TempDir,
    args: Vec<String>,
    engine: Option<Child>,
    pub(crate) net: TestNet,
}

impl Worker {
    /// A worker with a net manager, both up.
    pub(crate) fn start(cluster: &TestCluster) -> Self {
        Self::start_with(cluster, &[])
    }

    pub(crate) fn start_with(cluster: &TestCluster, args: &[&str]) -> Self {
        let mut worker = Self::new(cluster, args);
        worker.net.open();
        worker.start_engine();
        worker
    }

    /// A worker of which nothing runs yet.
    pub(crate) fn new(cluster: &TestCluster, args: &[&str]) -> Self {
        need_root();
        let folder = tempfile::Builder::new().prefix("xylem-worker-").tempdir().unwrap();
        let net = TestNet::new(folder.path());
        let mut all = vec![
            format!("--cluster-url={}", cluster.url()),
            format!("--state-dir={}", folder.path().join("state").display()),
            format!("--net-socket={}", net.socket().display()),
            "--node-address=127.0.0.1".to_owned(),
            "--node-name=test-worker".to_owned(),
            "--report-interval-ms=200".to_owned(),
            "--stop-grace-ms=2000".to_owned(),
        ];
        for arg in args {
            let key = arg.split_inclusive('=').next().unwrap();
            all.retain(|known| !known.starts_with(key));
            all.push((*arg).to_owned());
        }
        Self { folder, args: all, engine: None, net }
    }

    /// For the next engine.
    pub(crate) fn configure(&mut self, arg: &str) {
        self.args.push(arg.to_owned());
    }

    pub(crate) fn start_engine(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("engine.log"))
            .unwrap();
        // Few open files are enough for it, however many an image has.
        let engine = Command::new("prlimit")
            .args(["--nofile=512:512", ENGINE, "run"])
            .args(&self.args)
            .env("XYLEM_LOG", "debug,hyper=info,reqwest=info,rumqttc=info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.engine = Some(engine);
    }

    pub(crate) fn kill_engine(&mut self) {
        let mut engine = self.engine.take().unwrap();
        engine.kill().unwrap();
        engine.wait().unwrap();
    }

    /// Ends the engine as an upgrade does; returns whether it ended well.
    pub(crate) fn stop_engine(&mut self) -> bool {
        let mut engine = self.engine.take().unwrap();
        kill(Pid::from_raw(engine.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        engine.wait().unwrap().success()
    }

    /// Memory of the engine and of all shims, in KiB: `(engine, shims)`.
    pub(crate) fn private_memory(&self) -> (u64, Vec<u64>) {
        let engine = self.engine.as_ref().unwrap().id().cast_signed();
        (private_memory(engine), self.shims().into_iter().map(private_memory).collect())
    }

    /// Purges; returns what went wrong.
    pub(crate) fn try_purge(&self) -> String {
        let purged = Command::new(ENGINE).arg("purge").args(&self.args).output().unwrap();
        let said = String::from_utf8_lossy(&purged.stderr).into_owned();
        if purged.status.success() { String::new() } else { said }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn instance(&self, command: &DeployCommand) -> PathBuf {
        let name = format!("{}.{}", command.job_name, command.instance_number);
        self.state().join("instances").join(name)
    }

    /// What the instance printed so far.
    pub(crate) fn output(&self, command: &DeployCommand) -> String {
        fs::read_to_string(self.instance(command).join("log")).unwrap_or_default()
    }

    /// Waits until the instance has printed this.
    #[track_caller]
    pub(crate) fn printed(
        &self,
        command: &DeployCommand,
        text: &str,
    ) -> impl Future<Output = String> {
        eventually("an output", move || Some(self.output(command)).filter(|o| o.contains(text)))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("engine.log")).unwrap_or_default()
    }

    /// Milliseconds from each log line with the one text to the next with the other.
    pub(crate) fn times(&self, from: &str, to: &str) -> Vec<i64> {
        // 2026-01-31T23:59:59.123456Z; a test does not run over midnight often.
        let at = |line: &str| {
            let part = |range: std::ops::Range<usize>| line[range].parse::<i64>().unwrap();
            ((part(11..13) * 60 + part(14..16)) * 60 + part(17..19)) * 1000 + part(20..23)
        };
        let (mut times, mut begun) = (vec![], None);
        for line in self.log().lines() {
            if line.contains(from) {
                begun = Some(at(line));
            } else if line.contains(to)
                && let Some(begun) = begun.take()
            {
                times.push(at(line) - begun);
            }
        }
        times
    }

    /// Process ids of this worker's shims.
    pub(crate) fn shims(&self) -> Vec<i32> {
        let state = self.state().display().to_string();
        processes(|cmdline| cmdline.contains("\0shim\0") && cmdline.contains(&state))
    }

    /// Process ids in the control group of an instance.
    pub(crate) fn processes_of(&self, command: &DeployCommand) -> Vec<i32> {
        let name = format!("{}.{}", command.job_name, command.instance_number);
        let groups = self.cgroups();
        let mut all: Vec<i32> = groups
            .iter()
            .filter(|group| group.file_name().is_some_and(|file| *file == *name))
            .flat_map(|group| {
                let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                text.lines().map(|line| line.parse().unwrap()).collect::<Vec<i32>>()
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Control groups of this worker in all hierarchies.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let Ok(id) = fs::read_to_string(self.state().join("id")) else { return vec![] };
        let mut found = vec![];
        for mount in cgroup_mounts() {
            collect_folders(&mount.join(format!("xylem-{}", id.trim())), &mut found);
        }
        found
    }

    /// Everything that instances of this worker could have left on the machine.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<_> = self.shims().iter().map(|pid| format!("shim {pid}")).collect();
        for group in self.cgroups() {
            if group.parent().is_some_and(|parent| parent.to_string_lossy().contains("/xylem-")) {
                left.push(format!("control group {}", group.display()));
            }
        }
        let state = self.state().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|l| l.contains(&state)).map(|l| format!("mount {l}")));
        let running = processes(|cmdline| cmdline.starts_with("/program\0"));
        let mine = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|m| m.contains(&state))
        };
        left.extend(running.iter().filter(|pid| mine(pid)).map(|pid| format!("process {pid}")));
        if let Ok(entries) = fs::read_dir(self.state().join("instances")) {
            left.extend(entries.map(|entry| format!("folder {}", entry.unwrap().path().display())));
        }
        left
    }

    #[track_caller]
    pub(crate) fn nothing_left(&self) -> impl Future<Output = ()> {
        eventually("nothing to be left of the instances", || {
            self.leftovers().is_empty().then_some(())
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- engine log ---\n{}", self.log());
        }
        if self.engine.is_some() {
            self.kill_engine();
        }
        let purged = Command::new(ENGINE).arg("purge").args(&self.args).output().unwrap();
        if !std::thread::panicking() {
            assert!(purged.status.success(), "{}", String::from_utf8_lossy(&purged.stderr));
            assert_eq!(self.leftovers(), Vec::<String>::new(), "left after a purge");
            assert_eq!(self.cgroups(), Vec::<PathBuf>::new(), "left after a purge");
        }
    }
}

/// Deployment of an image, by name.
pub(crate) fn deployment(name: &str, image: &str) -> DeployCommand {
    DeployCommand {
        job_name: format!("app.test.{name}.prod"),
        instance_number: 0,
        generation: 1,
        virtualization: "docker".to_owned(),
        image: image.to_owned(),
        memory: 0,
        vcpus: 0.0,
        cmd: vec![],
        environment: vec![],
        one_shot: false,
        privileged: false,
        port: String::new(),
    }
}

fn processes(wanted: impl Fn(&str) -> bool) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        wanted(&String::from_utf8_lossy(&cmdline)).then_some(pid)
    });
    pids.collect()
}

fn private_memory(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let sum = text.lines().filter(|line| line.starts_with("Private_"));
    sum.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

pub(crate) fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .collect()
}

fn collect_folders(path: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(path) else { return };
    found.push(path.to_owned());
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_folders(&entry.path(), found);
        }
    }
}
