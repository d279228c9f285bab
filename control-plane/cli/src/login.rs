//! `xylem login`: opens a session with a root and keeps it in the configuration file.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use xylem_types::rest::LoginRequest;

use crate::{client::Client, failure::Usage};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem login --root http://10.0.0.1:10000 --user Admin
  xylem login --user Admin --password-stdin < password.txt

The token is kept in the configuration file, readable by you alone, and renewed when it expires.")]
pub(crate) struct LoginArgs {
    /// Asked for on a terminal when absent
    #[arg(long, short, value_name = "NAME", env = "XYLEM_USER")]
    user: Option<String>,
    /// Seen by everybody who can list processes; asked for on a terminal when absent
    #[arg(long, short, value_name = "PASSWORD", env = "XYLEM_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Read the password from the first line of stdin
    #[arg(long, conflicts_with = "password")]
    password_stdin: bool,
    /// The organization to act for; by default the root organization
    #[arg(long, value_name = "NAME")]
    organization: Option<String>,
}

/// # Errors
/// When there is no user or password, or the root cannot be reached or refuses them.
pub(crate) async fn run(mut client: Client, args: LoginArgs) -> anyhow::Result<()> {
    let username = match args.user {
        Some(user) => user,
        None => ask("--user", || dialoguer::Input::new().with_prompt("User").interact_text())?,
    };
    let password = match args.password {
        Some(password) => password,
        None if args.password_stdin => first_line(io::stdin().lock())?,
        None => ask("--password-stdin", || {
            dialoguer::Password::new().with_prompt("Password").interact()
        })?,
    };
    client
        .log_in(&LoginRequest { username, password, organization_name: args.organization })
        .await?;
    let kept_in = client.config().path().display();
    writeln!(io::stderr(), "logged in at {}; the session is kept in {kept_in}", client.root())?;
    Ok(())
}

fn ask(flag: &str, prompt: impl FnOnce() -> dialoguer::Result<String>) -> anyhow::Result<String> {
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        Ok(prompt()?)
    } else {
        Err(Usage(format!("there is no terminal to ask at; give {flag}")).into())
    }
}

fn first_line(mut input: impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let password = line.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        return Err(Usage("no password came in on stdin".to_owned()).into());
    }
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_as_it_stands() {
        assert_eq!(first_line(" pass word \r\nnot this".as_bytes()).unwrap(), " pass word ");
        assert!(first_line("\n".as_bytes()).unwrap_err().is::<Usage>());
    }
}
