//! Why an instance has no place: one reason a candidate.

use std::fmt;

/// How many candidates a refusal's text names; the rest is counted.
const NAMED_IN_TEXT: usize = 5;

/// Nobody can take the instance.
#[derive(Clone, Debug, Default, PartialEq, thiserror::Error)]
pub struct Refusal {
    /// Every candidate by name, in the order given, with what speaks against it.
    pub reasons: Vec<(String, Reason)>,
}

/// Which of the two failure statuses a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// No candidate at all, or one would do had it more room: waiting can help.
    NoCapacity,
    /// No candidate fulfils the constraints, however empty it were.
    NoneQualified,
}

/// What speaks against one candidate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Reason {
    #[error("is not among those that the direct constraint allows")]
    NotAllowed,
    #[error("does not run {needs}")]
    Virtualization { needs: String },
    #[error("architecture is {has:?}, needed is {needs}")]
    Architecture { needs: String, has: String },
    #[error("has no CSI driver {needs}")]
    CsiDriver { needs: String },
    #[error("takes no new instances: it is cordoned or drained")]
    Cordoned,
    #[error("{needs} vcpus needed, {free:.2} free")]
    Vcpus { needs: f64, free: f64 },
    #[error("{needs} MB of memory needed, {free:.0} free")]
    Memory { needs: u64, free: f64 },
    #[error("{needs} vgpus needed, {free} free")]
    Vgpus { needs: u32, free: u32 },
    #[error("node port {taken} is published by another instance there")]
    NodePorts { taken: String },
    /// A cluster: why its workers cannot.
    #[error("{0}")]
    Workers(Refusal),
}

impl Refusal {
    pub fn kind(&self) -> RefusalKind {
        if self.reasons.is_empty() || self.reasons.iter().any(|(_, r)| r.is_about_room()) {
            RefusalKind::NoCapacity
        } else {
            RefusalKind::NoneQualified
        }
    }
}

impl Reason {
    fn is_about_room(&self) -> bool {
        match self {
            Self::Cordoned
            | Self::Vcpus { .. }
            | Self::Memory { .. }
            | Self::Vgpus { .. }
            | Self::NodePorts { .. } => true,
            Self::Workers(refusal) => refusal.kind() == RefusalKind::NoCapacity,
            Self::NotAllowed
            | Self::Virtualization { .. }
            | Self::Architecture { .. }
            | Self::CsiDriver { .. } => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reasons.is_empty() {
            return f.write_str("nobody is active");
        }
        for (i, (name, reason)) in self.reasons.iter().take(NAMED_IN_TEXT).enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{name}: {reason}")?;
        }
        match self.reasons.len().saturating_sub(NAMED_IN_TEXT) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}
