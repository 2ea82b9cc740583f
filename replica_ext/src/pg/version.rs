//! What PostgreSQL 16 and later call by another name or with other arguments than 15, under one name.

use pgrx::pg_sys::{self, Node, Oid};

/// The right to insert, as the functions that look at rights want it.
pub const ACL_INSERT: pg_sys::AclMode = pg_sys::ACL_INSERT as pg_sys::AclMode;

/// Where a relation's file is (`RelFileNode` before 16).
#[cfg(feature = "pg15")]
pub type RelFileLocator = pg_sys::RelFileNode;
#[cfg(not(feature = "pg15"))]
pub type RelFileLocator = pg_sys::RelFileLocator;

/// Of an open relation.
///
/// # Safety
/// `relation` is open.
pub unsafe fn locator(relation: pg_sys::Relation) -> *mut RelFileLocator {
    // SAFETY: the caller vouches for the relation.
    unsafe {
        #[cfg(feature = "pg15")]
        return &raw mut (*relation).rd_node;
        #[cfg(not(feature = "pg15"))]
        return &raw mut (*relation).rd_locator;
    }
}

/// Whether a role owns a relation, or is a member of the role that does.
pub fn owns_relation(relation: Oid, role: Oid) -> bool {
    // SAFETY: an oid without a relation is reported as an error, not followed.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_class_ownercheck(relation, role);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::RelationRelationId, relation, role);
    }
}

/// A mutator of expressions. Before 16 PostgreSQL declares it without arguments, and calls it with these.
pub type Mutator = unsafe extern "C-unwind" fn(*mut Node, *mut core::ffi::c_void) -> *mut Node;

/// A copy of an expression whose nodes below this one went through the mutator.
///
/// # Safety
/// `node` is one of an expression; the mutator takes `context`.
pub unsafe fn mutate_tree(node: *mut Node, mutator: Mutator, context: *mut core::ffi::c_void) -> *mut Node {
    // SAFETY: the caller vouches for node and mutator.
    unsafe {
        #[cfg(feature = "pg15")]
        return {
            type Undeclared = unsafe extern "C-unwind" fn() -> *mut Node;
            let mutator = std::mem::transmute::<Mutator, Undeclared>(mutator);
            pg_sys::expression_tree_mutator(node, Some(mutator), context)
        };
        #[cfg(not(feature = "pg15"))]
        return pg_sys::expression_tree_mutator_impl(node, Some(mutator), context);
    }
}

/// Whether this session holds a lock in this mode.
///
/// # Safety
/// The tag is one of a lock method that there is.
pub unsafe fn holds_lock(tag: &pg_sys::LOCKTAG, mode: pg_sys::LOCKMODE) -> bool {
    // SAFETY: looks into the session's own table of locks.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return pg_sys::LockHeldByMe(tag, mode);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return pg_sys::LockHeldByMe(tag, mode, false);
    }
}

/// The backend of a transaction, or -1 if that is prepared.
pub fn backend_of(transaction: &pg_sys::VirtualTransactionId) -> i32 {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    return transaction.backendId;
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    return transaction.procNumber;
}

/// The attributes that a description of tuples has, dropped ones included.
///
/// # Safety
/// `descriptor` is one that outlives the use of the result.
pub unsafe fn attributes<'a>(descriptor: pg_sys::TupleDesc) -> &'a [pg_sys::FormData_pg_attribute] {
    // SAFETY: it has natts of them; from 18 on behind as many short ones (TupleDescAttr).
    unsafe {
        let count = (*descriptor).natts as usize;
        #[cfg(not(feature = "pg18"))]
        let first = (*descriptor).attrs.as_ptr();
        #[cfg(feature = "pg18")]
        let first = (*descriptor).compact_attrs.as_ptr().add(count).cast();
        std::slice::from_raw_parts(first, count)
    }
}

/// The index of an open relation's primary key; InvalidOid where it has none, or one that is deferrable.
///
/// # Safety
/// `relation` is open.
pub unsafe fn primary_key(relation: pg_sys::Relation) -> Oid {
    // SAFETY: the caller vouches for the relation.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::RelationGetPrimaryKeyIndex(relation);
        #[cfg(feature = "pg18")]
        return pg_sys::RelationGetPrimaryKeyIndex(relation, false);
    }
}
