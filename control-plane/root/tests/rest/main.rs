//! The REST API, called in-process on a root with a real store.

mod access;
mod addresses;
mod applications;
#[path = "../support/mod.rs"]
mod support;

use serde_json::Value;

/// The names of the fields that a refusal complains about.
fn fields(answer: &Value) -> Vec<&str> {
    answer["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect()
}
