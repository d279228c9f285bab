//! How an instance ended.

use std::fmt;

use serde::{Deserialize, Serialize};
use xylem_types::instance::InstanceStatus;

/// How the first process of an instance ended, as its shim recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub how: ExitKind,
    /// The kernel killed a process of the instance for want of memory.
    #[serde(default)]
    pub out_of_memory: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitKind {
    Code(i32),
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            ExitKind::Code(code) => write!(f, "exited with code {code}")?,
            ExitKind::Signal(number) => match signal_name(number) {
                Some(name) => write!(f, "killed by signal {number} ({name})")?,
                None => write!(f, "killed by signal {number}")?,
            },
        }
        if self.out_of_memory {
            write!(f, ", out of memory: its limit was reached")?;
        }
        Ok(())
    }
}

fn signal_name(number: i32) -> Option<&'static str> {
    nix::sys::signal::Signal::try_from(number).ok().map(|signal| signal.as_str())
}

/// The lasting result of a deployment that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Completed,
    Dead { detail: String },
    Failed { detail: String },
}

impl Outcome {
    /// What the end of the first process means: only a `one_shot` instance may end, and only
    /// with code 0.
    pub fn of_exit(exit: Exit, one_shot: bool) -> Self {
        if one_shot && exit.how == ExitKind::Code(0) {
            Self::Completed
        } else {
            Self::Dead { detail: exit.to_string() }
        }
    }

    pub fn status(&self) -> InstanceStatus {
        match self {
            Self::Completed => InstanceStatus::Completed,
            Self::Dead { .. } => InstanceStatus::Dead,
            Self::Failed { .. } => InstanceStatus::Failed,
        }
    }

    pub fn detail(&self) -> &str {
        match self {
            Self::Completed => "",
            Self::Dead { detail } | Self::Failed { detail } => detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(how: ExitKind) -> Exit {
        Exit { how, out_of_memory: false }
    }

    #[test]
    fn only_a_one_shot_with_code_0_completes() {
        let ok = exit(ExitKind::Code(0));
        assert_eq!(Outcome::of_exit(ok, true), Outcome::Completed);
        assert_eq!(Outcome::of_exit(ok, false).status(), InstanceStatus::Dead);
        let failed = Outcome::of_exit(exit(ExitKind::Code(3)), true);
        assert_eq!(failed, Outcome::Dead { detail: "exited with code 3".into() });
    }

    #[test]
    fn a_signal_and_want_of_memory_are_named() {
        let killed = Exit { how: ExitKind::Signal(9), out_of_memory: true };
        let detail = killed.to_string();
        assert!(
            detail.contains("signal 9 (SIGKILL)") && detail.contains("out of memory"),
            "{detail}"
        );
    }
}
