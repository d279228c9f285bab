//! What an image is called.

use std::{fmt, path::PathBuf, str::FromStr};

use oci_client::Reference;

/// Where an image is to be had.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageRef {
    /// `[registry[:port]/]name[:tag|@digest]`
    Registry(Reference),
    /// `oci:/path[:tag]`: a directory in the OCI image layout.
    Layout { path: PathBuf, tag: Option<String> },
    /// `oci-archive:/path[:tag]`: a tar of such a directory.
    Archive { path: PathBuf, tag: Option<String> },
}

#[derive(Debug, thiserror::Error)]
pub enum InvalidImageRef {
    #[error("image {image:?} is not a reference of the form [registry[:port]/]name[:tag|@digest]")]
    Reference {
        image: String,
        #[source]
        source: oci_client::ParseError,
    },
    #[error("image {0:?} needs an absolute path: oci:/path[:tag] or oci-archive:/path[:tag]")]
    RelativePath(String),
}

impl FromStr for ImageRef {
    type Err = InvalidImageRef;

    fn from_str(image: &str) -> Result<Self, InvalidImageRef> {
        let local = |rest: &str| {
            // A colon counts as the start of a tag only behind the last slash.
            let name = rest.rfind('/').map_or(0, |slash| slash + 1);
            let (path, tag) = match rest[name..].find(':') {
                Some(colon) => (&rest[..name + colon], Some(rest[name + colon + 1..].to_owned())),
                None => (rest, None),
            };
            if path.starts_with('/') {
                Ok((PathBuf::from(path), tag))
            } else {
                Err(InvalidImageRef::RelativePath(image.to_owned()))
            }
        };
        if let Some(rest) = image.strip_prefix("oci-archive:") {
            let (path, tag) = local(rest)?;
            Ok(Self::Archive { path, tag })
        } else if let Some(rest) = image.strip_prefix("oci:") {
            let (path, tag) = local(rest)?;
            Ok(Self::Layout { path, tag })
        } else {
            let reference = image
                .parse()
                .map_err(|source| InvalidImageRef::Reference { image: image.to_owned(), source })?;
            Ok(Self::Registry(reference))
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, tag) = match self {
            Self::Registry(reference) => return reference.fmt(f),
            Self::Layout { path, tag } => ("oci", path, tag),
            Self::Archive { path, tag } => ("oci-archive", path, tag),
        };
        write!(f, "{kind}:{}", path.display())?;
        tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_are_told_apart_and_written_back() {
        for (text, expected) in [
            ("oci:/images/web", ImageRef::Layout { path: "/images/web".into(), tag: None }),
            (
                "oci:/im:ages/web:v1",
                ImageRef::Layout { path: "/im:ages/web".into(), tag: Some("v1".into()) },
            ),
            (
                "oci-archive:/web.tar:a:b",
                ImageRef::Archive { path: "/web.tar".into(), tag: Some("a:b".into()) },
            ),
        ] {
            let parsed: ImageRef = text.parse().unwrap();
            assert_eq!(parsed, expected);
            assert_eq!(parsed.to_string(), text);
        }
        let ImageRef::Registry(reference) = "127.0.0.1:5000/a/b:c".parse().unwrap() else {
            panic!("not a registry")
        };
        assert_eq!(reference.registry(), "127.0.0.1:5000");
    }

    #[test]
    fn what_cannot_be_an_image_is_refused_saying_what_it_should_be() {
        for text in ["", "oci:web", "oci-archive:../web.tar", "http://x/y", "a b"] {
            let error = text.parse::<ImageRef>().unwrap_err().to_string();
            assert!(error.contains("form") || error.contains("absolute path"), "{error}");
        }
    }
}
