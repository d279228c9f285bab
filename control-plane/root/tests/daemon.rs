//! The binary, as an operator starts and stops it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

struct Daemon {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Daemon {
    fn start(data_dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xylem-root"))
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .env("XYLEM_ADMIN_PASSWORD", "from the environment")
            .env("NO_COLOR", "1")
            .env_remove("XYLEM_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr }
    }

    /// Where it listens, once it says so.
    fn address(&mut self) -> SocketAddr {
        let mut line = String::new();
        while self.stderr.read_line(&mut line).unwrap() > 0 {
            if let Some((_, rest)) = line.split_once("root is up listen=") {
                return rest.split_whitespace().next().unwrap().parse().unwrap();
            }
            line.clear();
        }
        panic!("it ended before it listened");
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _reaped_before = self.child.wait();
    }
}

fn login(address: SocketAddr, password: &str) -> String {
    let body = format!("{{\"username\":\"Admin\",\"password\":\"{password}\"}}");
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let request = format!(
        "POST /api/auth/login HTTP/1.1\r\nhost: root\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap().to_owned()
}

#[test]
fn it_ends_on_a_signal_and_starts_again_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(folder.path());
        let address = daemon.address();
        assert_eq!(login(address, "from the environment"), "HTTP/1.1 200 OK");
        assert_eq!(login(address, "Admin"), "HTTP/1.1 401 Unauthorized");
        assert_eq!(daemon.end(signal), Some(0));
    }
}

#[test]
fn a_second_one_with_the_same_folder_says_why_it_cannot_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Daemon::start(folder.path());
    first.address();
    let mut second = Daemon::start(folder.path());
    let mut words = String::new();
    second.stderr.read_to_string(&mut words).unwrap();
    assert!(words.contains("is in use by another process"), "{words}");
    assert_eq!(second.child.wait().unwrap().code(), Some(1));
}
