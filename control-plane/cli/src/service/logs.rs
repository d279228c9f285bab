//! `xylem service logs`
//!
//! The root keeps the last 1024 bytes of each instance's output; following means asking again
//! and printing what is new at the end.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use xylem_types::job::JobInstance;

use super::resolve;
use crate::{
    client::Client,
    failure::Usage,
    output::{self, Format},
};

const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem service logs web
  xylem service logs shop.prod.web.front 2 --follow")]
pub(crate) struct LogsArgs {
    /// Id, full name app.appns.service.servicens, or service name if unique
    service: String,
    /// Only this instance
    #[arg(value_name = "NUMBER")]
    instance: Option<u32>,
    /// Go on with what is printed from now on
    #[arg(long, short)]
    follow: bool,
}

#[derive(Debug, Serialize)]
struct InstanceLogs<'a> {
    instance_number: u32,
    logs: &'a str,
}

/// # Errors
/// When the root cannot be reached or refuses, the service or instance is not there, or the
/// writer fails.
pub(super) async fn run(
    client: &mut Client,
    args: LogsArgs,
    format: Format,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if args.follow && format == Format::Json {
        return Err(Usage("--follow prints text; leave out --output json".to_owned()).into());
    }
    let service = resolve::find(client, &args.service).await?;
    let wanted = |list: Vec<JobInstance>| -> Vec<JobInstance> {
        list.into_iter()
            .filter(|i| args.instance.is_none_or(|number| number == i.instance_number))
            .collect()
    };
    let instances = wanted(resolve::get(client, &service.id).await?.instance_list);
    if let (Some(number), true) = (args.instance, instances.is_empty()) {
        bail!("{} has no instance {number}", service.job_name);
    }
    if format == Format::Json {
        return Ok(render_json(out, &instances)?);
    }
    let mut printer = Printer { with_number: args.instance.is_none(), seen: BTreeMap::new() };
    printer.print(out, instances)?;
    if !args.follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(FOLLOW_INTERVAL).await;
        match resolve::get(client, &service.id).await {
            Ok(job) => printer.print(out, wanted(job.instance_list))?,
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn render_json(out: &mut impl Write, instances: &[JobInstance]) -> io::Result<()> {
    let logs: Vec<_> = instances
        .iter()
        .map(|i| InstanceLogs { instance_number: i.instance_number, logs: &i.logs })
        .collect();
    output::json(out, &logs)
}

/// Prints each instance's output once.
struct Printer {
    /// Whether lines begin with the instance's number.
    with_number: bool,
    seen: BTreeMap<u32, String>,
}

impl Printer {
    fn print(&mut self, out: &mut impl Write, instances: Vec<JobInstance>) -> io::Result<()> {
        for JobInstance { instance_number, logs, .. } in instances {
            let before = self.seen.get(&instance_number).map_or("", String::as_str);
            for line in continuation(before, &logs).lines() {
                if self.with_number {
                    write!(out, "{instance_number} | ")?;
                }
                writeln!(out, "{line}")?;
            }
            self.seen.insert(instance_number, logs);
        }
        out.flush()
    }
}

/// What `now`, the end of an output, has that `before`, an earlier end of it, has not: all that
/// follows the longest end of `before` with which `now` begins.
fn continuation<'a>(before: &str, now: &'a str) -> &'a str {
    before
        .char_indices()
        .map(|(at, _)| &before[at..])
        .find_map(|end| now.strip_prefix(end))
        .unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::{super::instances::samples::running, *};

    #[test]
    fn only_what_is_new_follows() {
        assert_eq!(continuation("", "one\n"), "one\n");
        assert_eq!(continuation("one\ntwo\n", "one\ntwo\n"), "");
        assert_eq!(continuation("one\ntwo\n", "two\nthree\n"), "three\n");
        assert_eq!(continuation("one\n", "nine\nten\n"), "nine\nten\n");
        assert_eq!(continuation("ä", "äö"), "ö");
    }

    #[test]
    fn lines_of_several_instances_say_whose_they_are() {
        let output = |number, logs: &str| JobInstance { logs: logs.to_owned(), ..running(number) };
        let mut printer = Printer { with_number: true, seen: BTreeMap::new() };
        let mut out = Vec::new();
        printer.print(&mut out, vec![output(0, "up\n"), output(1, "up\nready")]).unwrap();
        printer.print(&mut out, vec![output(0, "up\nGET /\n"), output(1, "up\nready")]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "0 | up\n1 | up\n1 | ready\n0 | GET /\n");
    }
}
