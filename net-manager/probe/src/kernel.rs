//! The running kernel.

use std::path::Path;

use aya::{
    maps::MapType,
    programs::{ProgramType, SchedClassifier, TcAttachType},
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

use crate::{Support, bpf, link};

/// What it can do for the data path.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    /// Types of the kernel's own structures.
    pub btf: Support,
    /// Programs on an interface's traffic by links, which a net manager can replace without a gap
    /// (6.6).
    pub tcx: Support,
    /// From one end of a veth pair into the namespace of the other (5.10).
    pub redirect_peer: Support,
    /// Out of an interface with the neighbour's address filled in (5.10).
    pub redirect_neigh: Support,
    pub ring_buffer: Support,
    /// Maps that forget their oldest entry when they are full (4.10).
    pub lru_hash: Support,
    /// Programs run on packets that are made up (4.12), by which `xylem net explain` decides.
    pub test_run: Support,
    /// Checksums that the network card sums up, when IPv6 addresses change (6.16).
    pub l4_checksum_ipv6: Support,
    /// Maps read many entries a call (5.6).
    pub batch_lookup: Support,
    /// Which network namespace a socket is of, asked by the program that sees connections begin.
    pub netns_cookie: Support,
    pub sock_hash: Support,
    pub sock_ops: Support,
    pub sk_msg: Support,
    pub xdp: Support,
    /// Interfaces through which a veth can be given room for the tunnel's headers.
    pub bridge: Support,
    pub vxlan: Support,
}

impl Kernel {
    /// Tries everything; takes some milliseconds. Needs `CAP_BPF` and `CAP_NET_ADMIN`: what cannot
    /// be tried without them is [`Support::Unknown`].
    pub fn probe() -> Self {
        let helper = |program, helper| Support::of(is_helper_supported(program, helper));
        let classifier = ProgramType::SchedClassifier;
        let release = nix::sys::utsname::uname().map(|name| name.release().to_owned());
        Self {
            release: release.unwrap_or_default().to_string_lossy().into_owned(),
            btf: if Path::new("/sys/kernel/btf/vmlinux").exists() {
                Support::Yes
            } else {
                Support::No
            },
            tcx: tcx(),
            redirect_peer: helper(classifier, BpfHelper::BPF_FUNC_redirect_peer),
            redirect_neigh: helper(classifier, BpfHelper::BPF_FUNC_redirect_neigh),
            ring_buffer: Support::of(is_map_supported(MapType::RingBuf)),
            lru_hash: Support::of(is_map_supported(MapType::LruHash)),
            test_run: Support::of(bpf::test_run()),
            l4_checksum_ipv6: l4_checksum_ipv6(),
            batch_lookup: Support::of(bpf::batch_lookup()),
            netns_cookie: helper(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie),
            sock_hash: Support::of(is_map_supported(MapType::SockHash)),
            sock_ops: Support::of(is_program_supported(ProgramType::SockOps)),
            sk_msg: Support::of(is_program_supported(ProgramType::SkMsg)),
            xdp: Support::of(is_program_supported(ProgramType::Xdp)),
            bridge: link::can_make("bridge"),
            vxlan: link::can_make("vxlan"),
        }
    }
}

/// Whether checksums that the network card sums up stay right when IPv6 addresses change: a program
/// that needs it is run once. Needs `CAP_BPF` and `CAP_NET_ADMIN`.
pub fn l4_checksum_ipv6() -> Support {
    Support::of(bpf::l4_checksum_ipv6())
}

/// Asks what is attached to the loopback interface: an older kernel does not know the question.
fn tcx() -> Support {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Support::Yes,
        Err(aya::programs::ProgramError::SyscallError(error)) => {
            match error.io_error.raw_os_error().map(nix::errno::Errno::from_raw) {
                Some(nix::errno::Errno::EINVAL | nix::errno::Errno::EOPNOTSUPP) => Support::No,
                // Nothing is attached.
                Some(nix::errno::Errno::ENOENT) => Support::Yes,
                _ => Support::Unknown(error.io_error.to_string()),
            }
        }
        Err(error) => Support::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests of the data path need a kernel of 6.16 or later with all of this.
    #[test]
    fn what_the_tests_kernel_has_is_found() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let kernel = Kernel::probe();
        for (feature, support) in [
            ("tcx", &kernel.tcx),
            ("redirect_peer", &kernel.redirect_peer),
            ("redirect_neigh", &kernel.redirect_neigh),
            ("ring_buffer", &kernel.ring_buffer),
            ("lru_hash", &kernel.lru_hash),
            ("test_run", &kernel.test_run),
            ("batch_lookup", &kernel.batch_lookup),
            ("xdp", &kernel.xdp),
        ] {
            assert_eq!(*support, Support::Yes, "{feature} of {kernel:?}");
        }
        // A kind that no kernel has.
        assert_eq!(link::can_make("xylem"), Support::No);
    }

    #[test]
    fn the_flag_is_found_where_the_release_has_it() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let kernel = Kernel::probe();
        let mut numbers = kernel.release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        if version >= (6, 16) {
            assert_eq!(kernel.l4_checksum_ipv6, Support::Yes);
        }
    }
}
