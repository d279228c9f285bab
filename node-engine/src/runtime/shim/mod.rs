//! The shim: one small process per instance, parent of its container, which outlives the engine.
//!
//! The container library forks, so it must run in a process of one thread, and it is not the
//! engine that may hold what must survive it: exit status, output, and the instance's mounts. A
//! shim has its own mount namespace, in which the instance's file system is mounted; when shim
//! and container are gone, so is the mount, however they went.
//!
//! Its life: `seal` itself, mount, `container` created, tell the engine, `serve` until the
//! container ends, write down how.

mod container;
mod log;
mod network;
mod seal;
mod serve;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{chdir, setsid},
};
use xylem_daemon::Chain;

use self::container::{Container, ContainerError};
use super::{bundle::Bundle, cgroup::Hierarchies, folder::InstanceFolder, protocol};

/// All mount options have to fit one page, with a NUL at the end.
const MOUNT_OPTIONS_MAX: usize = 4095;

#[derive(Debug, thiserror::Error)]
enum ShimError {
    #[error("the shim cannot protect its program file")]
    Seal(#[source] io::Error),
    #[error(
        "the shim cannot write its process id to its standard input; only the engine starts it"
    )]
    Life(#[source] io::Error),
    #[error("the shim cannot read its instructions")]
    Bundle(#[source] io::Error),
    #[error("no control groups")]
    Cgroups(#[source] io::Error),
    #[error("the shim cannot make its own mount namespace")]
    MountNamespace(#[source] Errno),
    #[error("the image has no layers")]
    NoLayers,
    #[error("the image has too many layers: its mount options have {0} bytes")]
    MountOptions(usize),
    #[error("the file system of the instance cannot be mounted")]
    Mount(#[source] Errno),
    #[error("{path} cannot be made")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the container cannot be created")]
    Container(#[from] ContainerError),
    #[error("the shim cannot serve its socket")]
    Serve(#[source] io::Error),
}

/// Runs the shim of the instance in `folder` until the instance has ended.
pub fn run(folder: &Path) -> ExitCode {
    let folder = InstanceFolder::new(folder.to_owned());
    let shim = match prepare(&folder) {
        Ok(shim) => shim,
        Err(error) => {
            let cause = Chain(&error).to_string();
            tracing::error!(error = %Chain(&error), "instance cannot be made");
            return announce(&protocol::Birth::Failed { cause }, ExitCode::FAILURE);
        }
    };
    let pid = shim.container_pid();
    if announce(&protocol::Birth::Created { pid }, ExitCode::SUCCESS) != ExitCode::SUCCESS {
        tracing::warn!("engine is gone, the instance waits for the next one");
    }
    match shim.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "shim cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn announce(birth: &protocol::Birth, code: ExitCode) -> ExitCode {
    let mut out = io::stdout();
    match out.write_all(&protocol::line(birth)).and_then(|()| out.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn prepare(folder: &InstanceFolder) -> Result<serve::Shim, ShimError> {
    seal::ensure().map_err(ShimError::Seal)?;
    let _ = nix::sys::prctl::set_name(c"xylem-shim");
    // Already the leader of a session when started from a shell.
    let _ = setsid();
    nix::unistd::write(io::stdin(), std::process::id().to_string().as_bytes())
        .map_err(|errno| ShimError::Life(errno.into()))?;
    let bundle = Bundle::load(folder).map_err(ShimError::Bundle)?;
    let hierarchies = Hierarchies::detect().map_err(ShimError::Cgroups)?;
    mount_root(folder, &bundle)?;
    let log = log::Log::open(folder, bundle.log_bytes_max).map_err(ShimError::Serve)?;
    let container = Container::create(folder, &bundle, &hierarchies)?;
    serve::Shim::new(folder, &bundle, hierarchies, container, log).map_err(ShimError::Serve)
}

/// Stacks the image's layers and a writable one on top, in a mount namespace that only this
/// process and its container see.
fn mount_root(folder: &InstanceFolder, bundle: &Bundle) -> Result<(), ShimError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(ShimError::MountNamespace)?;
    // What is unmounted on the host is unmounted here too, and nothing goes the other way.
    mount::<str, str, str, str>(None, "/", None, MsFlags::MS_REC | MsFlags::MS_SLAVE, None)
        .map_err(ShimError::MountNamespace)?;

    for path in [folder.upper(), folder.work(), folder.root(), folder.state()] {
        std::fs::create_dir_all(&path).map_err(|source| ShimError::Folder { path, source })?;
    }
    let top = bundle.needs.layers.last().ok_or(ShimError::NoLayers)?;
    copy_mode(&bundle.layers_folder.join(top).join("fs"), &folder.upper())
        .map_err(|source| ShimError::Folder { path: folder.upper(), source })?;

    let lower: Vec<_> = bundle.needs.layers.iter().rev().map(|name| format!("{name}/fs")).collect();
    let (upper, work) = folder.overlay_folders();
    // Volatile: what an instance wrote does not outlive it, so it need not reach the disk.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    if options.len() > MOUNT_OPTIONS_MAX {
        return Err(ShimError::MountOptions(options.len()));
    }
    chdir(&bundle.layers_folder).map_err(ShimError::Mount)?;
    let target = folder.root();
    // No devices but those in the container's own /dev: an image could bring any.
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::MS_NODEV, Some(options.as_str()))
        .map_err(ShimError::Mount)?;
    chdir("/").map_err(ShimError::Mount)
}

/// The root directory of an instance is its writable layer's: it shall look as the image's.
fn copy_mode(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let like = std::fs::metadata(from)?;
    std::os::unix::fs::chown(to, Some(like.uid()), Some(like.gid()))?;
    std::fs::set_permissions(to, like.permissions())
}
