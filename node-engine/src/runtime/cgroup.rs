//! The control groups of one instance: what it uses, whether it ran out of memory, and their
//! removal. They are made by the container library.
//!
//! Version 1, version 2 and the mixture of both are covered by looking at what is mounted.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The hierarchies that are mounted on this machine.
#[derive(Clone, Debug, Default)]
pub struct Hierarchies {
    /// Mount point by controller, version 1.
    v1: HashMap<String, PathBuf>,
    v2: Option<PathBuf>,
}

/// What an instance uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since it started.
    pub cpu: Duration,
    /// Bytes, without the page cache that can be given back.
    pub memory: u64,
}

/// One instance's group in every hierarchy.
#[derive(Clone, Debug)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    /// From the root of a hierarchy, with a leading slash.
    path: PathBuf,
}

/// Processes are killed again this often until they are gone.
const KILL_ROUNDS: u32 = 200;
const KILL_PAUSE: Duration = Duration::from_millis(25);

impl Hierarchies {
    /// # Errors
    /// When the mounts cannot be read or there is no hierarchy at all.
    pub fn detect() -> io::Result<Self> {
        let found = Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?);
        if found.v1.is_empty() && found.v2.is_none() {
            return Err(io::Error::other(
                "no control groups are mounted below /sys/fs/cgroup; \
                 `ip netns exec` hides them, use `nsenter --net=` instead",
            ));
        }
        Ok(found)
    }

    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut fields = filesystem.split(' ');
            match fields.next() {
                Some("cgroup2") => found.v2 = Some(point),
                Some("cgroup") => {
                    let options = fields.next_back().unwrap_or_default();
                    for controller in options.split(',').filter(|option| *option != "rw") {
                        found.v1.entry(controller.to_owned()).or_insert_with(|| point.clone());
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Whether which devices may be opened is up to a control group.
    pub fn guard_devices(&self) -> bool {
        self.v1.contains_key("devices")
    }

    /// Whether swap can be limited.
    pub fn limit_swap(&self) -> bool {
        match self.v1.get("memory") {
            Some(root) => root.join("memory.memsw.limit_in_bytes").exists(),
            None => Path::new("/proc/swaps").exists(),
        }
    }

    fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        let mut roots: Vec<_> = self.v1.values().chain(self.v2.iter()).collect();
        roots.sort_unstable();
        roots.dedup();
        roots.into_iter()
    }
}

impl Cgroup {
    pub fn new(hierarchies: Hierarchies, path: PathBuf) -> Self {
        Self { hierarchies, path }
    }

    /// From the root of each hierarchy.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the instance uses now.
    ///
    /// # Errors
    /// When the group does not exist (any more).
    pub fn usage(&self) -> io::Result<Usage> {
        let cpu = match self.v1("cpuacct") {
            Some(group) => Duration::from_nanos(number(&group.join("cpuacct.usage"))?),
            None => {
                let micros = keyed(&self.v2()?.join("cpu.stat"), "usage_usec")?;
                Duration::from_micros(micros)
            }
        };
        let (group, used, cache) = match self.v1("memory") {
            Some(group) => (group, "memory.usage_in_bytes", "total_inactive_file"),
            None => (self.v2()?, "memory.current", "inactive_file"),
        };
        let cache = keyed(&group.join("memory.stat"), cache)?;
        Ok(Usage { cpu, memory: number(&group.join(used))?.saturating_sub(cache) })
    }

    /// Whether a process of the group was killed for want of memory; `false` when the group is
    /// gone.
    pub fn ran_out_of_memory(&self) -> bool {
        let file = match self.v1("memory") {
            Some(group) => Ok(group.join("memory.oom_control")),
            None => self.v2().map(|group| group.join("memory.events")),
        };
        file.and_then(|file| keyed(&file, "oom_kill")).is_ok_and(|kills| kills > 0)
    }

    /// Kills every process of the group and removes it from every hierarchy.
    ///
    /// # Errors
    /// When a process does not die within seconds, or a group cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        for round in 0.. {
            let killed = self.kill_all()?;
            if killed.is_empty() {
                break;
            }
            if round == KILL_ROUNDS {
                return Err(io::Error::other(format!("processes {killed:?} do not die")));
            }
            pause();
        }
        self.hierarchies.roots().try_for_each(|root| remove_tree(&below(root, &self.path)))
    }

    /// Sends SIGKILL to every process that is in the group now, and returns which they were.
    ///
    /// # Errors
    /// When the group cannot be read.
    pub fn kill_all(&self) -> io::Result<Vec<i32>> {
        let processes = self.processes()?;
        for pid in &processes {
            match kill(Pid::from_raw(*pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(processes)
    }

    /// Removes the group above it where that is empty.
    pub fn remove_empty_parent(&self) {
        let Some(parent) = self.path.parent().filter(|path| path.parent().is_some()) else {
            return;
        };
        for root in self.hierarchies.roots() {
            // In use or not there: both are fine.
            let _ = std::fs::remove_dir(below(root, parent));
        }
    }

    fn processes(&self) -> io::Result<Vec<i32>> {
        let mut all = vec![];
        for root in self.hierarchies.roots() {
            let file = below(root, &self.path).join("cgroup.procs");
            match std::fs::read_to_string(&file) {
                Ok(text) => all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    fn v1(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchies.v1.get(controller).map(|root| below(root, &self.path))
    }

    fn v2(&self) -> io::Result<PathBuf> {
        let root = self.hierarchies.v2.as_ref();
        root.map(|root| below(root, &self.path)).ok_or(io::ErrorKind::NotFound.into())
    }
}

/// Only called from threads that may block.
#[expect(clippy::disallowed_methods, reason = "dying is not announced; the rounds are bounded")]
fn pause() {
    std::thread::sleep(KILL_PAUSE);
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Removes a group and the ones below it; a group has no files of its own to remove.
fn remove_tree(group: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    // A process that was just reaped may still count for a moment.
    for _ in 0..KILL_ROUNDS {
        match std::fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => pause(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => return removed,
        }
    }
    std::fs::remove_dir(group)
}

fn number(file: &Path) -> io::Result<u64> {
    std::fs::read_to_string(file)?.trim().parse().map_err(io::Error::other)
}

/// The number behind `key` in a file of lines `key number`.
fn keyed(file: &Path, key: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    found.ok_or(io::ErrorKind::NotFound.into()).and_then(|n| n.parse().map_err(io::Error::other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let mixed = "30 29 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
            31 30 0:26 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup rw\n\
            32 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let found = Hierarchies::parse(mixed);
        assert_eq!(found.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        let cpu = Path::new("/sys/fs/cgroup/cpu,cpuacct");
        assert_eq!(found.v1.get("cpuacct").map(PathBuf::as_path), Some(cpu));
        assert_eq!(found.roots().count(), 2);
        assert!(!found.guard_devices());

        let unified = Hierarchies::parse("30 29 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert!(unified.v1.is_empty());
        assert_eq!(unified.v2.as_deref(), Some(Path::new("/sys/fs/cgroup")));
    }
}
