//! What the programs may ask of the running kernel.

use net_common::config::features;

/// Bits of [`net_common::Config::features`], by the kernel's release.
pub fn features() -> u32 {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_owned());
    let release = release.unwrap_or_default();
    of_release(&release.to_string_lossy())
}

fn of_release(release: &str) -> u32 {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 16) { features::L4_CHECKSUM_IPV6 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_follow_the_release() {
        for old in ["6.15.9", "6.6.0-generic", "5.10", "", "nonsense"] {
            assert_eq!(of_release(old), 0, "{old}");
        }
        for new in ["6.16.0", "6.18.44-fc", "7.0-rc1"] {
            assert_eq!(of_release(new), features::L4_CHECKSUM_IPV6, "{new}");
        }
    }
}
