//! A row of a chunk table as it lies in a page: what heap_form_tuple would make of its columns (sql/20_log.sql), in one
//! walk without their descriptions and with one copy of the payload.

use std::mem::offset_of;

use pgrx::pg_sys::{self, HeapTupleData, HeapTupleHeaderData};

/// A row but for what is drawn when it is written, and for what is the same in all rows of a transaction.
pub struct ChunkRow<'a> {
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

/// The columns of fixed size, none of which is NULL.
#[repr(C)]
struct Fixed {
    id: i64,
    xid: u64,
    ts: i64,
    seq: i64,
    changes: i32,
    chunks: i32,
    piece: i16,
    last: bool,
    asynchronous: bool,
}

const COLUMNS: u16 = 12;
/// Where the values of variable length begin.
const FIXED_BYTES: usize = offset_of!(Fixed, asynchronous) + 1;
/// Of a value of variable length.
const HEADER_BYTES: usize = pg_sys::VARHDRSZ;
/// To which PostgreSQL aligns the data of a tuple.
const MAXALIGN: usize = size_of::<u64>();

/// Keeps its place in memory until the row was inserted.
pub(super) struct ChunkTuple {
    words: Vec<u64>,
    data: usize,
    size: usize,
}

impl ChunkTuple {
    #[expect(clippy::slow_vector_initialization, reason = "calloc has no cache of small pieces")]
    pub fn new(row: &ChunkRow, xid: u64) -> ChunkTuple {
        let ChunkRow { ts, seq, changes, chunks, piece, last, asynchronous, .. } = *row;
        let variable = [row.origin, row.username, Some(row.payload)];
        let has_nulls = row.origin.is_none() || row.username.is_none();
        let bitmap = offset_of!(HeapTupleHeaderData, t_bits);
        let data = (bitmap + if has_nulls { 2 } else { 0 }).next_multiple_of(MAXALIGN);
        let behind = |offset: usize, value: &[u8]| offset.next_multiple_of(4) + HEADER_BYTES + value.len();
        let size = data + variable.iter().flatten().fold(FIXED_BYTES, |offset, value| behind(offset, value));
        let mut words = Vec::with_capacity(size.div_ceil(MAXALIGN));
        words.resize(size.div_ceil(MAXALIGN), 0_u64);
        let start = words.as_mut_ptr().cast::<u8>();
        // SAFETY: `words` has room for `size` bytes, and is aligned as a tuple is. `Fixed` ends in padding, over which
        // the payload's header comes.
        unsafe {
            let header = start.cast::<HeapTupleHeaderData>();
            (*header).t_infomask =
                (pg_sys::HEAP_HASVARWIDTH | if has_nulls { pg_sys::HEAP_HASNULL } else { 0 }) as u16;
            (*header).t_infomask2 = COLUMNS;
            (*header).t_hoff = data as u8;
            if has_nulls {
                start.add(bitmap).write(0xff);
                let present = |no: u8, value: Option<&[u8]>| u8::from(value.is_some()) << (no - 8);
                start.add(bitmap + 1).write(0b1001 | present(9, row.origin) | present(10, row.username));
            }
            let to = start.add(data);
            to.cast::<Fixed>().write(Fixed {
                id: 0,
                xid,
                ts,
                seq,
                changes,
                chunks,
                piece,
                last,
                asynchronous,
            });
            let mut offset = FIXED_BYTES;
            for value in variable.into_iter().flatten() {
                let to = to.add(offset.next_multiple_of(4));
                to.cast::<u32>().write(varlena_header(value.len()));
                to.add(HEADER_BYTES).copy_from_nonoverlapping(value.as_ptr(), value.len());
                offset = behind(offset, value);
            }
        }
        ChunkTuple { words, data, size }
    }

    /// The row with this id, for heap_insert, which fills in the rest of the header; usable as long as this is.
    pub fn with_id(&mut self, id: i64) -> HeapTupleData {
        let start = self.words.as_mut_ptr().cast::<u8>();
        // SAFETY: `new` has put a `Fixed` there.
        unsafe { (*start.add(self.data).cast::<Fixed>()).id = id };
        HeapTupleData {
            t_len: self.size as u32,
            t_self: pg_sys::ItemPointerData::default(),
            t_tableOid: pg_sys::InvalidOid,
            t_data: start.cast(),
        }
    }
}

/// As SET_VARSIZE gives it.
fn varlena_header(len: usize) -> u32 {
    let size = (len + HEADER_BYTES) as u32;
    if cfg!(target_endian = "big") {
        size
    } else {
        size << 2
    }
}
