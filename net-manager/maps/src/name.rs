//! The full name of a service, as the map `names` holds it.

use std::{fmt, str};

use net_common::limits::NAME_BYTES;

/// `app.appns.service.servicens`: valid UTF-8, not empty, at most [`NAME_BYTES`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name([u8; NAME_BYTES]);

/// The text cannot be the name of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    Empty,
    TooLong {
        bytes: usize,
    },
    /// A zero byte ends the name in the map.
    ZeroByte,
    NotUtf8,
}

impl std::error::Error for BadName {}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a service name is empty"),
            Self::TooLong { bytes } => {
                write!(f, "a service name has {bytes} bytes, {NAME_BYTES} is the most")
            }
            Self::ZeroByte => f.write_str("a service name has a zero byte in it"),
            Self::NotUtf8 => f.write_str("a service name is not UTF-8"),
        }
    }
}

impl Name {
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
        str::from_utf8(&self.0[..len]).expect("every constructor checks it")
    }

    /// The map value.
    pub fn to_bytes(self) -> [u8; NAME_BYTES] {
        self.0
    }

    /// From a map value.
    ///
    /// # Errors
    /// The bytes were not written from a [`Name`].
    pub fn from_bytes(bytes: [u8; NAME_BYTES]) -> Result<Self, BadName> {
        let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
        let (text, rest) = bytes.split_at(len);
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        if rest.iter().any(|byte| *byte != 0) {
            return Err(BadName::ZeroByte);
        }
        str::from_utf8(text).map_err(|_| BadName::NotUtf8)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<&str> for Name {
    type Error = BadName;

    fn try_from(text: &str) -> Result<Self, BadName> {
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        if text.len() > NAME_BYTES {
            return Err(BadName::TooLong { bytes: text.len() });
        }
        if text.contains('\0') {
            return Err(BadName::ZeroByte);
        }
        let mut bytes = [0; NAME_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_from_its_map_value() {
        for text in ["a", "shop.prod.cart.prod", &"n".repeat(NAME_BYTES), "größe.α.β.γ"] {
            let name = Name::try_from(text).unwrap();
            assert_eq!(Name::from_bytes(name.to_bytes()), Ok(name));
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert_eq!(Name::try_from(""), Err(BadName::Empty));
        assert_eq!(Name::try_from("a\0b"), Err(BadName::ZeroByte));
        let long = "n".repeat(NAME_BYTES + 1);
        assert_eq!(Name::try_from(long.as_str()), Err(BadName::TooLong { bytes: 129 }));
        assert_eq!(Name::from_bytes([0; NAME_BYTES]), Err(BadName::Empty));
        assert_eq!(Name::from_bytes([0xff; NAME_BYTES]), Err(BadName::NotUtf8));
        let mut rest = [0; NAME_BYTES];
        (rest[0], rest[9]) = (b'a', b'b');
        assert_eq!(Name::from_bytes(rest), Err(BadName::ZeroByte));
    }
}
