//! PostgreSQL's functions as they are, for several calls under one guard.
//!
//! pgrx guards each call by itself, with a sigsetjmp and what belongs to it: a hundred instructions, which a small
//! transaction would pay thirty times before its commit.

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::*;

unsafe extern "C-unwind" {
    pub fn table_open(relation: Oid, mode: LOCKMODE) -> Relation;
    pub fn table_close(relation: Relation, mode: LOCKMODE);
    pub fn relation_open(relation: Oid, mode: LOCKMODE) -> Relation;
    pub fn try_relation_open(relation: Oid, mode: LOCKMODE) -> Relation;
    pub fn relation_close(relation: Relation, mode: LOCKMODE);
    pub fn index_open(relation: Oid, mode: LOCKMODE) -> Relation;
    pub fn index_close(relation: Relation, mode: LOCKMODE);
    pub fn RelationGetIndexList(relation: Relation) -> *mut List;
    pub fn list_free(list: *mut List);
    pub fn ExecFetchSlotHeapTuple(
        slot: *mut TupleTableSlot,
        materialize: bool,
        is_copy: *mut bool,
    ) -> HeapTuple;
    pub fn GetCurrentCommandId(used: bool) -> CommandId;
    pub fn GetTopFullTransactionId() -> FullTransactionId;
    pub fn heap_insert(
        relation: Relation,
        tuple: HeapTuple,
        command: CommandId,
        options: core::ffi::c_int,
        state: BulkInsertState,
    );
    pub fn index_insert(
        relation: Relation,
        values: *mut Datum,
        nulls: *mut bool,
        place: ItemPointer,
        heap: Relation,
        unique: IndexUniqueCheck::Type,
        unchanged: bool,
        info: *mut IndexInfo,
    ) -> bool;
    pub fn ReadBuffer(relation: Relation, block: BlockNumber) -> Buffer;
    pub fn LockBuffer(buffer: Buffer, mode: core::ffi::c_int);
    pub fn UnlockReleaseBuffer(buffer: Buffer);
    pub fn ReadBufferExtended(
        relation: Relation,
        fork: ForkNumber::Type,
        block: BlockNumber,
        mode: ReadBufferMode::Type,
        strategy: BufferAccessStrategy,
    ) -> Buffer;
    pub fn BufferGetBlockNumber(buffer: Buffer) -> BlockNumber;
    pub fn ConditionalLockRelationForExtension(relation: Relation, mode: LOCKMODE) -> bool;
    pub fn UnlockRelationForExtension(relation: Relation, mode: LOCKMODE);
    pub fn RecordPageWithFreeSpace(relation: Relation, block: BlockNumber, space: Size);
    pub fn FreeSpaceMapVacuumRange(relation: Relation, start: BlockNumber, end: BlockNumber);
    /// commands/sequence.h
    pub fn nextval_internal(relid: Oid, check_permissions: bool) -> i64;
    pub fn MarkBufferDirty(buffer: Buffer);
    pub fn GetRedoRecPtr() -> XLogRecPtr;
    pub fn XLogBeginInsert();
    pub fn XLogRegisterBuffer(block_id: uint8, buffer: Buffer, flags: uint8);
    pub fn XLogRegisterData(data: *mut core::ffi::c_char, len: core::ffi::c_int);
    pub fn XLogInsert(manager: RmgrId, info: uint8) -> XLogRecPtr;
}

/// Runs calls of these functions; an ERROR in one of them becomes a panic here.
///
/// # Safety
/// `calls` keeps to what each function wants, does not panic, and holds nothing that has to be dropped: an ERROR jumps
/// over it.
pub unsafe fn guarded<T: Copy>(calls: impl FnOnce() -> T) -> T {
    // SAFETY: the caller vouches for the calls.
    unsafe { pg_guard_ffi_boundary(calls) }
}
