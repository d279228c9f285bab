//! What the running kernel and an interface can do for the data path.
//!
//! Found by trying where that is cheap and leaves nothing behind, because distributions port
//! features back and configure them out: a release number is a guess. Shared by the net manager,
//! which chooses by it, and `xylem net doctor`, which says what there is.

mod bpf;
mod driver;
mod kernel;
mod link;
mod netdev;

pub use kernel::{Kernel, l4_checksum_ipv6};
pub use link::{Link, LinkError, XdpMode};
pub use netdev::XdpFeatures;

/// Whether the kernel can do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    Yes,
    No,
    /// It could not be tried: why.
    Unknown(String),
}

impl Support {
    pub fn is_there(&self) -> bool {
        *self == Self::Yes
    }

    fn of<E: std::error::Error>(tried: Result<bool, E>) -> Self {
        match tried {
            Ok(true) => Self::Yes,
            Ok(false) => Self::No,
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}
