//! Whose turn it is: locks on folders beside the pinned maps, which the kernel lets go of when
//! their holder ends, however it ends. (A pinned map itself cannot be opened as a file.)

use std::{fs, fs::File, io, path::Path};

use nix::fcntl::{Flock, FlockArg};

/// Folder of the locks, below the layout's folder.
const LOCKS_DIR: &str = "locks";

/// What only one at a time may do with the maps of a data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Change the entry of the map `config`, of which the net manager writes all and an observer
    /// one bit. Held for an instant.
    Config,
    /// Read the ring `observations`.
    Observe,
    /// Use the map `explain`.
    Explain,
}

impl Turn {
    const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Observe => "observe",
            Self::Explain => "explain",
        }
    }

    /// Waits for it.
    ///
    /// # Errors
    /// The lock cannot be made.
    pub(crate) fn wait(self, dir: &Path) -> io::Result<Flock<File>> {
        let folder = self.open(dir)?;
        Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
    }

    /// Takes it, or `None` while another has it.
    ///
    /// # Errors
    /// The lock cannot be made.
    pub(crate) fn try_take(self, dir: &Path) -> io::Result<Option<Flock<File>>> {
        match Flock::lock(self.open(dir)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }

    fn open(self, dir: &Path) -> io::Result<File> {
        let path = dir.join(LOCKS_DIR).join(self.name());
        fs::create_dir_all(&path)?;
        File::open(path)
    }
}
