//! The same-node socket path: what an instance sends to another of its node is put into the
//! receiver's queue at once, past both network stacks.
//!
//! | Program | Hook | Work |
//! |---|---|---|
//! | `socket_state` | sock_ops of the cgroup v2 root | enters and leaves sockets of instances |
//! | `socket_message` | sk_msg of the map `sockets` | decides for each message which way it goes |
//!
//! Connections are opened and closed packet by packet as ever, so every check and policy of
//! `from_instance` stays in force, and the flow that it has placed decides who is joined to whom.
//! A message goes past the stack only while all of this holds; else it goes by TCP, and so does
//! all that follows on that socket:
//!
//! * no byte of this direction has gone by TCP, by TCP's own sequence numbers at both ends, so that
//!   none is overtaken;
//! * the flow is still there, still leads to that socket, and its instance is still the one that
//!   was chosen; of an instance that is detached, user space removes the sockets;
//! * it fits into half of the receiver's buffer, so that what then goes by TCP has room as well;
//! * neither end has another protocol on top (kTLS).
//!
//! What the kernel does otherwise with joined sockets, and this cannot mend, is listed in the
//! README; for that the path is off unless asked for.

use core::{mem::MaybeUninit, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_ANY, BPF_F_INGRESS, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_TCP_CLOSE, sk_action::SK_PASS, sk_msg_md,
    },
    helpers::{
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_coarse_ns,
        bpf_probe_read_kernel_buf,
    },
    macros::{sk_msg, sock_ops},
    programs::{SkMsgContext, SockOpsContext},
};
use net_common::{
    Addr, Counter, Flow, FlowKey, Joined, ProgramCounter, SocketKey, SocketLayout, Traffic,
    flow::flags::{CLOSING, REMOTE_CLIENT, REPLY},
    packet::TCP,
    socket::flags::BY_TCP,
};

use crate::{
    atomic, flow,
    maps::{
        ENDPOINTS, INSTANCE_TRAFFIC, JOINED, NAMESPACES, PROGRAM_COUNTERS, SERVICE_TRAFFIC,
        SOCKET_LAYOUT, SOCKETS,
    },
};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

#[sock_ops]
pub fn socket_state(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            let _: Option<()> = enter(&ctx);
        }
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => {
            let _: Option<()> = leave(&ctx);
        }
        _ => {}
    }
    // The reply to callbacks that want one: no change.
    1
}

/// A connection is established: enters its socket if both its ends are instances of this node.
#[inline(always)]
fn enter(ctx: &SockOpsContext) -> Option<()> {
    if SOCKET_LAYOUT.get(0)?.rcvbuf == 0 {
        return None;
    }
    // SAFETY: the context that the kernel passed.
    let namespace = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: read at once.
    let ifindex = *unsafe { NAMESPACES.get(namespace) }?;
    let key = key_of_ops(ctx)?;
    // SAFETY: read at once.
    let endpoint = unsafe { ENDPOINTS.get(key.local) }?;
    // An instance may give itself the address of another.
    if endpoint.ifindex != ifindex || endpoint.namespace_ip != key.local {
        return None;
    }
    let flow_key = FlowKey {
        local: key.local,
        remote: key.remote,
        local_port: key.local_port,
        remote_port: key.remote_port,
        origin: ifindex,
        proto: u32::from(TCP),
    };
    let flow = flow::entry(&flow_key)?;
    // SAFETY: as in `flow::entry`.
    let flow = unsafe { &*flow };
    let is_reply = flow.flags & REPLY != 0;
    let is_client = ctx.op() == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB;
    if flow.node != 0 || flow.flags & (CLOSING | REMOTE_CLIENT) != 0 || is_reply == is_client {
        return None;
    }
    // SAFETY: fields of the context that the kernel passed.
    let (sock, first_seq, sent) = unsafe {
        let sock = (*ctx.ops).__bindgen_anon_2.sk;
        (sock as u64, (*ctx.ops).snd_nxt, (*ctx.ops).data_segs_out)
    };
    // With TCP Fast Open, bytes may be under way before the connection is.
    if sock == 0 || sent != 0 {
        return None;
    }
    let joined = Joined {
        sock,
        // SAFETY: the context that the kernel passed.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        first_seq,
        flags: 0,
        flow: flow_key,
        peer: peer_of(flow),
    };
    JOINED.insert(key, joined, u64::from(BPF_ANY)).ok()?;
    // To be told when it closes.
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    let mut key = key;
    // SAFETY: the context that the kernel passed, to which nobody else refers meanwhile.
    let entered = ctx
        .set_cb_flags(flags as i32)
        .and_then(|()| SOCKETS.update(&mut key, unsafe { &mut *ctx.ops }, u64::from(BPF_ANY)));
    if entered.is_err() {
        // What is not there need not be removed.
        let _ = JOINED.remove(key);
    }
    Some(())
}

/// A socket ends: nothing is put into it any more. What is in its queue can still be read, which
/// is why it stays in `sockets`: to leave that map would empty the queue.
#[inline(always)]
fn leave(ctx: &SockOpsContext) -> Option<()> {
    let key = key_of_ops(ctx)?;
    // SAFETY: read at once.
    let joined = unsafe { JOINED.get(key) }?;
    // SAFETY: the context that the kernel passed.
    if joined.cookie == unsafe { bpf_get_socket_cookie(ctx.as_ptr()) } {
        let _ = JOINED.remove(key);
    }
    Some(())
}

#[sk_msg]
pub fn socket_message(ctx: SkMsgContext) -> u32 {
    let _: Option<()> = redirect(&ctx);
    // Without a redirect, by TCP.
    SK_PASS
}

#[inline(always)]
fn redirect(ctx: &SkMsgContext) -> Option<()> {
    let key = key_of_message(ctx)?;
    let joined = JOINED.get_ptr_mut(key)?;
    // SAFETY: an element of a map, valid while the program runs. If it is reused meanwhile, its
    // contents do not fit the sockets that are looked at, and the message goes by TCP.
    let joined = unsafe { &mut *joined };
    if joined.flags & BY_TCP != 0 {
        return None;
    }
    let flow = may_redirect(&key, joined, ctx.size());
    // A socket that is closed leaves `sockets` before it tells its state.
    let mut peer = joined.peer;
    if flow.is_none()
        || SOCKETS.redirect_msg(ctx, &mut peer, u64::from(BPF_F_INGRESS)) != i64::from(SK_PASS)
    {
        joined.flags |= BY_TCP;
        return None;
    }
    count(flow?, ctx.size());
    Some(())
}

/// Whether a message of the socket at `key` may go past the stack now; its flow, if so.
#[inline(always)]
fn may_redirect(key: &SocketKey, joined: &Joined, bytes: u32) -> Option<*mut Flow> {
    let layout = SOCKET_LAYOUT.get(0)?;
    if layout.rcvbuf == 0 {
        return None;
    }
    // SAFETY: read at once.
    let peer = unsafe { JOINED.get(joined.peer) }?;
    if peer.peer != *key {
        return None;
    }
    let flow = flow::entry(&joined.flow)?;
    // SAFETY: as in `flow::entry`.
    let leads_there = unsafe { (*flow).node == 0 && peer_of(&*flow) == joined.peer };
    if !leads_there || !flow::is_current(flow) {
        return None;
    }
    has_room(layout, joined, peer, bytes)?;
    Some(flow)
}

/// The socket that the packets of a flow reach.
#[inline(always)]
fn peer_of(flow: &Flow) -> SocketKey {
    SocketKey { local: flow.dst, remote: flow.src, local_port: flow.dport, remote_port: flow.sport }
}

/// Looks at both sockets. The sender's is locked for this message, so that what it has given to
/// TCP does not change; of the receiver's, what was read stays read.
#[inline(always)]
fn has_room(layout: &SocketLayout, joined: &Joined, peer: &Joined, bytes: u32) -> Option<()> {
    let write_seq: u32 = peek(joined.sock, layout.write_seq)?;
    let copied_seq: u32 = peek(peer.sock, layout.copied_seq)?;
    let waiting: u32 = peek(peer.sock, layout.rmem_alloc)?;
    let buffer: u32 = peek(peer.sock, layout.rcvbuf)?;
    let cookie: u64 = peek(peer.sock, layout.cookie)?;
    let ulp: u64 = peek(joined.sock, layout.ulp_ops)?;
    let peer_ulp: u64 = peek(peer.sock, layout.ulp_ops)?;
    let fits = write_seq == joined.first_seq
        && copied_seq == write_seq
        // Of a full buffer, TCP would drop what comes next, and wait until it tries again.
        && waiting.saturating_add(bytes) <= buffer / 2
        && cookie == peer.cookie
        && ulp | peer_ulp == 0;
    fits.then_some(())
}

/// A field of a kernel structure. An address that is none gives nothing.
#[inline(always)]
fn peek<T: Copy>(base: u64, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let address = (base + u64::from(offset)) as *const u8;
    // SAFETY: the buffer is as large as the value, and the helper checks the address. Every bit
    // pattern is a value of the integers that are read.
    unsafe {
        let buffer =
            core::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>());
        bpf_probe_read_kernel_buf(address, buffer).ok()?;
        Some(value.assume_init())
    }
}

/// Counts a message as its packets would have been: one, without headers.
///
/// All additions are atomic: unlike the others, this program may be interrupted by another of ours.
#[inline(always)]
fn count(flow: *mut Flow, bytes: u32) {
    // SAFETY: as in `flow::entry`; the slots of per-CPU arrays are valid as long.
    unsafe {
        let now = bpf_ktime_get_coarse_ns();
        atomic::add(&raw mut (*flow).packets, 1);
        atomic::add(&raw mut (*flow).bytes, u64::from(bytes));
        (*flow).last_seen_ns = now;
        let is_egress = (*flow).flags & REPLY == 0;
        let (service, instance) = ((*flow).service, (*flow).instance);
        if service != 0 {
            add_traffic(SERVICE_TRAFFIC.get_ptr_mut(service), is_egress, bytes, now);
        }
        if instance != 0 {
            add_traffic(INSTANCE_TRAFFIC.get_ptr_mut(instance), is_egress, bytes, now);
        }
        if let Some(counter) = PROGRAM_COUNTERS.get_ptr_mut(ProgramCounter::SocketToSocket as u32) {
            add(counter, bytes);
        }
    }
}

/// # Safety
///
/// `traffic` is a slot of a map.
#[inline(always)]
unsafe fn add_traffic(traffic: Option<*mut Traffic>, is_egress: bool, bytes: u32, now: u64) {
    let Some(traffic) = traffic else { return };
    // SAFETY: as the caller promises.
    unsafe {
        let counter =
            if is_egress { &raw mut (*traffic).egress } else { &raw mut (*traffic).ingress };
        add(counter, bytes);
        (*traffic).last_used_ns = now;
    }
}

/// # Safety
///
/// `counter` is part of a slot of a map.
#[inline(always)]
unsafe fn add(counter: *mut Counter, bytes: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        atomic::add(&raw mut (*counter).packets, 1);
        atomic::add(&raw mut (*counter).bytes, u64::from(bytes));
    }
}

/// The context's fields are read one by one, each a word, and those of both families: the verifier
/// refuses an address in the context that depends on anything.
macro_rules! key_of {
    ($context:expr) => {{
        let context = $context;
        // SAFETY: fields of the context that the kernel passed.
        unsafe {
            let family = read_volatile(&raw const (*context).family);
            let local_v4 = read_volatile(&raw const (*context).local_ip4);
            let remote_v4 = read_volatile(&raw const (*context).remote_ip4);
            let local_v6 = [
                read_volatile(&raw const (*context).local_ip6[0]),
                read_volatile(&raw const (*context).local_ip6[1]),
                read_volatile(&raw const (*context).local_ip6[2]),
                read_volatile(&raw const (*context).local_ip6[3]),
            ];
            let remote_v6 = [
                read_volatile(&raw const (*context).remote_ip6[0]),
                read_volatile(&raw const (*context).remote_ip6[1]),
                read_volatile(&raw const (*context).remote_ip6[2]),
                read_volatile(&raw const (*context).remote_ip6[3]),
            ];
            // One port is in host byte order, the other in network byte order in the upper half
            // of a word of the host.
            let local_port = (read_volatile(&raw const (*context).local_port) as u16).to_be();
            let remote_port = (read_volatile(&raw const (*context).remote_port) >> 16) as u16;
            let (local, remote) = match family {
                AF_INET => (Addr::from_v4_word(local_v4), Addr::from_v4_word(remote_v4)),
                AF_INET6 => (Addr::from_words(local_v6), Addr::from_words(remote_v6)),
                _ => return None,
            };
            Some(SocketKey { local, remote, local_port, remote_port })
        }
    }};
}

#[inline(always)]
fn key_of_ops(ctx: &SockOpsContext) -> Option<SocketKey> {
    key_of!(ctx.ops)
}

#[inline(always)]
fn key_of_message(ctx: &SkMsgContext) -> Option<SocketKey> {
    let message: *mut sk_msg_md = ctx.msg;
    key_of!(message)
}
