//! The folder in which maps and links are pinned.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracing::info;

/// Where systemd mounts the BPF file system.
const SYSTEM_MOUNT: &str = "/sys/fs/bpf";

/// How long a net manager that is on its way out may hold the folder.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    #[error("cannot create {}", path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount the BPF file system at {}: run as root", path.display())]
    Mount {
        path: PathBuf,
        #[source]
        source: nix::Error,
    },
    #[error("cannot look at {}", path.display())]
    Look {
        path: PathBuf,
        #[source]
        source: nix::Error,
    },
    #[error(
        "another net manager works on {}: stop it, or choose another folder with --bpffs-root",
        path.display()
    )]
    Locked { path: PathBuf },
    #[error("bpffs allows no dots in names: {} has one; choose another --bpffs-root", path.display())]
    Dotted { path: PathBuf },
}

/// Makes `root` a folder of a BPF file system, mounting one where there is none: at
/// `/sys/fs/bpf` for folders below it, else at `root` itself.
///
/// # Errors
/// It cannot be made or mounted.
pub fn prepare(root: &Path) -> Result<(), BpffsError> {
    if !is_bpffs(&nearest(root))? {
        let at = if root.starts_with(SYSTEM_MOUNT) { Path::new(SYSTEM_MOUNT) } else { root };
        create(at)?;
        mount_once(at)?;
    }
    // A dot in a name below the mount is refused with a bare EPERM.
    let below = root.strip_prefix(SYSTEM_MOUNT).unwrap_or(Path::new(""));
    if below.to_string_lossy().contains('.') {
        return Err(BpffsError::Dotted { path: root.into() });
    }
    create(root)
}

/// Several net managers may start at a time, and a second mount would hide what the first one
/// pinned: they take turns by a lock on the folder below the mount.
fn mount_once(at: &Path) -> Result<(), BpffsError> {
    let failed = |source| BpffsError::Mount { path: at.into(), source };
    let folder = File::open(at).map_err(|source| BpffsError::Create { path: at.into(), source })?;
    let _turn =
        Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, source)| failed(source))?;
    if is_bpffs(at)? {
        return Ok(());
    }
    info!(path = %at.display(), "mounting the BPF file system");
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), Some("mode=0700")).map_err(failed)
}

/// Creates a folder below `root`.
///
/// # Errors
/// It cannot be created.
pub fn create(path: &Path) -> Result<(), BpffsError> {
    fs::create_dir_all(path).map_err(|source| BpffsError::Create { path: path.to_owned(), source })
}

/// Whether `root` lies on a BPF file system.
///
/// # Errors
/// It cannot be looked at.
pub fn is_bpffs(path: &Path) -> Result<bool, BpffsError> {
    let stat = statfs(path).map_err(|source| BpffsError::Look { path: path.into(), source })?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).into()
}

/// Holds `root` for one net manager; the kernel lets go of it when the process ends, however it
/// ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held until dropped")] Flock<File>);

/// Waits a while for a net manager that is just ending.
///
/// # Errors
/// Another one keeps it.
pub async fn lock(root: &Path) -> Result<Lock, BpffsError> {
    let started = tokio::time::Instant::now();
    loop {
        let file = File::open(root)
            .map_err(|source| BpffsError::Create { path: root.to_owned(), source })?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Lock(lock)),
            Err(_) if started.elapsed() < LOCK_PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(_) => return Err(BpffsError::Locked { path: root.into() }),
        }
    }
}
