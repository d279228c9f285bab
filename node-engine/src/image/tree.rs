//! A directory tree that nothing written through it can leave.
//!
//! Names come from layers that anybody may have written. Every parent directory is resolved by
//! the kernel with `RESOLVE_BENEATH` from the descriptor of the root, so that neither `..` nor an
//! absolute name, neither a symbolic link nor one that changes in between leads out; the last
//! component is never followed.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2},
    sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat},
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat},
};

/// The root, and what is looked up below it.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// Trees below this one, nearest first: a directory that this tree only passes through looks
    /// as it does there.
    lower: Vec<OwnedFd>,
}

/// A name in a directory of the tree.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    pub(super) name: OsString,
}

#[derive(Debug, thiserror::Error)]
pub enum PathError {
    #[error("{0:?} is absolute or has \"..\" in it, so it leads out of the image")]
    Leaves(PathBuf),
    #[error("{0:?} goes through a symbolic link that leads out of the image")]
    LinkLeaves(PathBuf),
    #[error("{0:?} is below something that is no directory")]
    NotADirectory(PathBuf),
    #[error("{path:?} cannot be made")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl PathError {
    fn new(path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::EXDEV | Errno::ELOOP => Self::LinkLeaves(path),
            Errno::ENOTDIR => Self::NotADirectory(path),
            errno => Self::Io { path, source: errno.into() },
        }
    }
}

impl Tree {
    /// # Errors
    /// When one of the folders cannot be opened.
    pub(super) fn open(root: &Path, lower: &[PathBuf]) -> io::Result<Self> {
        let open = |path: &Path| -> io::Result<OwnedFd> {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            Ok(openat(AT_FDCWD, path, flags, Mode::empty())?)
        };
        Ok(Self {
            root: open(root)?,
            lower: lower.iter().map(|path| open(path)).collect::<io::Result<_>>()?,
        })
    }

    /// The root itself.
    pub(super) fn root(&self) -> impl AsFd {
        self.root.as_fd()
    }

    /// The place of `path`, its parent directories made if they are missing; `None` for the root.
    ///
    /// # Errors
    /// When the path leads out of the tree, or a parent cannot be a directory.
    pub(super) fn place(&self, path: &Path) -> Result<Option<Place>, PathError> {
        let path = inside(path)?;
        let Some(name) = path.file_name() else { return Ok(None) };
        let parent = path.parent().unwrap_or(Path::new(""));
        let directory = match self.directory(parent) {
            Ok(directory) => directory,
            Err(Errno::ENOENT) => self.make_parents(parent)?,
            Err(errno) => return Err(PathError::new(&path, errno)),
        };
        Ok(Some(Place { directory, name: name.to_owned() }))
    }

    /// The place of something that must be there already.
    ///
    /// # Errors
    /// When the path leads out of the tree or its parent does not exist.
    pub(super) fn existing(&self, path: &Path) -> Result<Place, PathError> {
        let path = inside(path)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().ok_or_else(|| PathError::Leaves(path.clone()))?;
        let directory = self.directory(parent).map_err(|errno| PathError::new(&path, errno))?;
        Ok(Place { directory, name: name.to_owned() })
    }

    /// Opens a directory of the tree; the empty path is the root.
    fn directory(&self, path: &Path) -> nix::Result<OwnedFd> {
        beneath(&self.root, path, OFlag::O_DIRECTORY)
    }

    fn make_parents(&self, path: &Path) -> Result<OwnedFd, PathError> {
        let mut made = PathBuf::new();
        for component in path.components() {
            made.push(component);
            let error = |errno| PathError::new(&made, errno);
            match self.directory(&made) {
                Err(Errno::ENOENT) => {}
                Ok(_) => continue,
                Err(errno) => return Err(error(errno)),
            }
            let parent = made.parent().unwrap_or(Path::new(""));
            let parent = self.directory(parent).map_err(error)?;
            let name = component.as_os_str();
            let like = self.in_lower(&made);
            let mode = like.map_or(0o755, |stat| stat.st_mode & 0o7777);
            mkdirat(&parent, name, Mode::from_bits_truncate(mode)).map_err(error)?;
            if let Some(stat) = like {
                let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
                fchownat(&parent, name, Some(uid), Some(gid), flags).map_err(error)?;
            }
        }
        self.directory(path).map_err(|errno| PathError::new(path, errno))
    }

    /// The directory of that name in the nearest tree below that has one.
    fn in_lower(&self, path: &Path) -> Option<FileStat> {
        self.lower.iter().find_map(|root| {
            let directory = beneath(root, path, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).ok()?;
            fstatat(&directory, "", AtFlags::AT_EMPTY_PATH).ok()
        })
    }
}

impl Place {
    /// What is there now, a link itself and not its target.
    pub(super) fn stat(&self) -> nix::Result<Option<FileStat>> {
        match fstatat(&self.directory, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Opens the directory that is there.
    pub(super) fn open_directory(&self) -> nix::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.directory, self.name.as_os_str(), flags, Mode::empty()).map(File::from)
    }

    /// Removes what is there, with everything below it.
    pub(super) fn clear(&self) -> nix::Result<()> {
        match self.stat()? {
            None => Ok(()),
            Some(stat) if is(&stat, SFlag::S_IFDIR) => {
                remove_below(&self.open_directory()?)?;
                unlinkat(&self.directory, self.name.as_os_str(), UnlinkatFlags::RemoveDir)
            }
            Some(_) => unlinkat(&self.directory, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir),
        }
    }
}

fn remove_below(directory: &File) -> nix::Result<()> {
    let owned = directory.try_clone().map_err(|_| Errno::EMFILE)?;
    let mut listing = Dir::from_fd(owned.into())?;
    for entry in listing.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            let directory = directory.try_clone().map_err(|_| Errno::EMFILE)?;
            Place { directory: directory.into(), name: name.to_owned() }.clear()?;
        }
    }
    Ok(())
}

/// Whether it is of that kind.
pub(super) fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

fn beneath(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// The path without `.` components.
///
/// # Errors
/// When it is absolute or has `..` in it.
fn inside(path: &Path) -> Result<PathBuf, PathError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(PathError::Leaves(path.to_owned()));
            }
        }
    }
    Ok(clean)
}
