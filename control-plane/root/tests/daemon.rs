//! The binary, as an operator starts and stops it.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    time::timeout,
};

/// Nothing that is waited for takes longer, unless it never happens.
const DEADLINE: Duration = Duration::from_secs(30);

struct Daemon {
    child: Child,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Daemon {
    fn start(data_dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xylem-root"))
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .env("XYLEM_ADMIN_PASSWORD", "from the environment")
            .env_remove("XYLEM_LOG")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, stderr }
    }

    /// Where it listens, once it says so.
    async fn address(&mut self) -> SocketAddr {
        let said = async {
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                if let Some((_, rest)) = line.split_once("root is up listen=") {
                    return rest.split_whitespace().next().unwrap().parse().unwrap();
                }
            }
            panic!("it ended before it listened");
        };
        timeout(DEADLINE, said).await.unwrap()
    }

    /// Its exit code.
    async fn end(mut self, signal: Signal) -> Option<i32> {
        let pid = self.child.id().unwrap().try_into().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
        timeout(DEADLINE, self.child.wait()).await.unwrap().unwrap().code()
    }
}

/// The status line of the answer.
async fn login(address: SocketAddr, password: &str) -> String {
    let body = format!("{{\"username\":\"Admin\",\"password\":\"{password}\"}}");
    let request = format!(
        "POST /api/auth/login HTTP/1.1\r\nhost: root\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap().to_owned()
    };
    timeout(DEADLINE, exchange).await.unwrap()
}

#[tokio::test]
async fn it_ends_on_a_signal_and_starts_again_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(folder.path());
        let address = daemon.address().await;
        assert_eq!(login(address, "from the environment").await, "HTTP/1.1 200 OK");
        assert_eq!(login(address, "Admin").await, "HTTP/1.1 401 Unauthorized");
        assert_eq!(daemon.end(signal).await, Some(0));
    }
}

#[tokio::test]
async fn a_second_one_with_the_same_folder_says_why_it_cannot_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Daemon::start(folder.path());
    first.address().await;
    let mut second = Daemon::start(folder.path());
    let last_words = async {
        let mut words = String::new();
        while let Some(line) = second.stderr.next_line().await.unwrap() {
            words.push_str(&line);
        }
        words
    };
    let words = timeout(DEADLINE, last_words).await.unwrap();
    assert!(words.contains("is in use by another process"), "{words}");
    assert_eq!(second.child.wait().await.unwrap().code(), Some(1));
}
