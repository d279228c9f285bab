//! What the programs may ask of the running kernel.

use net_common::config::features;
use net_probe::Support;
use tracing::warn;

/// Bits of [`net_common::Config::features`], found by trying.
pub fn supported() -> u32 {
    of(&net_probe::l4_checksum_ipv6())
}

/// What could not be tried is not asked for: checksums are finished in software then.
fn of(l4_checksum_ipv6: &Support) -> u32 {
    match l4_checksum_ipv6 {
        Support::Yes => features::L4_CHECKSUM_IPV6,
        Support::No => 0,
        Support::Unknown(error) => {
            warn!(%error, "cannot try how the kernel mends checksums over IPv6");
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_is_asked_for() {
        assert_eq!(of(&Support::Yes), features::L4_CHECKSUM_IPV6);
        assert_eq!(of(&Support::No), 0);
        assert_eq!(of(&Support::Unknown("not allowed".to_owned())), 0);
    }
}
