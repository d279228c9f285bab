//! What an answer must repeat.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::core::tables::NodeId;

/// From which nonces are derived: random bytes, drawn anew at each start of the daemon.
///
/// A digest and not a plain generator, because each peer sees the nonces of its own probes and
/// must not learn from them those of others'.
#[derive(Clone, Copy)]
pub struct Secret([u8; 32]);

impl Secret {
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// Of probe `seq` to a node, for the `epoch`th peer that was added: node ids are used again.
    pub(super) fn nonce(&self, node: NodeId, epoch: u64, seq: u32) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.0)
            .chain_update(node.to_be_bytes())
            .chain_update(epoch.to_be_bytes())
            .chain_update(seq.to_be_bytes())
            .finalize();
        let (head, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        u64::from_be_bytes(*head)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
