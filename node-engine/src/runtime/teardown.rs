//! Taking an instance down, whatever state it is in and whoever made it.
//!
//! Nothing here trusts a process id alone. Whether a shim lives is told by the lock on the file
//! that is its standard input, taken by the engine before the shim existed; which processes
//! belong to the container is told by its control group.

use std::{
    fs::File,
    fs::TryLockError,
    io,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{cgroup::Cgroup, folder::InstanceFolder};

/// A killed process that is still there after this time hangs in the kernel.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    #[error("the shim cannot be ended")]
    Shim(#[source] io::Error),
    #[error("the control groups cannot be removed")]
    Cgroup(#[source] io::Error),
    #[error("the folder cannot be removed")]
    Folder(#[source] io::Error),
}

/// Kills shim and container, with them their namespaces and mounts, and removes the control
/// groups. May block for seconds.
///
/// # Errors
/// When something cannot be killed or removed; trying again is safe.
pub fn end(folder: &InstanceFolder, cgroup: &Cgroup) -> Result<(), TeardownError> {
    end_shim(folder, cgroup).map_err(TeardownError::Shim)?;
    cgroup.remove().map_err(TeardownError::Cgroup)
}

/// Does what [`end`] does, and removes all files but the record.
///
/// # Errors
/// As [`end`].
pub fn tear_down(folder: &InstanceFolder, cgroup: &Cgroup) -> Result<(), TeardownError> {
    end(folder, cgroup)?;
    folder.clear().map_err(TeardownError::Folder)
}

fn end_shim(folder: &InstanceFolder, cgroup: &Cgroup) -> io::Result<()> {
    let life = match File::open(folder.life()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        life => life?,
    };
    let give_up_at = Instant::now() + DEATH_TIMEOUT;
    loop {
        match life.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= give_up_at => {
                return Err(io::Error::other("it was killed and does not end"));
            }
            Err(TryLockError::WouldBlock) => {
                kill_holder(folder)?;
                // The container's first process has the lock too while it is being made.
                cgroup.kill_all()?;
            }
        }
        pause();
    }
}

fn kill_holder(folder: &InstanceFolder) -> io::Result<()> {
    // Empty for the first moments of a shim's life.
    let text = std::fs::read_to_string(folder.life())?;
    for pid in text.lines().filter_map(|line| line.parse().ok()) {
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a lock's release is polled, with a deadline")]
fn pause() {
    std::thread::sleep(PAUSE);
}
