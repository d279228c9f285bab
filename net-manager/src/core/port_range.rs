//! A range of ports of the node.

use std::{fmt, str::FromStr};

use serde::Deserialize;

/// From `first` to `last`, both included; never empty and without port 0. As text
/// `61000-65535`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// The text is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of ports: write FIRST-LAST, both from 1 to 65535, as in 61000-65535")]
pub struct BadRange(String);

impl PortRange {
    /// # Errors
    /// There is no port in it.
    pub fn new(first: u16, last: u16) -> Result<Self, BadRange> {
        if first == 0 || first > last {
            return Err(BadRange(format!("{first}-{last}")));
        }
        Ok(Self { first, last })
    }

    pub fn first(&self) -> u16 {
        self.first
    }

    /// How many ports; at most 65,535, because 0 is none.
    pub fn count(&self) -> u16 {
        self.last - self.first + 1
    }

    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// The first port that both have, but for those in `except`.
    pub fn clash(&self, other: &Self, except: &[Self]) -> Option<u16> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first..=last).find(|port| !except.iter().any(|range| range.contains(*port)))
    }
}

impl FromStr for PortRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.to_owned());
        let (first, last) = text.split_once('-').ok_or_else(bad)?;
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| bad());
        Self::new(port(first)?, port(last)?).map_err(|_| bad())
    }
}

impl TryFrom<String> for PortRange {
    type Error = BadRange;

    fn try_from(text: String) -> Result<Self, BadRange> {
        text.parse()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_and_shown() {
        let range: PortRange = "61000-65535".parse().unwrap();
        assert_eq!((range.first(), range.count()), (61_000, 4536));
        assert_eq!(range.to_string(), "61000-65535");
        assert_eq!("1-65535".parse::<PortRange>().unwrap().count(), 65_535);
        for text in ["", "80", "0-5", "9-8", "1-65536", "a-b", "1-2-3"] {
            let error = text.parse::<PortRange>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("{text:?}")) && error.contains("FIRST-LAST"),
                "{error}"
            );
        }
    }

    #[test]
    fn ranges_clash_where_they_overlap() {
        let range = |text: &str| text.parse::<PortRange>().unwrap();
        let ours = range("61000-65535");
        assert_eq!(ours.clash(&range("32768-60999"), &[]), None);
        assert_eq!(ours.clash(&range("1024-65535"), &[]), Some(61_000));
        let reserved = [range("61000-62000"), range("62001-65535")];
        assert_eq!(ours.clash(&range("1024-65535"), &reserved), None);
        assert_eq!(ours.clash(&range("1024-65535"), &reserved[..1]), Some(62_001));
    }
}
