//! The client: a connection, a line, an answer; and who answered how often.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Answers of one round.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    /// By name of the instance.
    answers: BTreeMap<String, u32>,
    failed: u32,
    /// The last failure's reason.
    failure: Option<String>,
    first: Duration,
    slowest: Duration,
}

/// One round, or with a pause between them round after round.
#[expect(clippy::disallowed_methods, reason = "the pause between two rounds is what was asked for")]
pub(crate) fn dial(target: SocketAddr, count: u32, pause: Option<Duration>) -> io::Result<()> {
    let mut round = 0u64;
    loop {
        round += 1;
        let tally = run_round(target, count);
        let mut out = io::stdout().lock();
        writeln!(out, "{}", tally.json(round, target))?;
        out.write_all(tally.table().as_bytes())?;
        out.flush()?;
        drop(out);
        match pause {
            Some(pause) => thread::sleep(pause),
            None => return Ok(()),
        }
    }
}

fn run_round(target: SocketAddr, count: u32) -> Tally {
    let mut tally = Tally::default();
    for number in 0..count {
        let start = Instant::now();
        match ask(target) {
            Ok(name) => *tally.answers.entry(name).or_default() += 1,
            Err(error) => {
                tally.failed += 1;
                tally.failure = Some(error.to_string());
            }
        }
        let took = start.elapsed();
        tally.slowest = tally.slowest.max(took);
        if number == 0 {
            tally.first = took;
        }
    }
    tally
}

fn ask(target: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"who\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(256)).read_line(&mut line)?;
    match line.trim() {
        "" => Err(io::ErrorKind::UnexpectedEof.into()),
        name => Ok(name.to_owned()),
    }
}

impl Tally {
    /// One line for programs; times in milliseconds.
    fn json(&self, round: u64, target: SocketAddr) -> String {
        let mut answers = String::new();
        for (name, count) in &self.answers {
            let comma = if answers.is_empty() { "" } else { "," };
            write!(answers, "{comma}{}:{count}", json_string(name)).expect("a string takes all");
        }
        let failure = self.failure.as_deref().map_or("null".to_owned(), json_string);
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        format!(
            "{{\"round\":{round},\"target\":\"{target}\",\"answers\":{{{answers}}},\
             \"failed\":{},\"failure\":{failure},\"first_ms\":{:.1},\"slowest_ms\":{:.1}}}",
            self.failed,
            milliseconds(self.first),
            milliseconds(self.slowest)
        )
    }

    /// The same for people.
    fn table(&self) -> String {
        let width = self.answers.keys().map(String::len).max().unwrap_or(0).max("INSTANCE".len());
        let mut table = format!("{:width$}  ANSWERS\n", "INSTANCE");
        for (name, count) in &self.answers {
            writeln!(table, "{name:width$}  {count:>7}").expect("a string takes all");
        }
        if let Some(failure) = &self.failure {
            writeln!(table, "{:width$}  {:>7}  {failure}", "failed", self.failed)
                .expect("a string takes all");
        }
        table
    }
}

fn json_string(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            c if c.is_control() => {
                write!(quoted, "\\u{:04x}", u32::from(c)).expect("a string takes all");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn answers_are_counted_by_name_and_failures_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            for reply in ["a\n", "b\n", "a\n", ""] {
                let (mut client, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&client).read_line(&mut line).unwrap();
                client.write_all(reply.as_bytes()).unwrap();
            }
        });
        let tally = run_round(target, 4);
        server.join().unwrap();
        assert_eq!(tally.answers, BTreeMap::from([("a".into(), 2), ("b".into(), 1)]));
        assert_eq!(tally.failed, 1);
        assert!(tally.slowest >= tally.first);
    }

    #[test]
    fn names_are_quoted_as_json_wants_it() {
        assert_eq!(json_string("a\"b\\c\n"), r#""a\"b\\c\u000a""#);
    }

    #[test]
    fn the_json_line_names_everything() {
        let tally = Tally { answers: [("web".into(), 3)].into(), ..Tally::default() };
        assert_eq!(
            tally.json(1, "10.30.0.1:80".parse().unwrap()),
            r#"{"round":1,"target":"10.30.0.1:80","answers":{"web":3},"failed":0,"failure":null,"first_ms":0.0,"slowest_ms":0.0}"#
        );
    }
}
