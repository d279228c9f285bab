//! Every capacity of the data path. Those marked *default* can be set when the maps are created.

/// Service IPs and instance IPs that a node can know at a time (*default*). A slot is one of
/// them; slot 0 is never used.
pub const SERVICES: u32 = 65_536;

/// Instances that a node can know at a time (*default*); id 0 is never used.
pub const INSTANCES: u32 = 65_536;

/// Nodes that a node can know at a time (*default*); id 0 is the node itself.
pub const NODES: u32 = 4_096;

/// Local addresses: two for each instance and family (*default*).
pub const ENDPOINTS: u32 = 4_096;

/// Flow entries, two for each flow (*default*); about 200 bytes each, allocated at once.
pub const FLOWS: u32 = 131_072;

/// Instances in one lookup table. Weights repeat an id, so this is also the number of slots.
pub const TABLE_SLOTS: u32 = 1_021;

/// Elements of a lookup table: element 0 is the number of ids, element 1… are the ids.
pub const TABLE_LEN: u32 = TABLE_SLOTS + 1;

/// Bytes of the ring buffer `events`: a power of two, and a multiple of the page size.
pub const EVENTS_BYTES: u32 = 4 * 1024 * 1024;

/// Bytes of a service's full name, `app.appns.service.servicens`, 4 × 30 and three dots, rounded
/// up; a shorter one is followed by zeros.
pub const NAME_BYTES: usize = 128;

/// Largest packet, with its Ethernet header, that is parked on a table miss. The first packet of
/// a connection is small; a datagram fills the underlay's MTU at most, jumbo frames included.
pub const PARKED_PACKET_BYTES: u32 = 9_216;

/// Most packets parked are small: they take a record of this many bytes in the ring buffer.
pub const PARKED_SMALL_BYTES: u32 = 256;

/// Bytes that the tunnel adds in front of an IP packet over an IPv4 underlay: IPv4 20 + UDP 8.
pub const TUNNEL_OVERHEAD_V4: u32 = 28;

/// How many places of the lookup table are tried when the chosen instance cannot take the flow.
pub const PLACEMENT_TRIES: u32 = 4;

/// IPv6 extension headers that are looked through; a packet with more is dropped. RFC 8200
/// recommends at most one of each kind, of which four may stand before a transport header.
pub const EXTENSION_HEADERS: u32 = 4;
