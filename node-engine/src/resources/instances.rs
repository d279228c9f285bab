//! What each running instance uses, measured from outside of it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use xylem_types::{
    instance::Generation,
    mqtt::{InstanceResources, InstanceUsage},
};

use crate::{
    core::id::InstanceId,
    runtime::{cgroup::Cgroup, folder::InstanceFolder},
};

/// Bytes of output that are reported.
const LOG_TAIL: u64 = 1024;

/// Disk use is found by walking the instance's files, so not every time.
const DISK_EVERY: Duration = Duration::from_secs(30);

/// An instance to measure.
#[derive(Clone, Debug)]
pub struct Running {
    pub id: InstanceId,
    pub generation: Generation,
    pub virtualization: String,
    pub folder: InstanceFolder,
    pub cgroup: Cgroup,
}

/// What was measured before, to compare with.
#[derive(Debug, Default)]
pub struct Meter {
    last: HashMap<InstanceId, Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    generation: Generation,
    cpu: Duration,
    at: Instant,
    disk: u64,
    disk_at: Instant,
}

impl Meter {
    /// Measures all; blocks for as long as the files of an instance take to walk.
    pub fn measure(
        &mut self,
        running: &[Running],
        memory_bytes: u64,
        now: Instant,
    ) -> InstanceResources {
        let before = std::mem::take(&mut self.last);
        let services = running
            .iter()
            .filter_map(|instance| {
                let known = before.get(&instance.id).copied();
                self.instance(instance, known, memory_bytes, now)
            })
            .collect();
        InstanceResources { services }
    }

    /// `None` when the instance ended just now.
    fn instance(
        &mut self,
        instance: &Running,
        known: Option<Last>,
        memory_bytes: u64,
        now: Instant,
    ) -> Option<InstanceUsage> {
        let usage = instance.cgroup.usage().ok()?;
        let known = known.filter(|last| last.generation == instance.generation);
        let (disk, disk_at) = match known {
            Some(last) if now - last.disk_at < DISK_EVERY => (last.disk, last.disk_at),
            _ => (disk_use(&instance.folder.upper()).unwrap_or(0), now),
        };
        let cpu_percent = known.map_or(0.0, |last| {
            let elapsed = (now - last.at).as_secs_f64();
            let used = usage.cpu.saturating_sub(last.cpu).as_secs_f64();
            if elapsed > 0.0 { used / elapsed * 100.0 } else { 0.0 }
        });
        let memory_percent = usage.memory as f64 / memory_bytes.max(1) as f64 * 100.0;
        let generation = instance.generation;
        let last = Last { generation, cpu: usage.cpu, at: now, disk, disk_at };
        self.last.insert(instance.id.clone(), last);
        Some(InstanceUsage {
            job_name: instance.id.job_name().to_owned(),
            instance: instance.id.number(),
            virtualization: instance.virtualization.clone(),
            cpu_percent: format!("{cpu_percent:.2}"),
            memory_percent: format!("{memory_percent:.2}"),
            disk: disk.to_string(),
            logs: log_tail(&instance.folder),
            generation,
        })
    }
}

/// The last bytes that an instance printed.
pub fn log_tail(folder: &InstanceFolder) -> String {
    let new = tail(&folder.log(), LOG_TAIL).unwrap_or_default();
    let old = match LOG_TAIL.checked_sub(new.len() as u64) {
        None | Some(0) => vec![],
        Some(rest) => tail(&folder.old_log(), rest).unwrap_or_default(),
    };
    String::from_utf8_lossy(&[old, new].concat()).into_owned()
}

fn tail(path: &Path, length: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(length);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = vec![];
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes on disk below `path`. What vanishes meanwhile does not count.
fn disk_use(path: &Path) -> io::Result<u64> {
    let mut total = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            total += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_the_output_goes_back_over_a_full_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = InstanceFolder::new(dir.path().to_owned());
        assert_eq!(log_tail(&folder), "");
        std::fs::write(folder.old_log(), "a".repeat(3000)).unwrap();
        std::fs::write(folder.log(), "b".repeat(24)).unwrap();
        assert_eq!(log_tail(&folder), "a".repeat(1000) + &"b".repeat(24));
        std::fs::write(folder.log(), "c".repeat(5000)).unwrap();
        assert_eq!(log_tail(&folder), "c".repeat(1024));
    }

    #[test]
    fn disk_use_counts_all_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), vec![1; 100_000]).unwrap();
        assert!(disk_use(dir.path()).unwrap() >= 100_000);
    }
}
