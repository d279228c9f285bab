//! Where the maps are pinned, and whether what is there can be read by this build.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::MapError;
use net_common::LAYOUT_VERSION;

/// Every map that is pinned, under its own name.
pub const MAPS: [&str; 25] = [
    "config",
    "services",
    "tables",
    "chunks",
    "cursors",
    "instances",
    "nodes",
    "peers",
    "endpoints",
    "flows",
    "opening",
    "fragments",
    "published",
    "miss_budgets",
    "explain",
    "observations",
    "service_traffic",
    "instance_traffic",
    "drops",
    "program_counters",
    "events",
    "names",
    "namespaces",
    "sockets",
    "joined",
];

/// Folder of the pinned links, below the layout's folder.
pub const LINKS_DIR: &str = "links";

/// Why the maps cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "no data path below {}: start the net manager, or name its folder with --bpffs-root",
        root.display()
    )]
    NothingThere { root: PathBuf },
    #[error(
        "the data path below {} has layout {found}, this program reads layout {LAYOUT_VERSION}: \
         use the version that belongs to it, or upgrade the net manager",
        root.display()
    )]
    OtherLayout { root: PathBuf, found: u32 },
    #[error("not allowed to open {}: run as root", path.display())]
    Forbidden { path: PathBuf },
    #[error("cannot open the map {}", path.display())]
    Map {
        path: PathBuf,
        #[source]
        source: Box<MapError>,
    },
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The folder of this build's layout below a bpffs root.
pub fn layout_dir(root: &Path) -> PathBuf {
    root.join(format!("v{LAYOUT_VERSION}"))
}

/// The layouts below `root` that are not this build's.
///
/// # Errors
/// The folder cannot be read; one that is not there has no layouts.
pub fn other_layouts(root: &Path) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix('v')?.parse::<u32>().ok());
        found.extend(version.filter(|version| *version != LAYOUT_VERSION));
    }
    found.sort_unstable();
    Ok(found)
}

/// The folder with the maps, if it is there.
///
/// # Errors
/// It is not, and this says what is there instead.
pub(crate) fn find(root: &Path) -> Result<PathBuf, OpenError> {
    let dir = layout_dir(root);
    match dir.try_exists() {
        Ok(true) => Ok(dir),
        Ok(false) => match other_layouts(root) {
            Ok(found) => Err(match found.last() {
                Some(found) => OpenError::OtherLayout { root: root.into(), found: *found },
                None => OpenError::NothingThere { root: root.into() },
            }),
            Err(source) => Err(unreadable(root, source)),
        },
        Err(source) => Err(unreadable(&dir, source)),
    }
}

pub(crate) fn unreadable(path: &Path, source: io::Error) -> OpenError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        OpenError::Forbidden { path: path.into() }
    } else {
        OpenError::Unreadable { path: path.into(), source }
    }
}
