//! Typed user-space access to the pinned maps of the data path.
//!
//! The maps are the only copy of what is applied in the kernel, and they outlive every daemon:
//! the net manager reads back from here what it wrote, and `xylem net` shows it while nothing of
//! Xylem runs.

mod batch;
mod chunks;
mod dry_run;
mod error;
mod links;
mod name;
mod observe;
mod open;
mod pinned;
mod ring;
mod shared;
mod snapshot;
mod take;
mod turns;

pub use dry_run::DryRunError;
pub use error::{MapsError, is_full};
pub use links::{PinnedProgram, pinned_programs};
pub use name::{BadName, Name};
pub use observe::{ObserveError, Observer};
pub use open::{LINKS_DIR, MAPS, OpenError, layout_dir, other_layouts};
pub use pinned::{FlowTable, FlowWalk, MapUsage, PinnedMaps};
