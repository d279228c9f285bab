//! The shim's loop: output to the log, commands from the engine, and the end of the container.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use xylem_daemon::Chain;

use super::{container::Container, log::Log};
use crate::{
    core::outcome::{Exit, ExitKind},
    runtime::{
        bundle::Bundle,
        cgroup::{Cgroup, Hierarchies},
        folder::InstanceFolder,
        protocol::{FromShim, LINE_MAX, ToShim, line},
    },
};

/// Engines that may be connected at a time: one, and one that is just dying.
const CONNECTIONS_MAX: usize = 4;
/// Bytes read from a pipe at a time.
const CHUNK: usize = 64 * 1024;

/// The running shim.
#[derive(Debug)]
pub(super) struct Shim {
    folder: InstanceFolder,
    cgroup: Cgroup,
    stop_signal: i32,
    container: Container,
    log: Log,
    listener: UnixListener,
    children: SignalFd,
    connections: Vec<Connection>,
    progress: Progress,
    output_open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Held back.
    Created,
    /// Let go; does not run its program yet.
    Starting,
    Running,
    /// Could not run its program.
    Failed,
}

/// An engine.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    /// The beginning of a line.
    pending: Vec<u8>,
}

impl Shim {
    pub(super) fn new(
        folder: &InstanceFolder,
        bundle: &Bundle,
        hierarchies: Hierarchies,
        container: Container,
        log: Log,
    ) -> io::Result<Self> {
        let (_open, path) = folder.short_socket_path()?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        set_nonblocking(&container.output)?;
        set_nonblocking(&container.start_error)?;
        // After the container's process was made: it must not inherit a blocked signal.
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            folder: folder.clone(),
            cgroup: Cgroup::new(hierarchies, bundle.cgroup.clone()),
            stop_signal: bundle.process.stop_signal,
            children: SignalFd::with_flags(&mask, flags)?,
            container,
            log,
            listener,
            connections: vec![],
            progress: Progress::Created,
            output_open: true,
        })
    }

    pub(super) fn container_pid(&self) -> i32 {
        self.container.pid()
    }

    /// Until the container has ended and how was written down.
    pub(super) fn run(mut self) -> io::Result<()> {
        // The engine waits for the end of this output.
        close_stdout()?;
        loop {
            if let Some(how) = self.ended()? {
                self.copy_output();
                self.check_start();
                return self.write_exit(how);
            }
            self.wait()?;
            while let Ok(Some(_)) = self.children.read_signal() {}
            self.copy_output();
            self.check_start();
            self.accept();
            self.serve();
        }
    }

    fn wait(&self) -> io::Result<()> {
        fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
            PollFd::new(fd, PollFlags::POLLIN)
        }
        let mut fds = vec![readable(self.children.as_fd()), readable(self.listener.as_fd())];
        fds.extend(self.output_open.then(|| readable(self.container.output.as_fd())));
        if self.progress == Progress::Starting {
            fds.push(readable(self.container.start_error.as_fd()));
        }
        fds.extend(self.connections.iter().map(|connection| readable(connection.stream.as_fd())));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// How the first process ended, once it did.
    fn ended(&self) -> io::Result<Option<ExitKind>> {
        match waitpid(Pid::from_raw(self.container.pid()), Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => Ok(Some(ExitKind::Code(code))),
            WaitStatus::Signaled(_, signal, _) => Ok(Some(ExitKind::Signal(signal as i32))),
            _ => Ok(None),
        }
    }

    fn write_exit(&self, how: ExitKind) -> io::Result<()> {
        let exit = Exit { how, out_of_memory: self.cgroup.ran_out_of_memory() };
        let temporary = self.folder.exit().with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(&exit)?)?;
        std::fs::rename(temporary, self.folder.exit())
    }

    fn copy_output(&mut self) {
        let mut buffer = vec![0; CHUNK];
        while self.output_open {
            match self.container.output.read(&mut buffer) {
                Ok(0) => self.output_open = false,
                Ok(n) => {
                    if let Err(error) = self.log.write(&buffer[..n]) {
                        tracing::warn!(%error, "output is lost");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Whether the first process has come to run its program.
    fn check_start(&mut self) {
        if self.progress != Progress::Starting {
            return;
        }
        let mut cause = [0; 4096];
        match self.container.start_error.read(&mut cause) {
            Ok(0) => {
                self.progress = Progress::Running;
                self.tell_all(&FromShim::Started);
            }
            Ok(n) => {
                self.progress = Progress::Failed;
                let cause = String::from_utf8_lossy(&cause[..n]).into_owned();
                self.tell_all(&FromShim::NotStarted { cause });
            }
            Err(_) => {}
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.connections.len() == CONNECTIONS_MAX {
                self.connections.remove(0);
            }
            let running = self.progress == Progress::Running;
            let mut connection = Connection { stream, pending: vec![] };
            if connection.tell(&FromShim::Hello { pid: self.container.pid(), running }) {
                self.connections.push(connection);
            }
        }
    }

    fn serve(&mut self) {
        let mut commands = vec![];
        self.connections.retain_mut(|connection| connection.read(&mut commands));
        for command in commands {
            match command {
                ToShim::Start => self.start(),
                ToShim::Terminate => self.terminate(),
                ToShim::Kill => self.signal(Signal::SIGKILL as i32),
            }
        }
    }

    fn start(&mut self) {
        match self.progress {
            Progress::Created => match self.container.start() {
                Ok(()) => self.progress = Progress::Starting,
                Err(error) => {
                    self.progress = Progress::Failed;
                    let cause = Chain(&error).to_string();
                    self.tell_all(&FromShim::NotStarted { cause });
                }
            },
            Progress::Running => self.tell_all(&FromShim::Started),
            Progress::Starting | Progress::Failed => {}
        }
    }

    /// The kernel drops what the first process of a namespace neither handles nor waits for, so
    /// there would be nothing to wait for.
    fn terminate(&mut self) {
        let heard = hears(self.container.pid(), self.stop_signal).unwrap_or(true);
        self.signal(if heard { self.stop_signal } else { Signal::SIGKILL as i32 });
    }

    /// The process is our child and not reaped yet, so its number is its own.
    fn signal(&self, number: i32) {
        // SAFETY: kill takes any two integers.
        let sent = unsafe { libc::kill(self.container.pid(), number) };
        if sent < 0 {
            let error = io::Error::last_os_error();
            tracing::warn!(signal = number, %error, "signal could not be sent");
        }
    }

    fn tell_all(&mut self, message: &FromShim) {
        self.connections.retain_mut(|connection| connection.tell(message));
    }
}

impl Connection {
    /// Whether the connection is still good. An engine that does not read is not waited for.
    fn tell(&mut self, message: &FromShim) -> bool {
        self.stream.write_all(&line(message)).is_ok()
    }

    /// Reads what is there; whether the connection is still good.
    fn read(&mut self, commands: &mut Vec<ToShim>) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) => self.pending.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
            while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.pending.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(command) => commands.push(command),
                    Err(error) => tracing::warn!(%error, "engine said something unknown"),
                }
            }
            if self.pending.len() > LINE_MAX {
                return false;
            }
        }
    }
}

/// Whether a process handles the signal, or waits for it with the signal blocked.
fn hears(pid: i32, signal: i32) -> io::Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bit = 1u64 << (signal - 1);
    let set = |key: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(key))?;
        u64::from_str_radix(mask.trim(), 16).ok().map(|mask| mask & bit != 0)
    };
    Ok(set("SigCgt:").unwrap_or(true) || set("SigBlk:").unwrap_or(true))
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

fn close_stdout() -> io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    Ok(nix::unistd::dup2_stdout(null)?)
}
