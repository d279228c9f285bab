//! Names of the interfaces that this net manager makes.
//!
//! An interface name has 15 characters, a service's name up to 128: the name is a hash, and the
//! interface's alias says what it stands for. Both follow from the instance, so that whatever a
//! killed net manager left is found again and told apart from what others made.

use std::{fmt, path::Path, str::FromStr};

use net_maps::Name;
use sha2::{Digest, Sha256};

/// The data path that an interface belongs to: several net managers can share a machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataPathId([u8; 6]);

impl DataPathId {
    /// Of the data path whose maps are below this bpffs root.
    pub fn new(bpffs_root: &Path) -> Self {
        Self(hash(&[bpffs_root.as_os_str().as_encoded_bytes()]))
    }

    /// The device group of its interfaces; never 0, the group of everybody else's.
    pub fn group(&self) -> u32 {
        let [.., a, b, c, d] = self.0;
        u32::from_be_bytes([a & 0x7f, b, c, d]) | 1
    }

    /// Both ends of the pair through which parked packets are sent on: where they are written,
    /// and where the program takes them.
    pub fn injection_pair(&self) -> (String, String) {
        (format!("xyp{self}a"), format!("xyp{self}b"))
    }

    /// The bridge that gives instances' packets room for the tunnel's headers, and its VXLAN port.
    pub fn headroom_pair(&self) -> (String, String) {
        (format!("xyh{self}a"), format!("xyh{self}b"))
    }

    /// Of that port, which never sends: 24 bits that no other data path of the machine has.
    pub fn vni(&self) -> u32 {
        self.group() & 0x00ff_ffff
    }
}

impl fmt::Display for DataPathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..5].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DataPathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a host-side veth stands for: the text of its alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    pub data_path: DataPathId,
    pub name: Name,
    pub number: u32,
}

impl Alias {
    /// The interface's name. `attempt` counts up when another interface has the name already.
    pub fn ifname(&self, attempt: u32) -> String {
        let digest: [u8; 6] = hash(&[
            &self.data_path.0,
            self.name.as_str().as_bytes(),
            &self.number.to_be_bytes(),
            &attempt.to_be_bytes(),
        ]);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("xy{hex}")
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xylem {} {} {}", self.data_path, self.number, self.name)
    }
}

/// The alias is not one of a net manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOurs;

/// What an alias says: of which data path, by its printed id, and which instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedAlias {
    pub data_path: String,
    pub name: Name,
    pub number: u32,
}

impl FromStr for ParsedAlias {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let mut parts = text.splitn(4, ' ');
        if parts.next() != Some("xylem") {
            return Err(NotOurs);
        }
        let data_path = parts.next().ok_or(NotOurs)?.to_owned();
        let number = parts.next().and_then(|part| part.parse().ok()).ok_or(NotOurs)?;
        let name = parts.next().and_then(|part| Name::try_from(part).ok()).ok_or(NotOurs)?;
        Ok(Self { data_path, name, number })
    }
}

fn hash<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut hasher = Sha256::new();
    for part in parts {
        // The length keeps ("ab", "c") apart from ("a", "bc").
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let mut prefix = [0; N];
    prefix.copy_from_slice(&digest[..N]);
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ_by_data_path_instance_and_attempt() {
        let data_path = |root| DataPathId::new(Path::new(root));
        let alias = |root, name, number| Alias {
            data_path: data_path(root),
            name: Name::try_from(name).unwrap(),
            number,
        };
        let first = alias("/sys/fs/bpf/xylem", "a.b.c.d", 0);
        assert_eq!(first.ifname(0), first.ifname(0));
        let names = [
            first.ifname(0),
            first.ifname(1),
            alias("/sys/fs/bpf/other", "a.b.c.d", 0).ifname(0),
            alias("/sys/fs/bpf/xylem", "a.b.c.d", 1).ifname(0),
            alias("/sys/fs/bpf/xylem", "a.b.c.e", 0).ifname(0),
            data_path("/sys/fs/bpf/xylem").injection_pair().0,
            data_path("/sys/fs/bpf/xylem").injection_pair().1,
        ];
        for (index, name) in names.iter().enumerate() {
            assert!(name.len() <= 15 && !name.contains('.'), "{name}");
            assert!(!names[..index].contains(name), "{names:?}");
        }
    }

    #[test]
    fn an_alias_says_what_the_interface_stands_for() {
        let data_path = DataPathId::new(Path::new("/run/x/bpf"));
        let name = Name::try_from("a.b.c.d with blanks").unwrap();
        let text = Alias { data_path, name, number: 7 }.to_string();
        let parsed: ParsedAlias = text.parse().unwrap();
        assert_eq!(parsed, ParsedAlias { data_path: data_path.to_string(), name, number: 7 });
        assert_eq!("uplink".parse::<ParsedAlias>(), Err(NotOurs));
        assert_eq!("xylem ab x name".parse::<ParsedAlias>(), Err(NotOurs));
    }
}
