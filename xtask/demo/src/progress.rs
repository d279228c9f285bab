//! What is going on, for somebody who waits: a spinner on a terminal, else a line a step.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    on_terminal: bool,
    step: Option<(String, Instant)>,
}

impl Progress {
    pub(crate) fn start() -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is valid");
        bar.set_style(style);
        Self { bar, on_terminal: stderr().is_terminal(), step: None }
    }

    pub(crate) fn step(&mut self, what: &str) {
        self.end_step();
        if self.on_terminal {
            self.bar.set_message(what.to_owned());
            self.bar.enable_steady_tick(Duration::from_millis(100));
        }
        self.step = Some((what.to_owned(), Instant::now()));
    }

    pub(crate) fn finish(&mut self) {
        self.end_step();
        self.bar.finish_and_clear();
    }

    fn end_step(&mut self) {
        let Some((what, since)) = self.step.take() else { return };
        let line = format!("{what} ({:.1} s)", since.elapsed().as_secs_f32());
        if self.on_terminal {
            self.bar.println(line);
        } else {
            eprintln!("{line}");
        }
    }
}
