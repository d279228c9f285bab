//! The sides that are measured, set up beside each other.

use anyhow::{Context, Result};
use xylem_tests::platform::Name;

use crate::{
    contender::Contender,
    haproxy::Haproxy,
    hosts::Hosts,
    iptables::Iptables,
    measure::Path,
    metric::{Place, Side},
    nftables::Nftables,
    vxlan,
    xylem::Xylem,
};

/// Every side is on hosts of its own; all of it is removed when this is dropped.
pub(crate) struct Scene(Vec<(Side, Box<dyn Contender>)>);

impl Scene {
    pub(crate) fn start(sides: &[Side]) -> Result<Self> {
        let name = Name::new(format!("b{}", std::process::id()));
        let start = |side: Side| {
            eprintln!("setting up {side}");
            let contender = start(side, &name).with_context(|| format!("setting up {side}"))?;
            Ok((side, contender))
        };
        sides.iter().copied().map(start).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn path(&self, side: Side, place: Place) -> Path<'_> {
        self.side(side).path(place)
    }

    pub(crate) fn bpffs_roots(&self, side: Side) -> Vec<&std::path::Path> {
        self.side(side).bpffs_roots()
    }

    fn side(&self, side: Side) -> &dyn Contender {
        let (_, contender) =
            self.0.iter().find(|(known, _)| *known == side).expect("it was started");
        &**contender
    }

    /// All sides, to be changed.
    pub(crate) fn sides(&mut self) -> impl Iterator<Item = (Side, &mut dyn Contender)> {
        self.0.iter_mut().map(|(side, contender)| (*side, &mut **contender as _))
    }
}

fn start(side: Side, name: &Name) -> Result<Box<dyn Contender>> {
    let prefix = format!("{}-{side}", name.prefix());
    Ok(match side {
        Side::Plain => Box::new(Hosts::routed(&prefix)?),
        Side::Iptables => Box::new(Iptables::start(&prefix)?),
        Side::Nftables => Box::new(Nftables::start(|| Hosts::routed(&prefix))?),
        Side::Vxlan => Box::new(Nftables::start(|| vxlan::hosts(&prefix))?),
        Side::Haproxy => Box::new(Haproxy::start(&prefix)?),
        Side::Xylem => Box::new(Xylem::start(name.clone())?),
        Side::XylemSocket => {
            let name = Name::new(format!("b{}s", std::process::id()));
            Box::new(Xylem::start_with(name, &["--socket-path", "on"])?)
        }
    })
}
