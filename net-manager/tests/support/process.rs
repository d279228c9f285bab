//! An instance's process, in a network namespace of its own.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

/// Sleeps until it is dropped.
pub struct Process(Child);

impl Process {
    pub async fn start() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = Self(child);
        let ours = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let started = Instant::now();
        while fs::read_link(process.netns()).is_ok_and(|theirs| theirs == ours) {
            assert!(started.elapsed() < Duration::from_secs(5), "it stays in our namespace");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        process
    }

    pub fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }

    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// Runs something inside its namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(self.netns()).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// As [`Process::inside`], while the test's other tasks go on.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let netns = File::open(self.netns()).unwrap();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        thread::spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            assert!(sender.send(work()).is_ok());
        });
        receiver.await.unwrap()
    }

    /// Begins something inside its namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let netns = File::open(self.netns()).unwrap();
        thread::spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// The output of `ip`, inside.
    pub fn ip(&self, arguments: &str) -> String {
        self.inside(|| {
            let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
            assert!(output.status.success(), "ip {arguments}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// A TCP counter of its namespace, from `/proc/net/snmp`.
    pub fn tcp_counter(&self, name: &str) -> u64 {
        self.counter("snmp", "Tcp: ", name)
    }

    /// As [`Self::tcp_counter`], from `/proc/net/netstat`.
    pub fn tcp_ext_counter(&self, name: &str) -> u64 {
        self.counter("netstat", "TcpExt: ", name)
    }

    fn counter(&self, file: &str, group: &str, name: &str) -> u64 {
        let path = format!("/proc/thread-self/net/{file}");
        let text = self.inside(|| fs::read_to_string(path).unwrap());
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let column = names.split(' ').position(|column| column == name).unwrap();
        values.split(' ').nth(column).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
