//! The pinned links, which keep programs on interfaces while every daemon is dead.

use std::{fs, io, path::Path};

use aya::programs::{
    links::{FdLink, LinkType, PinnedLink},
    loaded_programs,
};

use crate::open::{LINKS_DIR, OpenError, find, unreadable};

/// A pinned link and the program that it attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedProgram {
    /// Of the pin: for instances that of the interface.
    pub link: String,
    /// Whether it is an XDP program; else one of TCX.
    pub is_xdp: bool,
    /// As the kernel has it, which keeps 15 bytes; empty if the program is not to be found.
    pub name: String,
    /// The kernel's checksum over its instructions: the same for the same build.
    pub tag: u64,
}

/// What is pinned below a bpffs root, by name. A link that cannot be read has no program.
///
/// # Errors
/// There is no data path, or its links cannot be listed.
pub fn pinned_programs(root: &Path) -> Result<Vec<PinnedProgram>, OpenError> {
    let dir = find(root)?.join(LINKS_DIR);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(&dir, error)),
    };
    let programs: Vec<_> = loaded_programs().filter_map(Result::ok).collect();
    let mut pinned = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(&dir, error))?;
        let info = PinnedLink::from_pin(entry.path()).and_then(|link| FdLink::from(link).info());
        let info = info.ok();
        let program =
            info.as_ref().and_then(|info| programs.iter().find(|p| p.id() == info.program_id()));
        pinned.push(PinnedProgram {
            link: entry.file_name().to_string_lossy().into_owned(),
            is_xdp: info
                .and_then(|info| info.link_type().ok())
                .is_some_and(|kind| kind == LinkType::Xdp),
            name: program.and_then(|program| program.name_as_str()).unwrap_or_default().to_owned(),
            tag: program.map_or(0, |program| program.tag()),
        });
    }
    pinned.sort_by(|a, b| a.link.cmp(&b.link));
    Ok(pinned)
}
