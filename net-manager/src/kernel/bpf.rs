//! The kernel programs: loaded once, their maps and links pinned, and taken over from the net
//! manager before.
//!
//! A restart changes nothing for packets: pinned maps are used again, and each pinned link is
//! updated to the new program in one step. Nothing is ever detached in between.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::MapInfo,
    pin::PinError,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
    sys::SyscallError,
};
use net_common::limits;
use net_maps::{LINKS_DIR, MAPS, layout_dir, other_layouts};
use nix::errno::Errno;

use super::bpffs::{self, BpffsError};
use crate::core::xdp::Mode;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xylem.o"));

/// A program of the data path, by the interface on whose ingress it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Program {
    FromInstance,
    FromUplink,
    FromParked,
}

impl Program {
    const ALL: [Self; 3] = [Self::FromInstance, Self::FromUplink, Self::FromParked];

    fn name(self) -> &'static str {
        match self {
            Self::FromInstance => "from_instance",
            Self::FromUplink => "from_uplink",
            Self::FromParked => "from_parked",
        }
    }
}

const UPLINK_XDP: &str = "uplink_xdp";

/// Why the data path cannot be loaded or attached.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error(
        "this net manager was built without its kernel programs: \
         run `cargo xtask build-ebpf` and build it again"
    )]
    NoObject,
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    #[error(
        "the data path below {} has layout {found:?} and this net manager has another: stop its \
         instances and run `xylem-net-manager purge --bpffs-root {}` first",
        root.display(), root.display()
    )]
    OtherLayout { root: PathBuf, found: Vec<u32> },
    #[error(
        "the pinned map {} has {what} {found} and this net manager wants {wanted}: give it the \
         settings that the map was made with, or stop its instances and purge it \
         (`xylem-net-manager purge`)",
        path.display()
    )]
    OtherMap { path: PathBuf, what: &'static str, found: u32, wanted: u32 },
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the embedded kernel programs cannot be read")]
    Object(#[source] Box<aya_obj::ParseError>),
    #[error("the kernel programs cannot be loaded")]
    Load(#[source] Box<EbpfError>),
    #[error("the kernel program {program} is not in the object")]
    NoProgram { program: &'static str },
    #[error("the kernel refused the program {program}")]
    Rejected {
        program: &'static str,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("cannot attach {program} to {ifname}")]
    Attach {
        program: &'static str,
        ifname: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("cannot pin or take over the link {}", path.display())]
    Link {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Entries of the maps whose size can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Service IPs and instance IPs.
    pub services: u32,
    pub instances: u32,
    pub nodes: u32,
    /// Flow entries, two for each flow.
    pub flows: u32,
}

/// Chunks of lookup tables for each service IP: affinity takes up to 32, the others one, and most
/// addresses are instance IPs, which have none.
const CHUNKS_PER_SERVICE: u32 = limits::CHUNKS / limits::SERVICES;

impl MapSizes {
    fn of(&self, map: &str) -> Option<u32> {
        match map {
            "services" | "tables" | "cursors" | "service_traffic" | "names" => Some(self.services),
            "instances" | "instance_traffic" => Some(self.instances),
            "nodes" | "peers" => Some(self.nodes),
            "flows" => Some(self.flows),
            "chunks" => Some(self.services.saturating_mul(CHUNKS_PER_SERVICE)),
            _ => None,
        }
    }
}

/// The loaded programs.
#[derive(Debug)]
pub struct DataPath {
    ebpf: Ebpf,
    links: PathBuf,
}

impl DataPath {
    /// Loads the programs onto the maps below `root`, making those that are not there.
    ///
    /// # Errors
    /// What is pinned there is of another kind, or the kernel refuses something; what was
    /// running goes on.
    pub fn load(root: &Path, sizes: &MapSizes) -> Result<Self, BpfError> {
        if OBJECT.is_empty() {
            return Err(BpfError::NoObject);
        }
        let found = other_layouts(root)
            .map_err(|source| BpfError::Unreadable { path: root.into(), source })?;
        if !found.is_empty() {
            return Err(BpfError::OtherLayout { root: root.into(), found });
        }
        let dir = layout_dir(root);
        let links = dir.join(LINKS_DIR);
        bpffs::create(&links)?;
        verify(&dir, sizes)?;

        let mut loader = EbpfLoader::new();
        for map in MAPS {
            loader.map_pin_path(map, dir.join(map));
            if let Some(size) = sizes.of(map) {
                loader.map_max_entries(map, size);
            }
        }
        let mut ebpf = loader.load(OBJECT).map_err(|source| BpfError::Load(Box::new(source)))?;
        for program in Program::ALL {
            classifier(&mut ebpf, program)?.load().map_err(|source| BpfError::Rejected {
                program: program.name(),
                source: Box::new(source),
            })?;
        }
        Ok(Self { ebpf, links })
    }

    /// Attaches a program to the ingress of an interface and pins the link under `link`; a link
    /// that is pinned there already is updated instead, in one step.
    ///
    /// # Errors
    /// There is no such interface, or the kernel refuses.
    pub fn attach(&mut self, program: Program, ifname: &str, link: &str) -> Result<(), BpfError> {
        let path = self.links.join(link);
        let failed = |source| BpfError::Attach {
            program: program.name(),
            ifname: ifname.to_owned(),
            source: Box::new(source),
        };
        let classifier = classifier(&mut self.ebpf, program)?;
        if let Some(pinned) = pinned(&path)? {
            match classifier.attach_to_link(pinned) {
                Ok(id) => {
                    // Dropping this handle closes it; the pin keeps the link.
                    classifier.take_link(id).map_err(failed)?;
                    return Ok(());
                }
                // The interface is gone, and the pin outlived it.
                Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
                    if io_error.raw_os_error() == Some(Errno::ENOLINK as i32) =>
                {
                    unpin(&path)?;
                }
                Err(source) => return Err(failed(source)),
            }
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = classifier
            .attach_with_options(ifname, TcAttachType::Ingress, options)
            .map_err(failed)?;
        let link = classifier.take_link(id).map_err(failed)?;
        let link: FdLink = link.try_into().map_err(|source| link_error(&path, source))?;
        link.pin(&path).map_err(|source| link_error::<PinError>(&path, source))?;
        Ok(())
    }

    /// As [`Self::attach`], of the uplink's XDP program, which is loaded for this alone.
    ///
    /// # Errors
    /// There is no such interface, or its driver has no XDP of this mode, or another program is
    /// attached to it.
    pub fn attach_xdp(&mut self, mode: Mode, ifname: &str, link: &str) -> Result<(), BpfError> {
        let path = self.links.join(link);
        let failed = |source| BpfError::Attach {
            program: UPLINK_XDP,
            ifname: ifname.to_owned(),
            source: Box::new(source),
        };
        let missing = BpfError::NoProgram { program: UPLINK_XDP };
        let Some(found) = self.ebpf.program_mut(UPLINK_XDP) else { return Err(missing) };
        let xdp: &mut Xdp = found.try_into().map_err(|_: ProgramError| missing)?;
        if xdp.fd().is_err() {
            xdp.load().map_err(|source| BpfError::Rejected {
                program: UPLINK_XDP,
                source: Box::new(source),
            })?;
        }
        if let Some(pinned) = pinned_link(&path)? {
            let pinned = XdpLink::try_from(pinned).map_err(|source| link_error(&path, source))?;
            match xdp.attach_to_link(pinned) {
                Ok(id) => {
                    xdp.take_link(id).map_err(failed)?;
                    return Ok(());
                }
                Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
                    if io_error.raw_os_error() == Some(Errno::ENOLINK as i32) =>
                {
                    unpin(&path)?;
                }
                Err(source) => return Err(failed(source)),
            }
        }
        let mode = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let id = xdp.attach(ifname, mode).map_err(failed)?;
        // What aya attaches in another way than by a link ends here, when it is dropped.
        let link = xdp.take_link(id).map_err(failed)?;
        let link: FdLink = link.try_into().map_err(|source| link_error(&path, source))?;
        link.pin(&path).map_err(|source| link_error::<PinError>(&path, source))?;
        Ok(())
    }

    /// Detaches whatever is pinned under `link`; nothing, if there is none.
    ///
    /// # Errors
    /// The pin cannot be removed.
    pub fn detach(&self, link: &str) -> Result<(), BpfError> {
        unpin(&self.links.join(link))
    }

    /// The folder of the maps.
    pub(super) fn dir(&self) -> &Path {
        self.links.parent().expect("a folder below that of the maps")
    }

    pub(super) fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Ids and names of the programs that are loaded.
    pub fn programs(&self) -> Vec<(u32, String)> {
        let loaded = self
            .ebpf
            .programs()
            .filter_map(|(name, program)| Some((program.info().ok()?.id(), name.to_owned())));
        loaded.collect()
    }

    /// The names of all pinned links.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn links(&self) -> Result<Vec<String>, BpfError> {
        let unreadable = |source| BpfError::Unreadable { path: self.links.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.links).map_err(unreadable)? {
            names.extend(entry.map_err(unreadable)?.file_name().into_string().ok());
        }
        Ok(names)
    }
}

fn classifier(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, BpfError> {
    let missing = BpfError::NoProgram { program: program.name() };
    let Some(found) = ebpf.program_mut(program.name()) else { return Err(missing) };
    found.try_into().map_err(|_: ProgramError| missing)
}

/// Compares what is pinned with what the object defines: aya, unlike libbpf, takes whatever it
/// finds at the path.
fn verify(dir: &Path, sizes: &MapSizes) -> Result<(), BpfError> {
    let object =
        aya_obj::Object::parse(OBJECT).map_err(|source| BpfError::Object(Box::new(source)))?;
    let defined: HashMap<&str, &aya_obj::Map> =
        object.maps.iter().map(|(name, map)| (name.as_str(), map)).collect();
    for name in MAPS {
        let path = dir.join(name);
        let Some(wanted) = defined.get(name) else { continue };
        if !path.exists() {
            continue;
        }
        let found = MapInfo::from_pin(&path).map_err(|source| link_error(&path, source))?;
        let kind = found.map_type().map_or(u32::MAX, |kind| kind as u32);
        let checks = [
            ("kind", kind, wanted.map_type()),
            ("key size", found.key_size(), wanted.key_size()),
            ("value size", found.value_size(), wanted.value_size()),
            ("flags", found.map_flags(), wanted.map_flags()),
            ("size", found.max_entries(), sizes.of(name).unwrap_or(wanted.max_entries())),
        ];
        for (what, found, wanted) in checks {
            // An array of maps is defined with the size of a map's handle or with none.
            let same = found == wanted || (what == "value size" && wanted == 0);
            if !same {
                return Err(BpfError::OtherMap { path, what, found, wanted });
            }
        }
    }
    Ok(())
}

fn pinned(path: &Path) -> Result<Option<SchedClassifierLink>, BpfError> {
    let link = pinned_link(path)?.map(SchedClassifierLink::try_from);
    link.transpose().map_err(|source| link_error(path, source))
}

fn pinned_link(path: &Path) -> Result<Option<FdLink>, BpfError> {
    match PinnedLink::from_pin(path) {
        Ok(pinned) => Ok(Some(FdLink::from(pinned))),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(source) => Err(link_error(path, source)),
    }
}

fn unpin(path: &Path) -> Result<(), BpfError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(link_error(path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn link_error<E: std::error::Error + Send + Sync + 'static>(path: &Path, source: E) -> BpfError {
    BpfError::Link { path: path.to_owned(), source: Box::new(source) }
}
