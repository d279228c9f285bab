//! Unpacks one layer into its own tree, in the form that overlayfs stacks.
//!
//! A layer's whiteouts become overlayfs's: `.wh.name` a character device 0/0 in the place of
//! `name`, `.wh..wh..opq` the attribute `trusted.overlay.opaque` on the directory. Attributes
//! that could speak to overlayfs or to a security module are never taken from a layer.
//!
//! A hard link has to find its target in the same layer, as every builder writes it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufReader, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::{
        stat::{
            Mode, SFlag, UtimensatFlags, fchmod, futimens, makedev, mkdirat, mknodat, utimensat,
        },
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat},
};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Entry, EntryType, Header};
use xattr::FileExt;

use super::{
    blob::hex,
    tree::{PathError, Place, Tree, is},
};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What other tools keep for themselves in a layer.
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
const PAX_ATTRIBUTE_PREFIX: &str = "SCHILY.xattr.";

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("layer cannot be read as a tar, plain, gzip or zstd")]
    Read(#[source] io::Error),
    #[error("layer entry refused")]
    Path(#[from] PathError),
    #[error("layer entry {path:?} cannot be made")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("layer entry {path:?} is a hard link to {target:?}, which the layer does not have")]
    LinkTarget { path: PathBuf, target: PathBuf },
    #[error("layer entry {path:?} is a hard link to {target:?}, which leads out of the image")]
    LinkLeaves {
        path: PathBuf,
        target: PathBuf,
        #[source]
        source: PathError,
    },
    #[error("layer entry {path:?} is of the unsupported kind {kind:?}")]
    Kind { path: PathBuf, kind: EntryType },
    #[error("layer entry {0:?} is a whiteout of nothing that can be named")]
    Whiteout(PathBuf),
}

/// Unpacks a blob and returns the SHA-256 of the tar in it, as hexadecimal digits.
///
/// # Errors
/// When the layer is damaged, has an entry that leads out of the tree, or cannot be written. What
/// was written until then stays; the caller removes the tree.
pub(super) fn unpack(blob: &Path, tree: &Tree) -> Result<String, UnpackError> {
    let file = File::open(blob).map_err(UnpackError::Read)?;
    let plain = decompress(BufReader::with_capacity(1 << 18, file)).map_err(UnpackError::Read)?;
    let mut tar = Hashing { inner: plain, hasher: Sha256::new() };
    let mut unpacking = Unpacking { tree, directories: vec![] };
    let mut archive = Archive::new(&mut tar);
    for entry in archive.entries().map_err(UnpackError::Read)? {
        unpacking.entry(&mut entry.map_err(UnpackError::Read)?)?;
    }
    unpacking.finish()?;
    // Padding behind the last entry counts for the digest.
    io::copy(&mut tar, &mut io::sink()).map_err(UnpackError::Read)?;
    Ok(hex(tar.hasher.finalize().as_slice()))
}

fn decompress(mut blob: BufReader<File>) -> io::Result<Box<dyn Read>> {
    use std::io::BufRead;
    let start = blob.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(blob)))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Box::new(zstd::Decoder::with_buffer(blob)?))
    } else {
        Ok(Box::new(blob))
    }
}

struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

struct Unpacking<'a> {
    tree: &'a Tree,
    /// Times of directories are set last: what is put into one changes its time. By name, since
    /// an image has more directories than a process may have open.
    directories: Vec<(PathBuf, TimeSpec)>,
}

/// Mode, owner and time of an entry.
struct Attributes {
    mode: Mode,
    uid: Uid,
    gid: Gid,
    time: TimeSpec,
    extended: Vec<(String, Vec<u8>)>,
}

impl Unpacking<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let path = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let attributes = Attributes::of(entry).map_err(UnpackError::Read)?;
        let write_error = |source: io::Error| UnpackError::Write { path: path.clone(), source };
        let Some(place) = self.tree.place(&path)? else {
            // The root: its mode and owner are the image's.
            let root = self.tree.root();
            fchown(&root, Some(attributes.uid), Some(attributes.gid))
                .and_then(|()| fchmod(&root, attributes.mode))
                .map_err(|errno| write_error(errno.into()))?;
            return Ok(());
        };
        if place.name.as_bytes().starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(&path, &place);
        }
        match kind {
            EntryType::Directory => {
                let directory = make_directory(&place).map_err(write_error)?;
                attributes.apply(&directory).map_err(write_error)?;
                self.directories.push((path, attributes.time));
                return Ok(());
            }
            EntryType::Link => {
                return self.hard_link(&path, &place, entry);
            }
            _ => place.clear().map_err(|errno| write_error(errno.into()))?,
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = create(&place).map_err(write_error)?;
                io::copy(entry, &mut file).map_err(write_error)?;
                attributes.apply(&file).map_err(write_error)?;
                futimens(&file, &attributes.time, &attributes.time)
                    .map_err(|errno| write_error(errno.into()))
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                symlinkat(OsStr::from_bytes(&target), &place.directory, place.name.as_os_str())
                    .and_then(|()| attributes.apply_to_name(&place))
                    .map_err(|errno| write_error(errno.into()))
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                make_node(&place, kind, entry.header())?;
                attributes
                    .apply_to_name(&place)
                    .and_then(|()| attributes.set_mode(&place))
                    .map_err(|errno| write_error(errno.into()))
            }
            kind => Err(UnpackError::Kind { path, kind }),
        }
    }

    fn hard_link<R: Read>(
        &self,
        path: &Path,
        place: &Place,
        entry: &Entry<'_, R>,
    ) -> Result<(), UnpackError> {
        let target = entry.link_name_bytes().unwrap_or_default();
        let target = Path::new(OsStr::from_bytes(&target)).to_owned();
        let missing = || UnpackError::LinkTarget { path: path.to_owned(), target: target.clone() };
        let from = match self.tree.existing(&target) {
            Ok(from) => from,
            Err(PathError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(missing());
            }
            Err(source) => {
                let (path, target) = (path.to_owned(), target);
                return Err(UnpackError::LinkLeaves { path, target, source });
            }
        };
        let (old, new) = (from.name.as_os_str(), place.name.as_os_str());
        let linked = place
            .clear()
            .and_then(|()| linkat(&from.directory, old, &place.directory, new, AtFlags::empty()));
        match linked {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT) => Err(missing()),
            Err(errno) => Err(UnpackError::Write { path: path.to_owned(), source: errno.into() }),
        }
    }

    fn whiteout(&self, path: &Path, place: &Place) -> Result<(), UnpackError> {
        let write_error = |source: io::Error| UnpackError::Write { path: path.to_owned(), source };
        let name = place.name.as_bytes();
        if name == OPAQUE {
            // The descriptor is of a path only; attributes need one to read.
            let directory = openat(
                &place.directory,
                ".",
                OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                Mode::empty(),
            );
            let directory = directory.map(File::from).map_err(|errno| write_error(errno.into()))?;
            return directory.set_xattr(OPAQUE_ATTRIBUTE, b"y").map_err(write_error);
        }
        if name.starts_with(WHITEOUT_META_PREFIX) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&name[WHITEOUT_PREFIX.len()..]);
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(UnpackError::Whiteout(path.to_owned()));
        }
        match mknodat(&place.directory, hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
            // A whiteout hides what is below; what this layer itself has stays, on nothing.
            Err(Errno::EEXIST) => {
                let directory = place.directory.try_clone().map_err(write_error)?;
                let same = Place { directory, name: hidden.to_owned() };
                match same.open_directory() {
                    Ok(directory) => {
                        directory.set_xattr(OPAQUE_ATTRIBUTE, b"y").map_err(write_error)
                    }
                    Err(_) => Ok(()),
                }
            }
            made => made.map_err(|errno| write_error(errno.into())),
        }
    }

    fn finish(self) -> Result<(), UnpackError> {
        for (path, time) in self.directories.into_iter().rev() {
            // A later entry may have taken its place.
            let Ok(place) = self.tree.existing(&path) else { continue };
            let flags = UtimensatFlags::NoFollowSymlink;
            match utimensat(&place.directory, place.name.as_os_str(), &time, &time, flags) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(UnpackError::Write { path, source: errno.into() }),
            }
        }
        Ok(())
    }
}

impl Attributes {
    fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Self> {
        let extended = attributes_of(entry)?;
        let header = entry.header();
        let id = |id: u64| u32::try_from(id).map_err(io::Error::other);
        Ok(Self {
            mode: Mode::from_bits_truncate(header.mode()? & 0o7777),
            uid: Uid::from_raw(id(header.uid()?)?),
            gid: Gid::from_raw(id(header.gid()?)?),
            time: TimeSpec::new(i64::try_from(header.mtime()?).unwrap_or(0), 0),
            extended,
        })
    }

    /// Owner first: a change of owner takes the set-id bits and the file's capabilities away.
    fn apply(&self, file: &File) -> io::Result<()> {
        fchown(file, Some(self.uid), Some(self.gid))?;
        fchmod(file, self.mode)?;
        for (name, value) in &self.extended {
            file.set_xattr(name, value)?;
        }
        Ok(())
    }

    /// Owner and time of what cannot be opened.
    fn apply_to_name(&self, place: &Place) -> nix::Result<()> {
        let name = place.name.as_os_str();
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(&place.directory, name, Some(self.uid), Some(self.gid), flags)?;
        let flags = UtimensatFlags::NoFollowSymlink;
        utimensat(&place.directory, name, &self.time, &self.time, flags)
    }

    /// Mode of a device or pipe, which was just made and is no link.
    fn set_mode(&self, place: &Place) -> nix::Result<()> {
        let flags = nix::sys::stat::FchmodatFlags::FollowSymlink;
        nix::sys::stat::fchmodat(&place.directory, place.name.as_os_str(), self.mode, flags)
    }
}

/// The attributes that a layer may set: the user's own, and capabilities of a program.
fn attributes_of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(vec![]) };
    let mut taken = vec![];
    for extension in extensions {
        let extension = extension?;
        let name = extension.key().ok().and_then(|key| key.strip_prefix(PAX_ATTRIBUTE_PREFIX));
        if let Some(name) = name
            && (name.starts_with("user.") || name == "security.capability")
        {
            taken.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(taken)
}

fn create(place: &Place) -> io::Result<File> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(&place.directory, place.name.as_os_str(), flags, Mode::S_IRUSR)?;
    Ok(File::from(file))
}

/// The directory of that name, made unless it is there.
fn make_directory(place: &Place) -> io::Result<File> {
    let there = place.stat()?;
    let hidden = there.as_ref().is_some_and(|stat| is(stat, SFlag::S_IFCHR) && stat.st_rdev == 0);
    if !there.is_some_and(|stat| is(&stat, SFlag::S_IFDIR)) {
        place.clear()?;
        mkdirat(&place.directory, place.name.as_os_str(), Mode::S_IRWXU)?;
    }
    let directory = place.open_directory()?;
    if hidden {
        // The layer hides the directory below and has a new one.
        directory.set_xattr(OPAQUE_ATTRIBUTE, b"y")?;
    }
    Ok(directory)
}

fn make_node(place: &Place, kind: EntryType, header: &Header) -> Result<(), UnpackError> {
    let number = |part: io::Result<Option<u32>>| -> Result<u64, UnpackError> {
        Ok(part.map_err(UnpackError::Read)?.unwrap_or(0).into())
    };
    let (kind, device) = match kind {
        EntryType::Fifo => (SFlag::S_IFIFO, 0),
        other => {
            let device = makedev(number(header.device_major())?, number(header.device_minor())?);
            (if other == EntryType::Block { SFlag::S_IFBLK } else { SFlag::S_IFCHR }, device)
        }
    };
    mknodat(&place.directory, place.name.as_os_str(), kind, Mode::empty(), device).map_err(
        |errno| UnpackError::Write { path: PathBuf::from(&place.name), source: errno.into() },
    )
}
