//! What a test run must not leave behind: a look at the machine before and after.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// How long something on its way out may take.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Everything of the kinds that tests make, each told as people would look for it.
#[derive(Debug)]
pub(crate) struct Snapshot(BTreeSet<String>);

impl Snapshot {
    pub(crate) fn take() -> Result<Self> {
        let mut found = BTreeSet::new();
        let mut note = |kind: &str, what: &str| found.insert(format!("{kind} {what}"));

        for namespace in names_in(Path::new("/run/netns")) {
            note("network namespace", &namespace);
        }
        for ifname in names_in(Path::new("/sys/class/net")) {
            note("interface", &ifname);
        }
        for name in names_in(Path::new("/tmp")).iter().filter(|name| name.starts_with("xylem")) {
            note("folder", &format!("/tmp/{name}"));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
        for mount_point in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            note("mount", mount_point);
        }
        let pins = names_in(Path::new("/sys/fs/bpf"));
        for pin in pins.iter().filter(|name| name.starts_with("xylem")) {
            note_tree(Path::new("/sys/fs/bpf").join(pin).as_path(), &mut |path| {
                note("BPF pin", path);
            });
        }
        note_cgroups(Path::new("/sys/fs/cgroup"), 0, &mut |path| {
            note("control group", path);
        });
        for pid in names_in(Path::new("/proc")).iter().filter(|name| is_number(name)) {
            if let Some(name) = our_process(pid) {
                note("process", &format!("{pid} {name}"));
            }
        }
        Ok(Self(found))
    }

    /// What is there now and was not then, after a moment for what is on its way out.
    #[expect(clippy::disallowed_methods, reason = "between two looks at the machine")]
    pub(crate) fn left_since(&self, grace: Duration) -> Result<Vec<String>> {
        let deadline = Instant::now() + grace;
        loop {
            let left: Vec<_> = Self::take()?.0.difference(&self.0).cloned().collect();
            if left.is_empty() || Instant::now() >= deadline {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Names in a folder; none if it is not there.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn note_tree(path: &Path, note: &mut impl FnMut(&str)) {
    note(&path.to_string_lossy());
    if path.is_dir() {
        for name in names_in(path) {
            note_tree(&path.join(name), note);
        }
    }
}

/// Groups of ours are a few levels below the top of each hierarchy.
fn note_cgroups(folder: &Path, depth: u32, note: &mut impl FnMut(&str)) {
    const DEPTH_MAX: u32 = 3;
    for name in names_in(folder) {
        let path = folder.join(&name);
        let is_folder = path.symlink_metadata().is_ok_and(|data| data.is_dir());
        if is_folder && name.contains("xylem") {
            note_tree_of_folders(&path, note);
        } else if is_folder && depth < DEPTH_MAX {
            note_cgroups(&path, depth + 1, note);
        }
    }
}

fn note_tree_of_folders(path: &Path, note: &mut impl FnMut(&str)) {
    note(&path.to_string_lossy());
    for child in names_in(path).iter().map(|name| path.join(name)).filter(|path| path.is_dir()) {
        note_tree_of_folders(&child, note);
    }
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

/// The name of a process that only we would have started: a program of ours, or anything in a
/// control group of ours.
fn our_process(pid: &str) -> Option<String> {
    let folder = Path::new("/proc").join(pid);
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // Ended; that nobody has asked how is for init to mend.
    if stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z')) {
        return None;
    }
    let name = fs::read_to_string(folder.join("comm")).ok()?.trim().to_owned();
    let groups = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
    let ours = name.starts_with("xylem") || matches!(&*name, "demo-app" | "docker-registry");
    (ours || groups.contains("xylem")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_ours_is_noticed_until_it_is_gone() {
        let folder = format!("/tmp/xylem-residue-{}", std::process::id());
        let noticed = |before: &Snapshot| {
            let left = before.left_since(Duration::ZERO).unwrap();
            left.contains(&format!("folder {folder}"))
        };
        let before = Snapshot::take().unwrap();
        assert!(!noticed(&before));
        fs::create_dir(&folder).unwrap();
        assert!(noticed(&before));
        fs::remove_dir(&folder).unwrap();
        assert!(!noticed(&before));
    }
}
