//! The server: one line in, the instance's name out.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv6Addr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

/// Connections served at a time; more wait in the listener's queue.
const WORKERS: usize = 16;

/// A client that says nothing for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// No first line is longer, in bytes.
const LINE_MAX: u64 = 4096;

pub(crate) fn serve(port: u16, name: &str) -> io::Result<()> {
    // An IPv6 socket takes IPv4 too, where there is IPv6 at all.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    println!("{name} serves on port {port}");
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    // A client that went away again, or answers that reach nobody, are the
                    // client's matter.
                    let _ = listener.accept().and_then(|(client, _)| answer(client, name));
                }
            });
        }
    });
    Ok(())
}

fn answer(mut client: TcpStream, name: &str) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(client.try_clone()?.take(LINE_MAX));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let reply = if line.contains(" HTTP/") {
        skip_headers(&mut reader)?;
        let length = name.len() + 1;
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{name}\n"
        )
    } else {
        format!("{name}\n")
    };
    client.write_all(reply.as_bytes())
}

/// What is left unread when a socket is closed would reset the connection.
fn skip_headers(reader: &mut impl BufRead) -> io::Result<()> {
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the server says to `request`.
    fn reply_to(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        answer(listener.accept().unwrap().0, "web-1").unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        reply
    }

    #[test]
    fn a_line_is_answered_with_the_name() {
        assert_eq!(reply_to("who\n"), "web-1\n");
    }

    #[test]
    fn a_request_is_answered_with_the_name_as_its_body() {
        let reply = reply_to("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Length: 6"));
        assert_eq!(body, "web-1\n");
    }
}
