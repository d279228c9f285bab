//! Running other programs, with errors that name what was run.

use std::{
    env, fmt, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// The workspace's folder.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// The cargo that runs us, to build for this machine.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Folder of `cargo install`'s programs.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| env::home_dir().map(|home| home.join(".cargo"))).map(|home| home.join("bin"))
}

/// Runs to the end; anything but exit code 0 is an error. What it says is no result of ours: all
/// of it goes to stderr, so that stdout has nothing but what was asked for.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    run_for_result(command.stdout(io::stderr()))
}

/// As [`run`], of what was asked for, with our stdout.
pub(crate) fn run_for_result(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", Line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", Line(command));
    }
    Ok(())
}

/// Runs to the end and returns stdout; stderr is part of the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", Line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", Line(command), output.status, stderr.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {}", Line(command)))
}

/// Removes the variables by which a running cargo or rustup steers its children: with them
/// another toolchain's cargo would call the wrong compiler.
pub(crate) fn without_cargo_environment(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let of_cargo = name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || name.starts_with("CARGO_BUILD_")
            || name.starts_with("CARGO_PROFILE_")
            || name.starts_with("RUST_RECURSION_COUNT")
            || name.starts_with("RUSTUP_TOOLCHAIN");
        let single = matches!(
            name,
            "CARGO"
                | "CARGO_TARGET_DIR"
                | "CARGO_ENCODED_RUSTFLAGS"
                | "RUSTC"
                | "RUSTDOC"
                | "RUSTFLAGS"
                | "RUSTC_WRAPPER"
                | "RUSTC_WORKSPACE_WRAPPER"
                | "LD_LIBRARY_PATH"
        );
        if of_cargo || single {
            command.env_remove(name);
        }
    }
}

/// A command as one would type it.
struct Line<'a>(&'a Command);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}", self.0.get_program().display())?;
        for argument in self.0.get_args() {
            write!(f, " {}", argument.display())?;
        }
        f.write_str("`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test, as a program of its own: it does what it does below.
    #[test]
    fn only_results_are_on_stdout() {
        const INSIDE: &str = "XTASK_TEST_INSIDE";
        let echo = |word: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("echo {word}")]);
            command
        };
        if env::var_os(INSIDE).is_some() {
            run(&mut echo("progress")).unwrap();
            return run_for_result(&mut echo("result")).unwrap();
        }
        let again = Command::new(env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "command::tests::only_results_are_on_stdout"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let lines = |bytes: &[u8]| -> Vec<_> {
            String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
        };
        let (stdout, stderr) = (lines(&again.stdout), lines(&again.stderr));
        let has = |lines: &[String], word: &str| lines.iter().any(|line| line == word);
        assert!(has(&stdout, "result") && has(&stderr, "progress"), "{stdout:?} {stderr:?}");
        assert!(!has(&stdout, "progress"), "{stdout:?}");
    }
}
