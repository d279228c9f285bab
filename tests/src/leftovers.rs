//! Removing what outlives the daemons by design (instances, pins, mounts), and what a run that
//! was killed could not remove.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Error, Result};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    netns::{self, NETNS_FOLDER},
    platform::Name,
    wait::wait_for,
};

const CGROUPS: &str = "/sys/fs/cgroup";
const LIMIT: Duration = Duration::from_secs(5);

/// Removes the instances of a platform, its mounts and pins, and if `state` is not given also
/// the state folders and namespaces of an earlier one of that name. Goes on after an error and
/// returns them all.
pub fn remove(name: &Name, state: Option<&Path>) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| errors.extend(result.err());

    let groups = control_groups(name);
    note(end_processes(&groups));
    for group in &groups {
        note(remove_control_group(group));
    }
    let folders = state.map_or_else(|| earlier_folders(name), |folder| vec![folder.to_owned()]);
    for folder in &folders {
        note(unmount_below(folder));
    }
    note(remove_folder(&name.bpffs()));
    // Others may have theirs in it.
    name.bpffs().parent().map(fs::remove_dir);
    if state.is_none() {
        for folder in &folders {
            note(remove_folder(folder));
        }
        for namespace in namespaces(name) {
            note(netns::remove(&namespace).with_context(|| format!("namespace {namespace}")));
        }
    }
    errors
}

/// Processes in the control groups of a worker, each counted once.
pub(crate) fn processes_below(cgroup_parent: &str) -> usize {
    let mut pids = BTreeSet::new();
    for group in top_groups().filter(|group| group.ends_with(cgroup_parent)) {
        for_each_below(&group, &mut |group| pids.extend(processes_in(group)));
    }
    pids.len()
}

/// The topmost control groups of the platform's workers, in every hierarchy.
fn control_groups(name: &Name) -> Vec<PathBuf> {
    top_groups().filter(|group| begins_with(group, &format!("{}-", name.label()))).collect()
}

/// A tree of version 2, or one for each controller and a folder with all of them.
fn top_groups() -> impl Iterator<Item = PathBuf> {
    let top = Path::new(CGROUPS);
    let hierarchies = std::iter::once(top.to_owned()).chain(folders_in(top));
    hierarchies.flat_map(|hierarchy| folders_in(&hierarchy))
}

fn processes_in(group: &Path) -> Vec<i32> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Kills every process in the groups and waits until none is left.
fn end_processes(groups: &[PathBuf]) -> Result<()> {
    wait_for("the last instances to end", LIMIT, || {
        let mut left = 0;
        for group in groups {
            for_each_below(group, &mut |group| {
                for pid in processes_in(group) {
                    left += 1;
                    // One that ends by itself meanwhile is as good.
                    kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                }
            });
        }
        if left == 0 { Ok(()) } else { Err(format!("{left} processes are left")) }
    })
}

fn remove_control_group(group: &Path) -> Result<()> {
    let mut all = Vec::new();
    for_each_below(group, &mut |group| all.push(group.to_owned()));
    // Parents came first; children have to go first.
    for group in all.iter().rev() {
        wait_for("an empty control group to go", LIMIT, || ignore_missing(fs::remove_dir(group)))
            .with_context(|| format!("control group {}", group.display()))?;
    }
    Ok(())
}

fn earlier_folders(name: &Name) -> Vec<PathBuf> {
    let prefix = format!("{}-", name.label());
    folders_in(&std::env::temp_dir()).filter(|folder| begins_with(folder, &prefix)).collect()
}

fn namespaces(name: &Name) -> Vec<String> {
    let prefix = format!("{}-", name.prefix());
    let entries = fs::read_dir(NETNS_FOLDER).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

/// Unmounts everything in a folder, the newest first.
fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for point in points.rev().map(Path::new).filter(|point| point.starts_with(folder)) {
        match umount2(point, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot unmount {}", point.display()));
            }
        }
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    ignore_missing(fs::remove_dir_all(folder))
        .with_context(|| format!("cannot remove {}", folder.display()))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn for_each_below(folder: &Path, visit: &mut impl FnMut(&Path)) {
    visit(folder);
    for child in folders_in(folder) {
        for_each_below(&child, visit);
    }
}

/// Folders in a folder, not links to some; none if it is not there.
fn folders_in(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

fn begins_with(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
}
