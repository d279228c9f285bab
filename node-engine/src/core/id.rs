//! Which instance, as a name that is safe in paths.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest job name that is taken. Four names of 30 characters and their dots are 123.
const JOB_NAME_MAX: usize = 200;

/// One instance of one service: job name and number.
///
/// Its text form, `{job_name}.{number}`, names a directory, a control group and a container, so
/// a job name from outside is checked before it becomes part of an id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceId {
    job_name: String,
    number: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJobName {
    #[error("the job name is empty")]
    Empty,
    #[error("the job name has {0} characters, at most {JOB_NAME_MAX} are allowed")]
    TooLong(usize),
    #[error("the job name {name:?} has the character {character:?}; allowed are A-Z a-z 0-9 . _ -")]
    Character { name: String, character: char },
    #[error("the job name {0:?} must start with a letter or digit")]
    FirstCharacter(String),
}

impl InstanceId {
    /// # Errors
    /// When the job name could mean something in a path.
    pub fn new(job_name: &str, number: u32) -> Result<Self, InvalidJobName> {
        let first = job_name.chars().next().ok_or(InvalidJobName::Empty)?;
        if job_name.len() > JOB_NAME_MAX {
            return Err(InvalidJobName::TooLong(job_name.len()));
        }
        let odd = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if let Some(character) = job_name.chars().find(odd) {
            return Err(InvalidJobName::Character { name: job_name.to_owned(), character });
        }
        if !first.is_ascii_alphanumeric() {
            return Err(InvalidJobName::FirstCharacter(job_name.to_owned()));
        }
        Ok(Self { job_name: job_name.to_owned(), number })
    }

    /// `app.appns.service.servicens`
    pub fn job_name(&self) -> &str {
        &self.job_name
    }

    pub fn number(&self) -> u32 {
        self.number
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.job_name, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_name_that_leaves_its_directory_is_refused() {
        for name in ["", "..", "../../etc", "a/b", ".hidden", "-f", "a b", "a\0b", "ä.b.c.d"] {
            assert!(InstanceId::new(name, 0).is_err(), "{name:?}");
        }
        assert!(InstanceId::new(&"a".repeat(201), 0).is_err());
    }

    #[test]
    fn the_text_form_tells_instances_apart() {
        let one = InstanceId::new("app.ns.web.prod", 12).unwrap();
        assert_eq!(one.to_string(), "app.ns.web.prod.12");
        // The number is always the last component, so no other pair gives the same text.
        assert_ne!(one.to_string(), InstanceId::new("app.ns.web.prod.1", 2).unwrap().to_string());
    }
}
