//! The kernel programs of Xylem's data path.
//!
//! | Program | Hook | Work |
//! |---|---|---|
//! | `from_instance` | TCX ingress of an instance's host-side veth | service IP → instance; deliver or encapsulate |
//! | `from_uplink` | TCX ingress of the uplink | tunnel packets of known peers → instance |
//! | `from_parked` | TCX ingress of the injection veth | `from_instance` for packets that waited for an answer |
//! | `uplink_xdp` | XDP of the uplink, where its driver has it | the quick part of `from_uplink`, early |
//!
//! A packet of a known flow costs one look-up of the flow table, whatever the number of services.
//! Nothing here waits for user space: a miss is handed over whole and sent again later.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic addition, see `atomic`")]
#![no_std]
#![no_main]

mod atomic;
mod closing;
mod early;
mod event;
mod explain;
mod flow;
mod from_instance;
mod from_uplink;
mod maps;
mod miss;
mod mss;
mod outside;
mod packet;
mod path_mtu;
mod place;
mod probe;
mod refuse;
mod rewrite;
mod socket;
mod tunnel;
mod verdict;

use aya_ebpf::{
    helpers::{bpf_redirect_neigh, bpf_redirect_peer},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::verdict::finish;

#[classifier]
pub fn from_instance(ctx: TcContext) -> i32 {
    let outcome = from_instance::run(&ctx);
    // SAFETY: a field of the context that the kernel passed.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    finish(&ctx, outcome, || into_instance(ifindex))
}

#[classifier]
pub fn from_parked(ctx: TcContext) -> i32 {
    let mut ifindex = 0;
    let outcome = from_instance::run_parked(&ctx, &mut ifindex);
    finish(&ctx, outcome, || into_instance(ifindex))
}

#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let outcome = from_uplink::run(&ctx);
    // SAFETY: a field of the context that the kernel passed.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    finish(&ctx, outcome, || {
        // SAFETY: no next hop is given: the kernel looks route and neighbour up.
        unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
    })
}

#[xdp]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    early::run(&ctx)
}

/// Into the namespace of the instance behind this interface.
#[inline(always)]
pub fn into_instance(ifindex: u32) -> i32 {
    // SAFETY: a helper call without pointers.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
