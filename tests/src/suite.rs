//! A suite whose trials share one platform: it is started once, and they run one after the other
//! in their order, so those that break it on purpose come last.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::{
    daemon,
    image::Image,
    platform::{Name, Platform},
    topology::Topology,
};

/// Of the trials that took longest, so many are named in the end.
const SLOWEST: usize = 10;

/// One trial: its name, and what it does with what all share.
pub type Check<S> = (&'static str, fn(&S) -> Result<()>);

/// What the trials of a suite share.
pub trait Shared: Sized + Send + Sync + 'static {
    /// # Errors
    /// If it does not start; no trial is run then.
    fn start() -> Result<Self>;

    /// Called after each trial, with what came of it; what is known beside the error is added.
    ///
    /// # Errors
    /// If the trial has failed, or has left behind what it should not.
    fn judge(&self, outcome: Result<()>) -> Result<(), String>;
}

/// Runs those of the trials that the command line names; with `--list` nothing is started.
pub fn main<S: Shared>(checks: &[Check<S>]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share what some of them break on purpose.
    arguments.test_threads = Some(1);
    let times = Arc::default();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials::<S>(checks, None, &times)).exit_code();
    }
    let start = Instant::now();
    let shared = match S::start() {
        Ok(shared) => Arc::new(shared),
        Err(error) => {
            eprintln!("what the trials share does not start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let started = start.elapsed();
    let conclusion = libtest_mimic::run(&arguments, trials(checks, Some(shared), &times));
    eprintln!("{:6.2} s: the start", started.as_secs_f32());
    let mut times = std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner));
    times.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    for (name, time) in times.iter().take(SLOWEST) {
        eprintln!("{:6.2} s: {name}", time.as_secs_f32());
    }
    conclusion.exit_code()
}

type Times = Arc<Mutex<Vec<(&'static str, Duration)>>>;

/// The trials, each with its part of what they share; the last one drops it.
fn trials<S: Shared>(checks: &[Check<S>], shared: Option<Arc<S>>, times: &Times) -> Vec<Trial> {
    let trial = |(name, check): &Check<S>| {
        let (name, check) = (*name, *check);
        let (shared, times) = (shared.clone(), Arc::clone(times));
        Trial::test(name, move || {
            let shared = shared.expect("present unless only listed");
            let start = Instant::now();
            let outcome = check(&shared);
            let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
            times.push((name, start.elapsed()));
            drop(times);
            shared.judge(outcome).map_err(Failed::from)
        })
    };
    checks.iter().map(trial).collect()
}

/// A platform with so many workers and the demo's application in its registry: its reference.
///
/// # Errors
/// If something of it does not start.
pub fn platform(letter: char, workers: u8) -> Result<(Platform, String)> {
    let name = Name::new(format!("{letter}{}", std::process::id()));
    let topology = Topology::isolated(&name.prefix(), workers)?;
    let mut platform = Platform::start(name, topology)?;
    platform.start_workers()?;
    let image = Image::of_binary("demo-app", &daemon::demo_app())?;
    let image = platform.registry.add(&platform.topology.hub.netns, "demo-app", "1", &image)?;
    Ok((platform, image))
}

/// Port of the demo's application in the suites.
pub const DEMO_PORT: u16 = 8080;

/// Connects once to an instance of the demo's application; its name.
///
/// # Errors
/// If the connection fails, or is closed without an answer.
pub fn ask(address: Ipv4Addr, patience: Duration) -> Result<String> {
    let target = SocketAddr::from((address, DEMO_PORT));
    let mut stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"who\n")?;
    let mut name = String::new();
    BufReader::new(stream).read_line(&mut name)?;
    ensure!(!name.trim().is_empty(), "the connection was closed without an answer");
    Ok(name.trim().to_owned())
}
