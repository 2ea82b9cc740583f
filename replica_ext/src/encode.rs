//! The bytes of the log: how messages and values are written into a chunk (docs/log-format.md).
//!
//! In: what the trigger knows of a change. Out: bytes appended to the chunk that is open.
//! Pure; the golden examples in `tests/golden/` hold it to the document.

/// First byte of every payload.
pub const VERSION: u8 = 2;

/// TRUNCATE ... RESTART IDENTITY.
pub const TRUNCATE_RESTART: u64 = 1;
/// The first relation is the captured table, the others are those of its partitions that were truncated.
pub const TRUNCATE_PARTITIONS: u64 = 2;

/// The kinds of message, by their first byte.
pub mod tag {
    pub const RELATION: u8 = b'R';
    pub const COLUMN: u8 = b'C';
    pub const INSERT: u8 = b'I';
    pub const UPDATE: u8 = b'U';
    pub const KEY_UPDATE: u8 = b'K';
    pub const DELETE: u8 = b'D';
    pub const TRUNCATE: u8 = b'T';
    pub const STATEMENT: u8 = b'S';
}

/// Unsigned LEB128.
#[inline]
pub fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

#[inline]
pub fn string(out: &mut Vec<u8>, s: &[u8]) {
    varint(out, s.len() as u64);
    out.extend_from_slice(s);
}

#[inline]
pub fn null(out: &mut Vec<u8>) {
    out.push(0);
}

#[inline]
pub fn value(out: &mut Vec<u8>, bytes: &[u8]) {
    varint(out, bytes.len() as u64 + 1);
    out.extend_from_slice(bytes);
}

/// A value of a size known when compiling, already in wire order.
#[inline]
pub fn fixed<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    // Header and value at once: the place left is looked at once.
    const { assert!(N <= 16) };
    let mut written = [0; 17];
    written[0] = N as u8 + 1;
    written[1..=N].copy_from_slice(&bytes);
    out.extend_from_slice(&written[..=N]);
}

pub fn relation(out: &mut Vec<u8>, oid: u32, schema: &[u8], name: &[u8], columns: usize, key: &[usize]) {
    out.push(tag::RELATION);
    varint(out, oid.into());
    string(out, schema);
    string(out, name);
    varint(out, columns as u64);
    varint(out, key.len() as u64);
    for &column in key {
        varint(out, column as u64);
    }
}

/// The beginning of a message about one relation.
#[inline]
pub fn begin(out: &mut Vec<u8>, kind: u8, relation: u32) {
    match u8::try_from(relation) {
        // Both at once: the place left is looked at once.
        Ok(number @ 0..0x80) => out.extend_from_slice(&[kind, number]),
        _ => {
            out.push(kind);
            varint(out, relation.into());
        }
    }
}

/// What follows the relation in a column message; `type_oid` is 0 when the type has no oid that every server knows.
pub fn column(out: &mut Vec<u8>, column: usize, name: &[u8], type_oid: u32, binary: bool) {
    varint(out, column as u64);
    string(out, name);
    varint(out, u64::from(type_oid) * 2 + u64::from(binary));
}

pub fn statement(out: &mut Vec<u8>, sql: &[u8], role: &[u8], settings: &[(&[u8], impl AsRef<[u8]>)]) {
    out.push(tag::STATEMENT);
    string(out, sql);
    string(out, role);
    varint(out, settings.len() as u64);
    for (name, value) in settings {
        string(out, name);
        string(out, value.as_ref());
    }
}

pub fn truncate(out: &mut Vec<u8>, flags: u64, relations: &[u32]) {
    out.push(tag::TRUNCATE);
    varint(out, flags);
    varint(out, relations.len() as u64);
    for &relation in relations {
        varint(out, relation.into());
    }
}

/// The bytes of a value that was just written; None is NULL.
pub fn value_bytes(written: &[u8]) -> Option<&[u8]> {
    let header = written.iter().position(|b| *b < 0x80)? + 1;
    (written != [0]).then(|| &written[header..])
}
