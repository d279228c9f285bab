//! Programs of others that set up their own data path.

use std::{
    env,
    fs::File,
    io::{Seek, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use xylem_tests::netns::Netns;

/// A program, and the Debian package that it is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    /// What to do instead of installing it.
    pub(crate) otherwise: &'static str,
}

/// Of what sets up a side.
pub(crate) const LEAVE_OUT: &str = "or leave out with --sides what needs it";

impl Tool {
    /// # Errors
    /// If it is not installed; with what to do.
    pub(crate) fn find(self) -> Result<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
        let mut candidates = folders.map(|folder| folder.join(self.program));
        candidates.find(|candidate| Path::is_file(candidate)).with_context(|| {
            format!(
                "the program `{}` is missing: install it (Debian: apt-get install {}), {}",
                self.program, self.package, self.otherwise
            )
        })
    }

    /// Runs it to its end on a host, with `input` on its standard input.
    ///
    /// # Errors
    /// If it cannot be started or fails; with what it says.
    pub(crate) fn run(self, host: &Netns, arguments: &[&str], input: &str) -> Result<()> {
        let line = || format!("`{} {}` in {}", self.program, arguments.join(" "), host.name());
        let mut command = Command::new(self.find()?);
        host.enter(&mut command);
        let output = command
            .args(arguments)
            .stdin(file_with(input)?)
            .output()
            .with_context(|| format!("cannot start {}", line()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: Vec<_> = said.lines().take(10).collect();
            bail!("{} ended with {}: {}", line(), output.status, said.join("\n"));
        }
        Ok(())
    }
}

/// A file and not a pipe: the program may say much before it has read all.
fn file_with(text: &str) -> Result<File> {
    let write = || {
        let mut file = tempfile::tempfile()?;
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        Ok::<_, std::io::Error>(file)
    };
    write().context("no temporary file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let tool = |program, package| Tool { program, package, otherwise: LEAVE_OUT };
        let said = tool("no-such-program", "some-package").find().unwrap_err().to_string();
        for part in ["`no-such-program`", "apt-get install some-package", "--sides"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(tool("sh", "dash").find().unwrap().is_absolute());
    }
}
