//! The steps of a decision, for a packet that is looked at only.

use net_common::{Addr, Packet, Step, StepKind, explain::STEPS};

use crate::maps::EXPLAIN;

/// Notes a step, if the packet is looked at only.
#[inline(always)]
pub fn note(packet: &Packet, kind: StepKind, value: u32, addr: &Addr) {
    if packet.dry_run != 0 {
        write(kind as u32, value, addr);
    }
}

/// Notes a step.
#[inline(never)]
pub fn write(kind: u32, value: u32, addr: &Addr) {
    let Some(explanation) = EXPLAIN.get_ptr_mut(0) else { return };
    // SAFETY: an element of an array map, valid while the program runs. Whoever explains runs one
    // packet at a time.
    unsafe {
        let at = (*explanation).len as usize;
        (*explanation).len += 1;
        if at < STEPS {
            (*explanation).steps[at] = Step { kind, value, addr: *addr };
        }
    }
}
