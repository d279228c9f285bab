//! What the supervisor holds of one instance.

use tokio::task::AbortHandle;

use crate::{
    core::instance::{Phase, Record, Status},
    runtime::{
        bundle::Bundle, cgroup::Cgroup, folder::InstanceFolder, link::ShimLink, protocol::ToShim,
    },
};

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) phase: Phase,
    pub(super) folder: InstanceFolder,
    pub(super) cgroup: Cgroup,
    /// As written down last.
    pub(super) recorded: Option<Record>,
    /// As told last.
    pub(super) reported: Option<Status>,
    /// Between `Prepare` and `Create`.
    pub(super) bundle: Option<Bundle>,
    pub(super) link: Option<ShimLink>,
    /// Number of the link; what an earlier one says is out of date.
    pub(super) link_number: u64,
    /// Number of the operation under way; what an earlier one answers is out of date.
    pub(super) operation: u64,
    /// Of the only operation that may be given up.
    pub(super) preparation: Option<AbortHandle>,
}

impl Slot {
    pub(super) fn new(folder: InstanceFolder, cgroup: Cgroup) -> Self {
        Self {
            phase: Phase::Vacant,
            folder,
            cgroup,
            recorded: None,
            reported: None,
            bundle: None,
            link: None,
            link_number: 0,
            operation: 0,
            preparation: None,
        }
    }

    /// Begins an operation, giving up a preparation under way.
    pub(super) fn next_operation(&mut self) -> u64 {
        if let Some(preparation) = self.preparation.take() {
            preparation.abort();
        }
        self.operation += 1;
        self.operation
    }

    /// Begins a link; the one before is hung up.
    pub(super) fn next_link(&mut self) -> u64 {
        self.link = None;
        self.link_number += 1;
        self.link_number
    }

    pub(super) fn send(&self, command: ToShim) {
        if let Some(link) = &self.link {
            link.send(command);
        }
    }

    /// The last of an instance.
    pub(super) fn remove_folder(&self) {
        match std::fs::remove_dir_all(self.folder.path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::error!(path = %self.folder.path().display(), %error, "cannot be removed");
            }
            _ => {}
        }
    }
}
