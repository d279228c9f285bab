//! Trials by bare `bpf` system calls.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::{errno::Errno, libc};

// Of `enum bpf_cmd`.
const MAP_CREATE: libc::c_long = 0;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const MAP_LOOKUP_BATCH: libc::c_long = 24;

const MAP_TYPE_HASH: u32 = 1;
const PROG_TYPE_SCHED_CLS: u32 = 3;

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn set(register: u8, value: i32) -> Instruction {
    Instruction { code: 0xb7, registers: register, offset: 0, immediate: value }
}

/// What a member of `union bpf_attr` may be as long as; the kernel takes zeros for what it does
/// not know.
const ATTR_WORDS: usize = 18;

/// # Errors
/// The kernel's.
fn bpf(command: libc::c_long, attr: &mut [u64; ATTR_WORDS]) -> nix::Result<RawFd> {
    // SAFETY: the attributes are as long as is said; each caller says why what they point to is
    // alive and long enough.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    Errno::result(result).map(|fd| fd as RawFd)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: a descriptor that the kernel has just made for this caller.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Two 32-bit fields that follow one another.
const fn pair(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Whether a hash map can be read many entries a call (kernel 5.6, commit 057996380a42).
pub(crate) fn batch_lookup() -> nix::Result<bool> {
    let mut attr = [0; ATTR_WORDS];
    // map_type and key_size, value_size and max_entries.
    (attr[0], attr[1]) = (pair(MAP_TYPE_HASH, 4), pair(4, 1));
    let map = owned(bpf(MAP_CREATE, &mut attr)?);

    let (mut place, mut keys, mut values) = ([0_u32; 1], [0_u32; 1], [0_u32; 1]);
    let mut attr = [0; ATTR_WORDS];
    // in_batch, out_batch, keys, values, count and map_fd: one entry of four bytes each, which
    // live until the call returns.
    attr[1] = place.as_mut_ptr() as u64;
    attr[2] = keys.as_mut_ptr() as u64;
    attr[3] = values.as_mut_ptr() as u64;
    attr[4] = pair(1, map.as_raw_fd() as u32);
    match bpf(MAP_LOOKUP_BATCH, &mut attr) {
        // The map is empty.
        Ok(_) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether `bpf_l4_csum_replace` knows `BPF_F_IPV6` (kernel 6.16, commit ead7f9b8de65): a program
/// that calls it with the flag is run once over a packet of zeros.
pub(crate) fn l4_checksum_ipv6() -> nix::Result<bool> {
    const L4_CSUM_REPLACE: i32 = 11;
    const PSEUDO_HEADER_AND_IPV6: i32 = 0x10 | 0x80;
    const CHECKSUM_AT: i32 = 40;
    let program = [
        set(2, CHECKSUM_AT),
        set(3, 0),
        set(4, 0),
        set(5, PSEUDO_HEADER_AND_IPV6),
        Instruction { code: 0x85, registers: 0, offset: 0, immediate: L4_CSUM_REPLACE },
        EXIT,
    ];
    Ok(run(&program)? == 0)
}

/// Whether programs can be run on packets that are made up.
pub(crate) fn test_run() -> nix::Result<bool> {
    const ANSWER: i32 = 7;
    Ok(run(&[set(0, ANSWER), EXIT])? == ANSWER as u32)
}

const EXIT: Instruction = Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 };

/// Runs a program once over a packet of zeros; what it returned.
fn run(program: &[Instruction]) -> nix::Result<u32> {
    let license = c"GPL";
    let mut attr = [0; ATTR_WORDS];
    // prog_type and insn_cnt, insns, license: all live until the call returns.
    attr[0] = pair(PROG_TYPE_SCHED_CLS, program.len() as u32);
    attr[1] = program.as_ptr() as u64;
    attr[2] = license.as_ptr() as u64;
    let program = owned(bpf(PROG_LOAD, &mut attr)?);

    let packet = [0_u8; 64];
    let mut attr = [0; ATTR_WORDS];
    // prog_fd and retval, data_size_in and data_size_out, data_in, which lives until the call
    // returns.
    attr[0] = pair(program.as_raw_fd() as u32, 0);
    attr[1] = pair(packet.len() as u32, 0);
    attr[2] = packet.as_ptr() as u64;
    bpf(PROG_TEST_RUN, &mut attr)?;
    let [.., a, b, c, d] = attr[0].to_ne_bytes();
    Ok(u32::from_ne_bytes([a, b, c, d]))
}
