//! Asking before something is destroyed.

use std::io::{self, IsTerminal};

use clap::Args;

use crate::failure::Usage;

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Confirmation {
    /// Do not ask
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

impl Confirmation {
    /// Returns whether to go on: `--yes` was given, or the person at the terminal agreed.
    ///
    /// # Errors
    /// A usage error where there is nobody to ask.
    pub(crate) fn ask(self, question: &str) -> anyhow::Result<bool> {
        if self.yes {
            return Ok(true);
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Usage(format!(
                "this asks “{question}” and there is no terminal to answer at; repeat with --yes"
            ))
            .into());
        }
        Ok(dialoguer::Confirm::new().with_prompt(question).default(false).interact()?)
    }
}
