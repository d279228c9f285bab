//! Where the running kernel has the fields of its structures: what little of the BPF type format
//! is needed to find that out.
//!
//! The format is described in the kernel's `Documentation/bpf/btf.rst`.

use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
/// Of a type, without what follows for some kinds.
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// Why a field is not found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    #[error("the kernel's type information is cut short or not of this machine's byte order")]
    Malformed,
    #[error("the kernel has no structure `{0}`")]
    NoStructure(&'static str),
    #[error("the kernel's structure `{0}` has no field `{1}`")]
    NoField(&'static str, &'static str),
}

/// Type information, by reference into the bytes that it was read from.
#[derive(Debug)]
pub struct Btf<'a> {
    strings: &'a [u8],
    /// By id; the first is `void`.
    types: Vec<Type<'a>>,
    structures: HashMap<&'a [u8], usize>,
}

#[derive(Clone, Copy, Debug)]
struct Type<'a> {
    info: u32,
    /// Of what it refers to, for the kinds that do.
    target: u32,
    members: &'a [u8],
}

impl Type<'_> {
    fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn is_structure(&self) -> bool {
        matches!(self.kind(), kind::STRUCT | kind::UNION)
    }
}

impl<'a> Btf<'a> {
    /// Reads what is at `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// It is no such thing.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::Malformed);
        }
        let header = word(bytes, 4)?;
        let section = |at: usize| -> Result<&'a [u8], BtfError> {
            let start = header.checked_add(word(bytes, at)?).ok_or(BtfError::Malformed)? as usize;
            let len = word(bytes, at + 4)? as usize;
            bytes.get(start..).and_then(|rest| rest.get(..len)).ok_or(BtfError::Malformed)
        };
        let (mut rest, strings) = (section(8)?, section(16)?);
        let void = Type { info: 0, target: 0, members: &[] };
        let mut btf = Self { strings, types: vec![void], structures: HashMap::new() };
        while !rest.is_empty() {
            let (name, info, target) = (word(rest, 0)?, word(rest, 4)?, word(rest, 8)?);
            let count = (info & 0xffff) as usize;
            let len = match info >> 24 & 0x1f {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION => count * MEMBER_BYTES,
                kind::ENUM | kind::FUNC_PROTO => count * 8,
                kind::DATASEC | kind::ENUM64 => count * 12,
                _ => 0,
            };
            let members = rest.get(TYPE_BYTES..TYPE_BYTES + len).ok_or(BtfError::Malformed)?;
            let found = Type { info, target, members };
            if found.is_structure() {
                let id = btf.types.len();
                btf.structures.entry(btf.name(name)?).or_insert(id);
            }
            btf.types.push(found);
            rest = &rest[TYPE_BYTES + len..];
        }
        Ok(btf)
    }

    /// Bytes from the start of `structure` to the field at `path`, which goes into the structures
    /// of fields.
    ///
    /// # Errors
    /// There is no such structure or field.
    pub fn offset(&self, structure: &'static str, path: &[&'static str]) -> Result<u32, BtfError> {
        let mut at =
            *self.structures.get(structure.as_bytes()).ok_or(BtfError::NoStructure(structure))?;
        let mut bits = 0;
        for field in path {
            let (offset, target) =
                self.field(at, field)?.ok_or(BtfError::NoField(structure, field))?;
            bits += offset;
            at = target;
        }
        Ok(bits / 8)
    }

    /// Offset in bits and type of a field, which may be in an unnamed structure inside.
    fn field(&self, structure: usize, wanted: &str) -> Result<Option<(u32, usize)>, BtfError> {
        let Some(structure) = self.resolve(structure) else { return Ok(None) };
        for member in structure.members.chunks_exact(MEMBER_BYTES) {
            let name = self.name(word(member, 0)?)?;
            let target = word(member, 4)? as usize;
            // With the topmost bit of the info set, the upper byte is the width of a bit field.
            let mask = if structure.info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
            let offset = word(member, 8)? & mask;
            if name == wanted.as_bytes() {
                return Ok(Some((offset, target)));
            }
            if name.is_empty()
                && let Some((inside, target)) = self.field(target, wanted)?
            {
                return Ok(Some((offset + inside, target)));
            }
        }
        Ok(None)
    }

    /// The structure behind other names and qualifiers, if it is one. A structure lies inside
    /// others that have a larger id or a smaller one, but never in a circle.
    fn resolve(&self, mut id: usize) -> Option<Type<'a>> {
        // No kernel has chains nearly as long; a damaged file may have circles.
        for _ in 0..32 {
            let found = *self.types.get(id)?;
            match found.kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::TYPE_TAG => {
                    id = found.target as usize;
                }
                _ => return found.is_structure().then_some(found),
            }
        }
        None
    }

    fn name(&self, offset: u32) -> Result<&'a [u8], BtfError> {
        let rest = self.strings.get(offset as usize..).ok_or(BtfError::Malformed)?;
        let len = rest.iter().position(|byte| *byte == 0).ok_or(BtfError::Malformed)?;
        Ok(&rest[..len])
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(BtfError::Malformed)?;
    Ok(u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct inner { int a; int b; }`, and `struct outer { int x; union { struct inner in; }; }`
    /// with the union without a name.
    fn example() -> Vec<u8> {
        let strings = b"\0int\0inner\0a\0b\0outer\0x\0in\0";
        let at =
            |name: &[u8]| strings.windows(name.len()).position(|part| part == name).unwrap() as u32;
        let types = [
            vec![at(b"int\0"), kind::INT << 24, 4, 32],
            vec![at(b"inner\0"), kind::STRUCT << 24 | 2, 8, at(b"a\0"), 1, 0, at(b"b\0"), 1, 32],
            vec![0, kind::UNION << 24 | 1, 8, at(b"in\0"), 2, 0],
            vec![at(b"outer\0"), kind::STRUCT << 24 | 2, 12, at(b"x\0"), 1, 0, 0, 3, 32],
        ]
        .concat();
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let len = |part: &[u8]| part.len() as u32;
        for word in [24, 0, len(&types), len(&types), len(strings)] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_through_unnamed_ones() {
        let bytes = example();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("inner", &["b"]), Ok(4));
        assert_eq!(btf.offset("outer", &["x"]), Ok(0));
        assert_eq!(btf.offset("outer", &["in"]), Ok(4));
        assert_eq!(btf.offset("outer", &["in", "b"]), Ok(8));
        assert_eq!(btf.offset("outer", &["b"]), Err(BtfError::NoField("outer", "b")));
        assert_eq!(btf.offset("other", &["b"]), Err(BtfError::NoStructure("other")));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let bytes = example();
        for len in 0..bytes.len() {
            assert_eq!(Btf::parse(&bytes[..len]).err(), Some(BtfError::Malformed), "{len} bytes");
        }
    }
}
