//! The container of an instance, made with the container library.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use libcontainer::{
    container::builder::ContainerBuilder,
    error::LibcontainerError,
    oci_spec::{OciSpecError, runtime::Spec},
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorValidationError, default::get_executor},
};
use nix::{
    fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2},
    sys::{
        resource::{Resource, getrlimit},
        signal::{SigHandler, Signal, signal},
        stat::Mode,
    },
    unistd::pipe2,
};
use xylem_daemon::Chain;

use super::network;
use crate::runtime::{
    bundle::Bundle,
    cgroup::Hierarchies,
    folder::InstanceFolder,
    seccomp::{Filters, SeccompError},
    spec::{Kernel, spec},
    user::{UserError, look_up},
};

/// Bytes of an image's `/etc/passwd` or `/etc/group` that are read.
const USER_FILE_MAX: u64 = 1 << 20;

/// Where a name is asked when the worker itself asks nobody.
const FALLBACK_RESOLVER: &str = "nameserver 8.8.8.8\n";

/// A container whose first process waits to be let go.
#[derive(Debug)]
pub(super) struct Container {
    library: libcontainer::container::Container,
    pid: i32,
    /// What the instance prints.
    pub(super) output: File,
    /// Ends when the first process runs its program; says why when it cannot.
    pub(super) start_error: File,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ContainerError {
    #[error(transparent)]
    User(#[from] UserError),
    #[error("{path} of the image cannot be read")]
    UserFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("file {path} cannot be written")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("its specification cannot be made")]
    Spec(#[source] OciSpecError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("no pipes")]
    Pipes(#[source] io::Error),
    #[error(transparent)]
    Library(#[from] LibcontainerError),
    #[error("container library made a container without a process")]
    NoProcess,
    #[error("its loopback interface cannot be set up")]
    Loopback(#[source] io::Error),
}

impl Container {
    pub(super) fn create(
        folder: &InstanceFolder,
        bundle: &Bundle,
        hierarchies: &Hierarchies,
    ) -> Result<Self, ContainerError> {
        let passwd = read_in_image(&folder.root(), "etc/passwd")?;
        let group = read_in_image(&folder.root(), "etc/group")?;
        let user = look_up(&bundle.process.user, &passwd, &group)?;
        write_etc(folder, &bundle.process.hostname)?;
        let kernel = Kernel {
            device_cgroup: hierarchies.guard_devices(),
            swap_limit: hierarchies.limit_swap(),
            message_queues: std::fs::read_to_string("/proc/filesystems")
                .is_ok_and(|all| all.contains("mqueue")),
            open_files_max: getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard),
        };
        let spec = spec(bundle, folder, &user, kernel).map_err(ContainerError::Spec)?;
        spec.save(folder.path().join("config.json")).map_err(ContainerError::Spec)?;

        let pipes_error = |errno: nix::errno::Errno| ContainerError::Pipes(errno.into());
        let (output, stdout) = pipe2(OFlag::O_CLOEXEC).map_err(pipes_error)?;
        let stderr = stdout.try_clone().map_err(ContainerError::Pipes)?;
        let (start_error, errors) = pipe2(OFlag::O_CLOEXEC).map_err(pipes_error)?;
        let stdin = File::open("/dev/null").map_err(ContainerError::Pipes)?;
        let executor = Confined { filters: Filters::new()?, errors: Arc::new(errors) };

        // Rust programs ignore SIGPIPE, and what is ignored stays so through exec: the instance
        // shall find the default.
        set_sigpipe(SigHandler::SigDfl);
        let created = ContainerBuilder::new(bundle.id.clone(), SyscallType::default())
            .with_root_path(folder.state())?
            .with_executor(executor)
            .with_stdin(stdin)
            .with_stdout(stdout)
            .with_stderr(stderr)
            .as_init(folder.path())
            .with_systemd(false)
            .with_detach(true)
            .build();
        set_sigpipe(SigHandler::SigIgn);
        let library = created?;
        let pid = library.pid().ok_or(ContainerError::NoProcess)?.as_raw();
        network::loopback_up(pid).map_err(ContainerError::Loopback)?;
        Ok(Self { library, pid, output: output.into(), start_error: start_error.into() })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets the first process go. Whether it could run its program, `start_error` tells.
    pub(super) fn start(&mut self) -> Result<(), LibcontainerError> {
        self.library.start()
    }
}

fn set_sigpipe(handler: SigHandler) {
    // SAFETY: neither handler is a function, so nothing runs in signal context.
    unsafe { signal(Signal::SIGPIPE, handler) }.expect("SIGPIPE can be handled");
}

/// The last steps of the first process: filter its system calls, run its program.
#[derive(Clone)]
struct Confined {
    filters: Filters,
    /// Closed by the kernel when the program runs.
    errors: Arc<OwnedFd>,
}

impl Executor for Confined {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let run = || {
            self.filters.apply().map_err(|error| ExecutorError::Execution(Box::new(error)))?;
            get_executor().exec(spec)
        };
        run().inspect_err(|error| {
            // Nobody reads any more when the shim died; the exit code tells then.
            let _ = nix::unistd::write(&self.errors, Chain(error).to_string().as_bytes());
        })
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        get_executor().validate(spec)
    }
}

/// A file of the image, links in it followed as they are inside; empty when there is none.
fn read_in_image(root: &Path, name: &str) -> Result<String, ContainerError> {
    let read = || -> io::Result<String> {
        let directory =
            nix::fcntl::openat(AT_FDCWD, root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut bytes = vec![];
        File::from(openat2(&directory, name, how)?).take(USER_FILE_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result.map_err(|source| ContainerError::UserFile { path: name.into(), source }),
    }
}

/// The files that are mounted over the image's.
fn write_etc(folder: &InstanceFolder, hostname: &str) -> Result<(), ContainerError> {
    let hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    for (name, content) in
        [("hosts", hosts), ("hostname", &format!("{hostname}\n")), ("resolv.conf", &resolv_conf())]
    {
        let path = folder.etc(name);
        let write = || -> io::Result<()> { File::create(&path)?.write_all(content.as_bytes()) };
        write().map_err(|source| ContainerError::Write { path: path.clone(), source })?;
    }
    Ok(())
}

/// The worker's own resolvers, but those that only the worker itself can reach.
fn resolv_conf() -> String {
    let usable = |line: &str| {
        line.strip_prefix("nameserver").map(str::trim).and_then(|address| {
            address.parse::<std::net::IpAddr>().ok().filter(|address| !address.is_loopback())
        })
    };
    ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"]
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|text| {
            let kept = text
                .lines()
                .filter(|line| !line.starts_with("nameserver") || usable(line).is_some());
            kept.map(|line| format!("{line}\n")).collect::<String>()
        })
        .find(|text| text.lines().any(|line| usable(line).is_some()))
        .unwrap_or_else(|| FALLBACK_RESOLVER.to_owned())
}
