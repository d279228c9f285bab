//! What every side can do.

use std::time::Duration;

use anyhow::Result;

use crate::{measure::Path, metric::Place};

/// A way from a client to a server, set up; it is removed when it is dropped.
pub(crate) trait Contender {
    fn path(&self, place: Place) -> Path<'_>;

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
}
