//! Everything a shim has to know to make its instance.

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::image::sweep::Needs;

use super::{folder::InstanceFolder, process::Process};

/// Written by the engine before it starts the shim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// Name of the container.
    pub id: String,
    pub process: Process,
    /// Where the names in `layers` are folders.
    pub layers_folder: PathBuf,
    /// Of the image store; the layers lowest first.
    pub needs: Needs,
    /// Control group, from the root of each hierarchy.
    pub cgroup: PathBuf,
    pub limits: Limits,
    /// Gives the instance `/dev/fuse`, which is all that Oakestra's flag does.
    pub privileged: bool,
    /// Bytes of output that are kept.
    pub log_bytes_max: u64,
}

/// What the instance may use; 0 = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: u64,
    pub cpus: f64,
    pub processes: u64,
}

impl Bundle {
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, folder: &InstanceFolder) -> io::Result<()> {
        std::fs::write(folder.bundle(), serde_json::to_vec_pretty(self)?)
    }

    /// # Errors
    /// When the file cannot be read or is not a bundle.
    pub fn load(folder: &InstanceFolder) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(folder.bundle())?)?)
    }
}
