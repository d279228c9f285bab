//! Why the root does not do what a user asks.

use xylem_types::sla::{FieldError, InvalidSla};

/// Nothing was changed, and this is why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the request is not valid: {}", .0.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldError>),
    /// Also for what belongs to somebody else: its existence is nobody's business.
    #[error("there is no {what} {id}")]
    NotFound { what: &'static str, id: String },
    #[error("{what} {name} exists already")]
    Exists { what: &'static str, name: String },
    #[error("all {all} {what} are in use: {remedy}")]
    Exhausted { what: &'static str, all: u128, remedy: &'static str },
    #[error("this takes the role Admin")]
    NotAdmin,
}

impl Refusal {
    pub(crate) fn not_found(what: &'static str, id: &str) -> Self {
        Self::NotFound { what, id: id.to_owned() }
    }

    pub(crate) fn field(field: &str, reason: &str) -> Self {
        Self::Invalid(vec![FieldError::new(field, reason)])
    }
}

impl From<InvalidSla> for Refusal {
    fn from(invalid: InvalidSla) -> Self {
        Self::Invalid(invalid.errors)
    }
}
