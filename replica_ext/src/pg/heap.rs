//! Writes chunk rows and their index entries without SPI, and reads sequences without a call.
//!
//! This is what makes capture work for writers without any right on the log: the executor, which checks
//! privileges, is not involved.

use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::IntoDatum;

use super::undeclared;

/// Columns of a chunk table (sql/20_log.sql).
const CHUNK_COLUMNS: usize = 12;

/// The chunk tables and what writing to them needs, by oid.
#[derive(Clone, Copy)]
pub struct LogTables {
    pub tables: [LogTable; 3],
    pub ids: Oid,
    pub current: Oid,
    pub sleeps: Oid,
}

#[derive(Clone, Copy)]
pub struct LogTable {
    pub heap: Oid,
    pub rank_index: Oid,
    pub xid_index: Oid,
}

/// A row of a chunk table but for what is drawn when it is written.
pub struct ChunkRow<'a> {
    pub xid: u64,
    pub ts: i64,
    pub seq: i64,
    pub changes: i32,
    pub chunks: i32,
    pub piece: i16,
    pub last: bool,
    pub asynchronous: bool,
    /// In the encoding of the database, like the user name.
    pub origin: Option<&'a [u8]>,
    pub username: Option<&'a [u8]>,
    pub payload: &'a [u8],
}

impl LogTables {
    /// Finds the log by its names; None when the extension is not installed in this database.
    pub fn find() -> Option<LogTables> {
        let schema = super::session::schema_oid("pyreplica")?;
        let named = |name: &std::ffi::CStr| {
            // SAFETY: a C string; an unknown name gives InvalidOid.
            let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
            (oid != pg_sys::InvalidOid).then_some(oid)
        };
        let table = |heap, rank, xid| {
            Some(LogTable { heap: named(heap)?, rank_index: named(rank)?, xid_index: named(xid)? })
        };
        Some(LogTables {
            tables: [
                table(c"log_0", c"log_0_rank", c"log_0_xid")?,
                table(c"log_1", c"log_1_rank", c"log_1_xid")?,
                table(c"log_2", c"log_2_rank", c"log_2_xid")?,
            ],
            ids: named(c"log_id")?,
            current: named(c"log_current")?,
            sleeps: named(c"log_sleep")?,
        })
    }

    pub fn mentions(&self, oid: Oid) -> bool {
        let own = |t: &LogTable| t.heap == oid || t.rank_index == oid || t.xid_index == oid;
        [self.ids, self.current, self.sleeps].contains(&oid) || self.tables.iter().any(own)
    }

    /// The id drawn last; 0 when there is none.
    pub fn last_id(&self) -> i64 {
        let ids = read_sequence(self.ids);
        ids.last_value - i64::from(!ids.is_called)
    }

    /// Number of the last sleep that has begun, or is about to.
    pub fn last_sleep(&self) -> i64 {
        read_sequence(self.sleeps).last_value
    }

    /// Another sleep is about to begin.
    pub fn begin_sleep(&self) {
        undeclared::next_value(self.sleeps);
    }

    /// The table that writers use now.
    pub fn current(&self) -> usize {
        read_sequence(self.current).last_value.clamp(0, 2) as usize
    }
}

/// A chunk table open for writing. The lock stays to the end of the transaction: it holds rotation off.
pub struct Writer {
    heap: pg_sys::Relation,
    rank_index: Index,
    xid_index: Index,
    ids: Oid,
}

/// An open index, and what PostgreSQL wants to know of it for each entry.
struct Index {
    relation: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
}

impl Index {
    /// Of a table that is locked: whoever drops or rebuilds an index waits for those who have locked its table.
    fn open(oid: Oid) -> Index {
        // SAFETY: as for the table, whose lock protects the index too. `info` is in the context of the transaction or of the statement, which lasts
        // longer than the Writer.
        unsafe {
            let relation = pg_sys::index_open(oid, pg_sys::NoLock as i32);
            Index { relation, info: pg_sys::BuildIndexInfo(relation) }
        }
    }

    /// # Safety
    /// `tuple` was just inserted into `heap`, of which this is an index with the columns in `key`.
    unsafe fn insert(&self, heap: pg_sys::Relation, key: &mut [Datum], tuple: pg_sys::HeapTuple) {
        let mut nulls = [false; 3];
        // SAFETY: the caller vouches for heap and tuple; the index is not unique, so nothing is checked.
        unsafe {
            pg_sys::index_insert(
                self.relation,
                key.as_mut_ptr(),
                nulls.as_mut_ptr(),
                &mut (*tuple).t_self,
                heap,
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                false,
                self.info,
            );
        }
    }

    /// Keeps the lock to the end of the transaction.
    fn close(&self) {
        // SAFETY: opened by `open`, and closed once, when the Writer is dropped.
        unsafe {
            pg_sys::pfree(self.info.cast());
            pg_sys::index_close(self.relation, pg_sys::NoLock as i32);
        }
    }
}

impl Writer {
    pub fn open(table: LogTable, ids: Oid) -> Writer {
        // SAFETY: a relation that no longer exists is an ERROR. After an ERROR the resource owner closes them.
        let heap = unsafe { pg_sys::table_open(table.heap, pg_sys::RowExclusiveLock as i32) };
        Writer {
            heap,
            rank_index: Index::open(table.rank_index),
            xid_index: Index::open(table.xid_index),
            ids,
        }
    }

    /// Draws an id and writes the row.
    pub fn write(&mut self, row: &ChunkRow) {
        let id = undeclared::next_value(self.ids);
        let mut nulls = [false; CHUNK_COLUMNS];
        nulls[9] = row.origin.is_none();
        nulls[10] = row.username.is_none();
        let null = Datum::null();
        let mut values: [Datum; CHUNK_COLUMNS] = [
            Datum::from(id),
            Datum::from(row.xid),
            Datum::from(row.ts),
            Datum::from(row.seq),
            Datum::from(row.changes),
            Datum::from(row.chunks),
            Datum::from(row.piece),
            Datum::from(row.last),
            Datum::from(row.asynchronous),
            row.origin.and_then(IntoDatum::into_datum).unwrap_or(null),
            row.username.and_then(IntoDatum::into_datum).unwrap_or(null),
            row.payload.into_datum().unwrap_or(null),
        ];
        // SAFETY: values match the table's columns, which the extension's script made; the tuple is freed after
        // its last use. heap_insert needs no snapshot, and index_insert no executor.
        unsafe {
            let tuple = pg_sys::heap_form_tuple((*self.heap).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::heap_insert(self.heap, tuple, command, 0, std::ptr::null_mut());
            let mut key = [values[1], values[3], values[0]];
            self.xid_index.insert(self.heap, &mut key, tuple);
            if row.last {
                self.rank_index.insert(self.heap, &mut values[..1], tuple);
            }
            pg_sys::heap_freetuple(tuple);
            pg_sys::pfree(values[11].cast_mut_ptr());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.rank_index.close();
        self.xid_index.close();
        // SAFETY: opened by `open`; NoLock keeps the lock to the end of the transaction.
        unsafe { pg_sys::table_close(self.heap, pg_sys::NoLock as i32) }
    }
}

/// The tuple of a sequence (FormData_pg_sequence_data).
#[repr(C)]
#[derive(Clone, Copy)]
struct SequenceData {
    last_value: i64,
    log_cnt: i64,
    is_called: bool,
}

/// The beginning of a row of pg_sequence (FormData_pg_sequence).
#[repr(C)]
struct SequenceForm {
    seqrelid: Oid,
    seqtypid: Oid,
    seqstart: i64,
}

fn read_sequence(oid: Oid) -> SequenceData {
    let mut data = [None];
    read_sequences(&[oid], &mut data);
    data[0].unwrap_or_else(|| crate::error::no_log())
}

/// Last value of each sequence, and whether it was used; None when there is no such sequence (any more).
pub fn sequence_states(oids: &[Oid]) -> Vec<Option<(i64, bool)>> {
    let mut data = vec![None; oids.len()];
    read_sequences(oids, &mut data);
    data.into_iter().map(|data| data.map(|data| (data.last_value, data.is_called))).collect()
}

/// Many at once, under one guard of pgrx instead of one, a sigsetjmp, for each call.
fn read_sequences(oids: &[Oid], data: &mut [Option<SequenceData>]) {
    // SAFETY: nothing in it has a destructor. A sequence that exists has one page with one tuple of this form at the
    // first line pointer; it is read under the buffer's share lock, as read_seq_tuple does.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            for (oid, data) in oids.iter().zip(data) {
                let relation = unguarded::try_relation_open(*oid, pg_sys::AccessShareLock as i32);
                if relation.is_null() {
                    continue;
                }
                if (*(*relation).rd_rel).relkind == pg_sys::RELKIND_SEQUENCE as core::ffi::c_char {
                    let buffer = unguarded::ReadBuffer(relation, 0);
                    unguarded::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
                    let page = pg_sys::BufferGetPage(buffer);
                    let item = pg_sys::PageGetItem(page, pg_sys::PageGetItemId(page, 1));
                    let header = item.cast::<pg_sys::HeapTupleHeaderData>();
                    *data = Some(*item.add((*header).t_hoff as usize).cast::<SequenceData>());
                    unguarded::UnlockReleaseBuffer(buffer);
                }
                unguarded::relation_close(relation, pg_sys::AccessShareLock as i32);
            }
        });
    }
}

/// What `read_sequences` calls under its own guard.
mod unguarded {
    use pgrx::pg_sys::{BlockNumber, Buffer, Oid, Relation, LOCKMODE};

    unsafe extern "C-unwind" {
        /// access/relation.h
        pub fn try_relation_open(oid: Oid, mode: LOCKMODE) -> Relation;
        pub fn relation_close(relation: Relation, mode: LOCKMODE);
        /// storage/bufmgr.h
        pub fn ReadBuffer(relation: Relation, block: BlockNumber) -> Buffer;
        pub fn LockBuffer(buffer: Buffer, mode: core::ffi::c_int);
        pub fn UnlockReleaseBuffer(buffer: Buffer);
    }
}

/// Whether the next value of a sequence is its first.
pub fn sequence_is_at_start(oid: Oid) -> bool {
    // SAFETY: a row of pg_sequence exists for each sequence; the form is read before the tuple is released.
    let start = unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::SEQRELID as i32, Datum::from(oid));
        if tuple.is_null() {
            return false;
        }
        let start = (*pg_sys::GETSTRUCT(tuple).cast::<SequenceForm>()).seqstart;
        pg_sys::ReleaseSysCache(tuple);
        start
    };
    let data = read_sequence(oid);
    !data.is_called && data.last_value == start
}

/// The transaction's id, which chunk rows carry.
pub fn transaction_id() -> u64 {
    // SAFETY: assigns an xid if there is none yet, which a transaction that changed rows has.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

/// The clock, in PostgreSQL's microseconds.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
