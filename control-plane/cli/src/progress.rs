//! What a waiting command shows meanwhile, on stderr: a spinner for a person at a terminal, one
//! line a change for a log.

use std::{
    io::{self, Write},
    time::Duration,
};

use indicatif::ProgressBar;

#[derive(Debug)]
pub(crate) struct Progress {
    spinner: Option<ProgressBar>,
    last: String,
}

impl Progress {
    pub(crate) fn start() -> Self {
        let spinner = io::IsTerminal::is_terminal(&io::stderr()).then(|| {
            let spinner = ProgressBar::new_spinner();
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Self { spinner, last: String::new() }
    }

    /// Says what is being waited for; saying the same again prints nothing.
    pub(crate) fn say(&mut self, message: String) {
        if message == self.last {
            return;
        }
        match &self.spinner {
            Some(spinner) => spinner.set_message(message.clone()),
            // A closed stderr does not end the wait.
            None => drop(writeln!(io::stderr(), "{message}")),
        }
        self.last = message;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
