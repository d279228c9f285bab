//! The folder of one instance: what is in it, by name.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
};

use super::bundle::Bundle;

/// `instances/{id}/` of the state folder.
///
/// Everything about an instance is in here but for its control groups and what its own
/// namespaces hold, so that removing it removes the instance.
#[derive(Clone, Debug)]
pub struct InstanceFolder {
    path: PathBuf,
}

/// How the overlay's folders are reached from the folder of the layers, `content/layers/`:
/// relative, because the names of all layers have to fit one page of mount options.
const UP_FROM_LAYERS: &str = "../../instances";

impl InstanceFolder {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// [`crate::core::instance::Record`]; outlives the others.
    pub fn record(&self) -> PathBuf {
        self.path.join("record.json")
    }

    /// [`super::bundle::Bundle`]
    pub fn bundle(&self) -> PathBuf {
        self.path.join("bundle.json")
    }

    /// The control group of the instance: the one it was made in, else its own below `parent`.
    /// The parent may be configured anew while instances run.
    pub fn cgroup(&self, parent: &Path) -> PathBuf {
        let new = || parent.join(self.path.file_name().unwrap_or_default());
        Bundle::load(self).map_or_else(|_| new(), |bundle| bundle.cgroup)
    }

    /// What the instance writes to its file system.
    pub fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    /// Overlayfs's own.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// Where the shim mounts the instance's file system, in its own mount namespace only.
    pub fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    /// `upper` and `work` as seen from the folder of the layers.
    pub fn overlay_folders(&self) -> (PathBuf, PathBuf) {
        let name = self.path.file_name().unwrap_or_default();
        let folder = Path::new(UP_FROM_LAYERS).join(name);
        (folder.join("upper"), folder.join("work"))
    }

    /// The container's state, kept by the container library.
    pub fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Files that are mounted over the image's: `hosts`, `hostname`, `resolv.conf`.
    pub fn etc(&self, name: &str) -> PathBuf {
        self.path.join(format!("etc.{name}"))
    }

    /// The shim's socket.
    pub fn socket(&self) -> PathBuf {
        self.path.join("socket")
    }

    /// Locked while the shim lives, from before it does; has its process id.
    pub fn life(&self) -> PathBuf {
        self.path.join("life")
    }

    /// There from before the net manager is asked to attach the instance.
    pub fn attached(&self) -> PathBuf {
        self.path.join("attached")
    }

    /// How the first process ended: [`crate::core::outcome::Exit`], written by the shim.
    pub fn exit(&self) -> PathBuf {
        self.path.join("exit.json")
    }

    /// Output of the instance.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Older output of the instance.
    pub fn old_log(&self) -> PathBuf {
        self.path.join("log.1")
    }

    /// Output of the shim itself.
    pub fn shim_log(&self) -> PathBuf {
        self.path.join("shim.log")
    }

    /// A path to the socket that is short enough for a socket address, however long the path of
    /// the folder is. It is valid while the descriptor is open.
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn short_socket_path(&self) -> io::Result<(OwnedFd, PathBuf)> {
        let folder =
            open(&self.path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/socket", folder.as_raw_fd()));
        Ok((folder, path))
    }

    /// Removes everything but the record.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        let entries = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.path() == self.record() {
                continue;
            }
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}
