//! Removes a data path: its programs, maps and interfaces. The instances on it lose their network.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use nix::mount::{MntFlags, umount2};
use tracing::info;

use super::start::DaemonError;
use crate::{
    core::ifname::DataPathId,
    kernel::{
        bpffs::{self, BpffsError},
        headroom,
        netlink::Netlink,
        veth,
    },
};

/// Removes everything of the data path below `root`; done if there is nothing.
///
/// # Errors
/// A net manager works on it, or something cannot be removed.
pub async fn purge(root: &Path) -> Result<(), DaemonError> {
    let netlink = Netlink::open()?;
    let id = DataPathId::new(root);
    let exists = root.exists();
    let lock = if exists { Some(bpffs::lock(root).await?) } else { None };
    for link in veth::of_instances(&netlink, id).await? {
        info!(net.ifname = link.name, "an interface is removed");
        netlink.remove(link.index).await?;
    }
    veth::remove_injection_pair(&netlink, id).await?;
    headroom::remove(&netlink, id).await?;
    drop(lock);
    if exists {
        info!(path = %root.display(), "pins are removed");
        remove(root).map_err(|source| BpffsError::Create { path: root.into(), source })?;
    }
    Ok(())
}

/// Removes the folder, and the BPF file system on it if it is there for this alone.
fn remove(root: &Path) -> io::Result<()> {
    let parent = root.parent().unwrap_or(root);
    let is_mounted_here = fs::metadata(root)?.dev() != fs::metadata(parent)?.dev();
    if !is_mounted_here {
        return fs::remove_dir_all(root);
    }
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        // The kernel puts two files of its own there.
        if path.is_dir() {
            fs::remove_dir_all(path)?;
        }
    }
    umount2(root, MntFlags::empty())?;
    fs::remove_dir(root)
}
