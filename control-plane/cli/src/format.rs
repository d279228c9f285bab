//! Figures as people read them in tables. JSON has them exact.

use indicatif::HumanBytes;

/// `1.50 KiB`
pub(crate) fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

/// A count of packets and one of bytes in one cell: `12 (1.50 KiB)`.
pub(crate) fn traffic(packets: u64, byte_count: u64) -> String {
    if packets == 0 { "0".to_owned() } else { format!("{packets} ({})", bytes(byte_count)) }
}

/// The two largest units: `350ms`, `12s`, `5m7s`, `3h2m`, `4d11h`.
pub(crate) fn milliseconds(milliseconds: u64) -> String {
    let seconds = milliseconds / 1_000;
    match seconds {
        0 => format!("{milliseconds}ms"),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let shown = |seconds: u64| milliseconds(seconds * 1_000);
        assert_eq!(milliseconds(350), "350ms");
        assert_eq!(shown(1), "1s");
        assert_eq!(shown(59), "59s");
        assert_eq!(shown(60), "1m0s");
        assert_eq!(shown(3_599), "59m59s");
        assert_eq!(shown(3_600), "1h0m");
        assert_eq!(shown(86_400 + 3_600), "1d1h");
    }

    #[test]
    fn traffic_names_the_bytes_only_when_there_are_packets() {
        assert_eq!(traffic(0, 0), "0");
        assert_eq!(traffic(2, 1_536), "2 (1.50 KiB)");
    }
}
