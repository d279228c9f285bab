//! `xylem completion SHELL`

use std::io;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem completion bash > /etc/bash_completion.d/xylem
  xylem completion zsh > ~/.zfunc/_xylem
  xylem completion fish > ~/.config/fish/completions/xylem.fish")]
pub(crate) struct CompletionArgs {
    shell: Shell,
}

/// # Errors
/// Those of the writer.
pub(crate) fn run<C: CommandFactory>(
    args: &CompletionArgs,
    out: &mut impl io::Write,
) -> io::Result<()> {
    // The generator panics when it cannot write, so it writes where it always can.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut C::command(), "xylem", &mut script);
    out.write_all(&script)
}
