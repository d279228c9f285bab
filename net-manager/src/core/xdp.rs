//! Whether, and how, the uplink gets an XDP program.

use std::fmt;

use serde::Deserialize;

/// What the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum UplinkXdp {
    /// In the driver of a real network card that has it, else not at all.
    #[default]
    Auto,
    /// In the driver, or the net manager does not start. Not for virtual uplinks in service:
    /// checksums that are unfinished there go wrong in packets to published ports.
    Native,
    /// In the kernel's stack, for any interface: for tests of what the program does, with the
    /// same warning.
    Generic,
    /// Not at all.
    Off,
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Native,
    Generic,
}

impl Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What is tried, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Attached; when that is refused the net manager does not start.
    Must(Mode),
    /// Attached if the driver takes it.
    Try(Mode),
    Not(WhyNot),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    Configured,
    /// The uplink is no network card but an interface of this kind.
    Virtual(String),
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured => f.write_str("uplink_xdp is off"),
            Self::Virtual(kind) => write!(
                f,
                "the uplink is a {kind}: XDP there costs large packets and finished checksums, \
                 more than it gives"
            ),
        }
    }
}

/// `kind` is that of a virtual interface as the kernel names it, none of a network card.
pub fn choose(wanted: UplinkXdp, kind: Option<&str>) -> Choice {
    match (wanted, kind) {
        (UplinkXdp::Off, _) => Choice::Not(WhyNot::Configured),
        (UplinkXdp::Native, _) => Choice::Must(Mode::Native),
        (UplinkXdp::Generic, _) => Choice::Must(Mode::Generic),
        (UplinkXdp::Auto, Some(kind)) => Choice::Not(WhyNot::Virtual(kind.to_owned())),
        (UplinkXdp::Auto, None) => Choice::Try(Mode::Native),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_itself_only_a_network_card_gets_it() {
        assert_eq!(choose(UplinkXdp::Auto, None), Choice::Try(Mode::Native));
        let Choice::Not(why) = choose(UplinkXdp::Auto, Some("veth")) else { panic!("chosen") };
        assert!(why.to_string().contains("veth"), "{why}");
        assert_eq!(choose(UplinkXdp::Native, Some("veth")), Choice::Must(Mode::Native));
        assert_eq!(choose(UplinkXdp::Off, None), Choice::Not(WhyNot::Configured));
    }
}
