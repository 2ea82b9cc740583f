//! On whose behalf a session writes, and whether that is logged here.
//!
//! `pyreplica.origin` is words with blanks between: the nodes that a change has been through, as agents set it, and
//! whatever users call their changes by. A node logs what was changed elsewhere only if it forwards.

use crate::guc;
use crate::pg::session;

/// What the chunks carry; None: the changes count as made here. Only a replica, or the role of an agent, names nodes:
/// anybody else could keep his changes from a slave by it.
pub fn of_session() -> Option<Vec<u8>> {
    let allowed = |origin: &Vec<u8>| !names_a_node(origin) || session::is_replica() || session::is_agent();
    guc::origin().filter(allowed)
}

/// Whether a change of this session is logged by a trigger that is, or is not, to fire always. Nearly every session writes
/// in its own name.
#[inline]
pub fn is_logged(always: impl FnOnce() -> bool) -> bool {
    !(session::is_replica() || guc::has_origin()) || is_logged_for_another(always())
}

#[cold]
fn is_logged_for_another(always: bool) -> bool {
    match of_session() {
        None => !session::is_replica(),
        Some(origin) => always || !(session::is_replica() || names_a_node(&origin)),
    }
}

/// The form of `pyreplica.node.id`.
fn names_a_node(origin: &[u8]) -> bool {
    let digit = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    origin
        .split(|&b| b == b' ')
        .any(|word| matches!(word, [b'n', id @ ..] if id.len() == 8 && id.iter().all(digit)))
}
