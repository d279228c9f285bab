//! `bench net`: everything set up, measured, removed and told.

use std::{env, io, time::Instant};

use anyhow::Result;

use crate::{
    chart,
    figures::Figures,
    flows::{self, Crowd},
    interrupt::Interrupt,
    marks,
    options::{Net, Output},
    report,
    scene::Scene,
};

/// How net managers are told the size of their flow tables.
const FLOWS_VARIABLE: &str = "XYLEM_MAX_FLOWS";

/// What has to be done while there is one thread only.
pub(crate) fn prepare(options: &Net) {
    if let Some(flows) = options.flows {
        // SAFETY: this is before the first thread but the main one is started.
        unsafe { env::set_var(FLOWS_VARIABLE, Crowd::capacity(flows).to_string()) };
    }
}

/// # Errors
/// If something cannot be set up, a load fails, or it was interrupted.
pub(crate) fn measure(options: &Net, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    let plan = options.plan()?;
    let mut scene = Scene::start(&plan.sides)?;
    let outcome = plan.run(&mut scene, interrupt).and_then(|outcome| {
        let crowded = options
            .flows
            .map(|flows| flows::beside_none(&scene, flows, plan.rounds, plan.duration, interrupt));
        Ok((outcome, crowded.transpose()?))
    });
    interrupt.end();
    drop(scene);
    let (outcome, crowded) = outcome?;

    let figures = Figures::new(&outcome.samples);
    let rows = figures.rows(&options.metrics(), plan.rounds);
    let mut told = Vec::new();
    told.extend(report::additions(&outcome.additions).map(|table| table.to_string()));
    let mut marks = marks::of_sides(&figures);
    marks.extend(marks::of_additions(&outcome.additions));
    if let Some(crowded) = &crowded {
        told.push(report::flows_table(crowded).to_string());
        told.push(format!(
            " a flow table with {} flows: {:.0} MB",
            crowded.flows,
            crowded.bytes as f64 / 1e6
        ));
        marks.extend(marks::of_flows(crowded));
    }
    told.extend(marks::table(&marks).map(|table| table.to_string()));
    told.push(report::ABOUT_BETWEEN.to_owned());
    let told = told.join("\n\n");
    match options.output {
        Output::Table => println!("{}\n\n{told}", report::table(&rows)),
        Output::Json => {
            report::write_json(&rows, io::stdout().lock())?;
            eprintln!("{told}");
        }
    }
    let file = options.chart();
    chart::draw(&rows, &file)?;
    eprintln!("a chart of it is in {}", file.display());
    eprintln!("measured in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}
