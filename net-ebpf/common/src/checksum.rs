//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624), on words in memory
//! order: the sum is the same in either byte order as long as it is stored the way it was summed.

/// The change that replacing `old` by `new` makes to a sum over them: `~old + new`, unfolded.
#[inline(always)]
pub const fn delta(old: u32, new: u32) -> u64 {
    (!old) as u64 + new as u64
}

/// Folds an unfolded sum to 32 bits, as `bpf_l4_csum_replace` takes it.
#[inline(always)]
pub const fn fold32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum as u32
}

/// Folds a 32-bit sum to 16 bits.
#[inline(always)]
pub const fn fold16(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Applies a [`delta`] (folded to 32 bits) to a checksum field: `HC' = ~(~HC + delta)`, RFC 1624
/// equation 3.
#[inline(always)]
pub const fn update(checksum: u16, delta: u32) -> u16 {
    let sum = (!checksum) as u64 + delta as u64;
    !fold16(fold32(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plain sum over 16-bit words, RFC 1071.
    fn checksum(words: &[u16]) -> u16 {
        let mut sum = words.iter().map(|w| u32::from(*w)).sum::<u32>();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn split(word: u32) -> [u16; 2] {
        [word as u16, (word >> 16) as u16]
    }

    #[test]
    fn incremental_update_equals_the_sum_over_the_new_words() {
        let samples = [
            0,
            1,
            0xffff,
            0x1_0000,
            0xffff_ffff,
            0x0a12_0002,
            0x0a1e_0101,
            0x8000_8000,
            0xdead_beef,
        ];
        for old in samples {
            for new in samples {
                // A fixed non-zero word stands for the rest of the header.
                let header = |word| {
                    let [low, high] = split(word);
                    checksum(&[0x4500, low, high])
                };
                let updated = update(header(old), fold32(delta(old, new)));
                assert_eq!(updated, header(new), "{old:#x} -> {new:#x}");
            }
        }
    }
}
