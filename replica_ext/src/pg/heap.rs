//! Writes chunk rows and their index entries without SPI.
//!
//! This is what makes capture work for writers without any right on the log: the executor, which checks
//! privileges, is not involved.

use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::PgList;

use super::chunk::ChunkTuple;
use super::raw::{self, guarded};
use super::{room, sequence, unguarded};

pub use super::chunk::ChunkRow;

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
        let ids = sequence::read(self.ids);
        ids.last_value - i64::from(!ids.is_called)
    }

    /// Number of the last sleep that has begun, or is about to.
    pub fn last_sleep(&self) -> i64 {
        sequence::read(self.sleeps).last_value
    }

    /// Another sleep is about to begin.
    pub fn begin_sleep(&self) {
        sequence::draw(self.sleeps);
    }

    /// The table that writers use now.
    pub fn current(&self) -> usize {
        sequence::read(self.current).last_value.clamp(0, 2) as usize
    }
}

/// A chunk table open for writing. The lock stays to the end of the transaction: it holds rotation off.
pub struct Writer {
    heap: pg_sys::Relation,
    /// Null where `found` stands for it.
    rank_index: pg_sys::Relation,
    /// The same; and where the transaction has one chunk, which is not in this index.
    xid_index: pg_sys::Relation,
    /// Where REINDEX CONCURRENTLY is at work or has been: the indexes that get entries now; true for one of ranks.
    found: Vec<(pg_sys::Relation, bool)>,
    several: bool,
    ids: Oid,
    /// Of the transaction at hand.
    xid: u64,
    /// Pages to be added for what is going to be written.
    pages: u32,
}

/// So many chunks are worth adding pages together.
const BULK: u32 = 8;

impl Writer {
    /// For about so many chunks now; `several`: the transaction has more than one.
    pub fn open(table: LogTable, ids: Oid, several: bool, chunks: u32) -> Writer {
        // SAFETY: a relation that no longer exists is an ERROR. After an ERROR the resource owner closes them.
        // The indexes need no lock: whoever drops or rebuilds one waits for those who have locked its table. But what was
        // known before the lock was there may have been replaced.
        let (heap, known, rank_index, xid_index, xid) = unsafe {
            guarded(|| {
                let heap = raw::table_open(table.heap, pg_sys::RowExclusiveLock as i32);
                let known = has_just(heap, [table.rank_index, table.xid_index]);
                let open = |index, wanted| match wanted {
                    true => raw::index_open(index, pg_sys::NoLock as i32),
                    false => std::ptr::null_mut(),
                };
                let (rank_index, xid_index) =
                    (open(table.rank_index, known), open(table.xid_index, known && several));
                (heap, known, rank_index, xid_index, raw::GetTopFullTransactionId().value)
            })
        };
        let pages = if chunks < BULK { 0 } else { chunks };
        let mut writer = Writer { heap, rank_index, xid_index, found: Vec::new(), several, ids, xid, pages };
        if !known {
            writer.find_indexes();
        }
        writer
    }

    #[cold]
    fn find_indexes(&mut self) {
        // SAFETY: a list of the oids of indexes, which exist as long as their table is locked.
        unsafe {
            for oid in PgList::<Oid>::from_pg(pg_sys::RelationGetIndexList(self.heap)).iter_oid() {
                let index = pg_sys::index_open(oid, pg_sys::NoLock as i32);
                // What is to be put in an index's place, or was taken from there, has its name and something behind it.
                let name = pgrx::name_data_to_str(&(*(*index).rd_rel).relname);
                let ranks = name.contains("_rank");
                if (*(*index).rd_index).indisready && (ranks || name.contains("_xid")) {
                    self.found.push((index, ranks));
                } else {
                    pg_sys::index_close(index, pg_sys::NoLock as i32);
                }
            }
        }
    }

    /// Draws an id and writes the row.
    pub fn write(&mut self, row: &ChunkRow) {
        let mut chunk = ChunkTuple::new(row, self.xid);
        // SAFETY: the tuple is a row of the table as the extension's script made it, and outlives its use. heap_insert
        // needs no snapshot, and index_insert no executor; the indexes are not unique, so nothing is checked.
        unsafe {
            guarded(|| {
                if self.pages > 0 && room::add_pages(self.heap, self.pages) {
                    self.pages = 0;
                }
                let id = sequence::draw_id(self.ids);
                let tuple = &mut chunk.with_id(id);
                let command = raw::GetCurrentCommandId(true);
                raw::heap_insert(self.heap, tuple, command, 0, std::ptr::null_mut());
                let key = [Datum::from(self.xid), Datum::from(row.seq), Datum::from(id)];
                if !self.xid_index.is_null() {
                    self.index(self.xid_index, key, tuple);
                }
                if row.last && !self.rank_index.is_null() {
                    self.index(self.rank_index, [Datum::from(id)], tuple);
                }
                for &(index, ranks) in &self.found {
                    match ranks {
                        true if row.last => self.index(index, [Datum::from(id)], tuple),
                        false if self.several => self.index(index, key, tuple),
                        _ => {}
                    }
                }
            });
        }
    }

    /// # Safety
    /// Inside a guard; `tuple` was just inserted, and `key` is of this index of the table.
    unsafe fn index<const N: usize>(
        &self,
        index: pg_sys::Relation,
        mut key: [Datum; N],
        tuple: pg_sys::HeapTuple,
    ) {
        // SAFETY: the caller vouches for the index. It is a btree, which does not look at the IndexInfo.
        unsafe {
            raw::index_insert(
                index,
                key.as_mut_ptr(),
                [false; N].as_mut_ptr(),
                &mut (*tuple).t_self,
                self.heap,
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                false,
                std::ptr::null_mut(),
            );
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let keep = pg_sys::NoLock as i32;
        // SAFETY: opened by `open`; NoLock keeps the locks to the end of the transaction.
        unsafe {
            guarded(|| {
                for index in [self.xid_index, self.rank_index] {
                    if !index.is_null() {
                        raw::index_close(index, keep);
                    }
                }
                self.found.iter().for_each(|&(index, _)| raw::index_close(index, keep));
                raw::table_close(self.heap, keep);
            })
        }
    }
}

/// Whether a table has these indexes and no other.
///
/// # Safety
/// Inside a guard; `heap` is open, and locked.
unsafe fn has_just(heap: pg_sys::Relation, [one, other]: [Oid; 2]) -> bool {
    // SAFETY: the relation cache has the list from then on, with as many oids as it says; NIL is a null pointer.
    unsafe {
        if !(*heap).rd_indexvalid {
            raw::list_free(raw::RelationGetIndexList(heap));
        }
        let list = (*heap).rd_indexlist;
        if list.is_null() || (*list).length != 2 {
            return false;
        }
        let [first, second] = [0, 1].map(|n| (*(*list).elements.add(n)).oid_value);
        (first, second) == (one, other) || (first, second) == (other, one)
    }
}

/// The clock, in PostgreSQL's microseconds.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { unguarded::GetCurrentTimestamp() }
}
