//! What a person sees.

use std::net::Ipv4Addr;

use comfy_table::{Table, presets};
use xylem_tests::{platform::Platform, process::tail};

use crate::{
    commands::Try,
    facts::{Facts, Instance},
};

pub(crate) fn facts(facts: &Facts) {
    println!("\nThe instances, each in its network namespace on the worker that runs it:\n");
    let mut table =
        new_table(["INSTANCE", "STATUS", "WORKER", "NAMESPACE IP", "INSTANCE IP", "UNDERLAY"]);
    for instance in facts.web.iter().chain([&facts.client]) {
        table.add_row([
            instance.name.clone(),
            instance.status.to_string(),
            worker_name(instance),
            text(instance.namespace_ip),
            text(instance.instance_ip),
            instance.underlay.clone(),
        ]);
    }
    println!("{table}");

    println!(
        "\nWho answered {} on {}, which opened connections to the service IP {}:\n",
        facts.client.name,
        worker_name(&facts.client),
        facts.tally.target
    );
    let mut table = new_table(["ANSWERED BY", "WORKER", "WAY", "ANSWERS"]);
    for instance in &facts.web {
        let same = instance.worker == facts.client.worker;
        table.add_row([
            instance.name.clone(),
            worker_name(instance),
            if same { "same node" } else { "across nodes" }.to_owned(),
            facts.answers(instance).to_string(),
        ]);
    }
    println!("{table}");
    println!("\nslowest connection with its answer: {:.1} ms", facts.tally.slowest_ms);
    if let Some(failure) = &facts.tally.failure {
        println!("{} connections failed, the last with: {failure}", facts.tally.failed);
    }

    println!("\nCounted by the kernel programs on {}:\n", worker_name(&facts.client));
    let mut table = new_table(["PACKETS THAT WERE", "PACKETS", "BYTES"]);
    for (which, counter) in facts.programs.iter().filter(|(_, counter)| counter.packets > 0) {
        table.add_row([
            which.name().to_owned(),
            counter.packets.to_string(),
            counter.bytes.to_string(),
        ]);
    }
    println!("{table}");
    for (worker, reason, packets) in &facts.drops {
        println!("dropped on {worker}: {packets} packets, {}", reason.name());
    }
}

/// What to type in another terminal.
pub(crate) fn commands(platform: &Platform, commands: &[Try]) {
    println!("\nTo try, in another terminal:");
    for command in commands {
        println!("\n  # {}\n  {}", command.why, command.line());
    }
    println!("\nLogs of all daemons: {}", platform.folder().display());
    println!("Ctrl-C removes everything.");
}

/// The end of every daemon's log.
pub(crate) fn last_words(platform: &Platform) {
    for process in platform.processes() {
        eprintln!("--- {} ({}):", process.name(), process.log().display());
        eprintln!("{}", tail(process.log(), 12));
    }
}

fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

fn worker_name(instance: &Instance) -> String {
    format!("worker{}", instance.worker + 1)
}

fn text(address: Option<Ipv4Addr>) -> String {
    address.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}
