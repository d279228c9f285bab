//! What every side can do.

use std::time::Duration;

use anyhow::Result;

use crate::{measure::Path, metric::Place};

/// A way from a client to a server, set up; it is removed when it is dropped.
pub(crate) trait Contender {
    fn path(&self, place: Place) -> Path<'_>;

    /// Folders with what each node has pinned, the client's node first; none where nothing is.
    fn bpffs_roots(&self) -> Vec<&std::path::Path> {
        Vec::new()
    }

    /// Makes it know `count` services beside those that are measured, in place of those of
    /// before. Where packets go without knowing services, there is nothing to do.
    fn fill(&mut self, _count: u32) -> Result<()> {
        Ok(())
    }

    /// How long it takes to add one more service, which is removed again; nothing where there is
    /// nothing to add.
    fn time_adding(&mut self) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// How long it takes from the first packet to a service that the client's node does not know
    /// until it knows it; nothing where nodes are told of all services beforehand.
    fn time_learning(&mut self) -> Result<Option<Duration>> {
        Ok(None)
    }
}
