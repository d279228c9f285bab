//! What engine and shim say to each other: one JSON value a line.
//!
//! An engine may meet a shim that an older version of it started, so both sides only ever gain
//! variants and optional fields.

use serde::{Deserialize, Serialize};

/// Longest line that is taken, in bytes.
pub const LINE_MAX: usize = 64 * 1024;

/// On the shim's standard output, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Birth {
    /// The container is there, its first process held back.
    Created {
        pid: i32,
    },
    Failed {
        cause: String,
    },
}

/// Shim to engine, on the shim's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromShim {
    /// First, to everybody who connects.
    Hello {
        pid: i32,
        running: bool,
    },
    /// The first process runs its program.
    Started,
    NotStarted {
        cause: String,
    },
}

/// Engine to shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToShim {
    Start,
    /// Send the image's stop signal to the first process; kill it at once where the kernel would
    /// drop that signal.
    Terminate,
    Kill,
}

/// A line with its end.
pub fn line<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("messages have string keys only");
    line.push(b'\n');
    line
}
