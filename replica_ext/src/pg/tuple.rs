//! Tuples: their columns, and what their headers say about who wrote them.

use pgrx::pg_sys::{self, Datum, HeapTuple, HeapTupleHeader, TupleDesc};
use pgrx::varlena::varsize_any;

use super::unguarded;
use super::whole::Form;

/// How an attribute lies in a tuple.
pub struct Attribute {
    /// Bytes; -1 a varlena, -2 a C string.
    pub len: i16,
    /// Bytes to which it is aligned, less one.
    pub align: usize,
    pub by_value: bool,
    /// How an INSERT has it.
    pub form: Form,
}

/// Where the values of a row lie, found from left to right as far as they are needed; reused from row to row.
///
/// This is PostgreSQL's heap_deform_tuple without its by-value datums, and it can stop and go on.
pub struct Row {
    /// Of the attributes found so far; a null pointer is NULL.
    values: Vec<*const u8>,
    found: usize,
    data: *const u8,
    /// Bytes of `data`.
    size: usize,
    /// Bitmap of the attributes that are not NULL; a null pointer when all are.
    present: *const u8,
    /// In `data`, behind the last attribute found.
    offset: usize,
    /// The values of a tuple that is older than the last attributes of its table.
    datums: Vec<Datum>,
    is_old: bool,
}

impl Default for Row {
    fn default() -> Row {
        let null = std::ptr::null();
        Row {
            values: Vec::new(),
            found: 0,
            data: null,
            size: 0,
            present: null,
            offset: 0,
            datums: Vec::new(),
            is_old: false,
        }
    }
}

impl Row {
    /// Begins to take a tuple apart.
    ///
    /// # Safety
    /// `tuple` is of `descriptor`, whose attributes `layout` describes, and outlives the use of this row up to the
    /// next call.
    #[inline(always)]
    pub(super) unsafe fn begin(&mut self, tuple: HeapTuple, descriptor: TupleDesc, layout: &[Attribute]) {
        if self.values.len() != layout.len() {
            self.values.resize(layout.len(), std::ptr::null());
        }
        self.offset = 0;
        // SAFETY: the caller vouches for the tuple; its data begins t_hoff behind its header and ends t_len behind
        // it, and the bitmap is there if HEAP_HASNULL is set.
        unsafe {
            let header = (*tuple).t_data;
            let start = (*header).t_hoff as usize;
            self.data = header.cast::<u8>().add(start);
            self.size = (*tuple).t_len as usize - start;
            let has_nulls = u32::from((*header).t_infomask) & pg_sys::HEAP_HASNULL != 0;
            self.present = if has_nulls { (*header).t_bits.as_ptr() } else { std::ptr::null() };
            self.found = 0;
            let attributes = u32::from((*header).t_infomask2) & pg_sys::HEAP_NATTS_MASK;
            self.is_old = (attributes as usize) < layout.len();
            if self.is_old {
                self.take_apart_old(tuple, descriptor, layout);
            }
        }
    }

    /// A tuple that was written before the last columns were added has their defaults in the descriptor.
    ///
    /// # Safety
    /// As for [`Row::begin`].
    #[cold]
    unsafe fn take_apart_old(&mut self, tuple: HeapTuple, descriptor: TupleDesc, layout: &[Attribute]) {
        let mut nulls = vec![true; layout.len()];
        self.datums.clear();
        self.datums.resize(layout.len(), Datum::null());
        // SAFETY: the caller vouches for both; the arrays have a place for each attribute.
        unsafe { pg_sys::heap_deform_tuple(tuple, descriptor, self.datums.as_mut_ptr(), nulls.as_mut_ptr()) };
        for (i, attribute) in layout.iter().enumerate() {
            self.values[i] = match (nulls[i], attribute.by_value) {
                (true, _) => std::ptr::null(),
                (false, false) => self.datums[i].cast_mut_ptr::<u8>(),
                (false, true) => by_value_bytes(&self.datums[i], attribute.len),
            };
        }
        self.found = layout.len();
    }

    /// Finds the attributes up to this one.
    ///
    /// # Safety
    /// The tuple that was begun is alive, and `layout` the one that it was begun with.
    #[inline(always)]
    pub(super) unsafe fn find(&mut self, layout: &[Attribute], last: usize) {
        if self.found <= last {
            // SAFETY: as the caller vouches.
            unsafe { self.find_more(layout, last) }
        }
    }

    /// # Safety
    /// As for [`Row::find`].
    unsafe fn find_more(&mut self, layout: &[Attribute], last: usize) {
        assert!(last < layout.len() && layout.len() <= self.values.len());
        // SAFETY: the caller vouches for the tuple, and the indexes were looked at.
        unsafe {
            while self.found <= last {
                self.take(layout.get_unchecked(self.found));
            }
        }
    }

    /// Where the next attribute begins, and the offset behind it: a tuple has its attributes one after the other,
    /// each aligned (a varlena only where a zero says so), but for those that its bitmap says are NULL.
    ///
    /// # Safety
    /// As for [`Row::find`]; `attribute` is the one numbered `found`.
    #[inline(always)]
    unsafe fn next(&self, attribute: &Attribute) -> (*const u8, usize) {
        // SAFETY: the caller vouches for tuple and attribute.
        unsafe { self.at(self.found, self.offset, attribute) }
    }

    /// Where attribute number `i` begins, a null pointer where it is NULL, given the offset behind the one before; and
    /// the offset behind it.
    ///
    /// # Safety
    /// The tuple that was begun is alive; `attribute` is the one numbered `i`.
    #[inline(always)]
    pub(super) unsafe fn at(&self, i: usize, offset: usize, attribute: &Attribute) -> (*const u8, usize) {
        // SAFETY: as the caller vouches.
        unsafe {
            match self.is_null(i) {
                true => (std::ptr::null(), offset),
                false => self.present_at(offset, attribute),
            }
        }
    }

    /// # Safety
    /// As for [`Row::at`].
    #[inline(always)]
    pub(super) unsafe fn is_null(&self, i: usize) -> bool {
        // SAFETY: the bitmap has a bit for each attribute.
        unsafe { !self.present.is_null() && *self.present.add(i / 8) & (1 << (i % 8)) == 0 }
    }

    /// What [`Row::at`] gives of an attribute that is not NULL.
    ///
    /// # Safety
    /// As for [`Row::at`].
    #[inline(always)]
    pub(super) unsafe fn present_at(&self, mut offset: usize, attribute: &Attribute) -> (*const u8, usize) {
        // SAFETY: the caller vouches for tuple and attribute.
        unsafe {
            if attribute.len > 0 {
                offset = (offset + attribute.align) & !attribute.align;
                return (self.data.add(offset), offset + attribute.len as usize);
            }
            if attribute.len != -1 || *self.data.add(offset) == 0 {
                offset = (offset + attribute.align) & !attribute.align;
            }
            let value = self.data.add(offset);
            (value, offset + stored_size(value, attribute.len))
        }
    }

    /// The same of one whose size, and alignment, are N bytes.
    ///
    /// # Safety
    /// As for [`Row::at`].
    #[inline(always)]
    pub(super) unsafe fn fixed_at<const N: usize>(&self, offset: usize) -> ([u8; N], usize) {
        let offset = offset.next_multiple_of(N);
        // SAFETY: the caller vouches for tuple and attribute.
        unsafe { (self.data.add(offset).cast::<[u8; N]>().read_unaligned(), offset + N) }
    }

    /// Whether the tuple lacks the last attributes of its table. All were found when it was begun, not all in it.
    #[inline(always)]
    pub(super) fn is_old(&self) -> bool {
        self.is_old
    }

    /// Bytes of the values with what lies between them.
    #[inline(always)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// An attribute that was found; None is NULL.
    #[inline]
    pub(super) fn get(&self, attribute: usize) -> Option<*const u8> {
        assert!(attribute < self.found, "an attribute is found before it is read");
        let value = self.values[attribute];
        (!value.is_null()).then_some(value)
    }

    /// Where two rows differ: outside of these offsets their bytes are the same. None when the rows cannot be
    /// compared like this, because other attributes are NULL. Call it before any attribute is found.
    ///
    /// # Safety
    /// Both tuples are alive, and of one layout.
    unsafe fn difference(&self, other: &Row, attributes: usize) -> Option<(usize, usize)> {
        if self.found > 0 || other.found > 0 || self.present.is_null() != other.present.is_null() {
            return None;
        }
        // SAFETY: the data has `size` bytes, the bitmap one bit for each attribute.
        unsafe {
            let bits = |row: &Row| std::slice::from_raw_parts(row.present, attributes.div_ceil(8));
            if !self.present.is_null() && bits(self) != bits(other) {
                return None;
            }
            let a = std::slice::from_raw_parts(self.data, self.size);
            let b = std::slice::from_raw_parts(other.data, other.size);
            let from = common_prefix(a, b);
            let behind =
                if a.len() == b.len() { a.len() - common_suffix(&a[from..], &b[from..]) } else { usize::MAX };
            Some((from, behind))
        }
    }

    /// Calls `each` with the attributes that may differ in two rows, and their values. In both rows attributes are
    /// found at least as far as these.
    ///
    /// # Safety
    /// Both tuples are alive, and were begun with this layout.
    pub(super) unsafe fn compare(
        &mut self,
        other: &mut Row,
        layout: &[Attribute],
        mut each: impl FnMut(usize, *const u8, *const u8),
    ) {
        // SAFETY: the caller vouches for the rows; each has been begun, so it has a place for each attribute.
        unsafe {
            let difference = self.difference(other, layout.len());
            let (from, to) = difference.unwrap_or((0, usize::MAX));
            if self.found > 0 || other.found > 0 {
                // What was found does not say where the next one begins in the other row.
                self.find(layout, layout.len() - 1);
                other.find(layout, layout.len() - 1);
                (0..layout.len()).for_each(|i| each(i, self.values[i], other.values[i]));
                return;
            }
            // Up to the first difference they lie alike.
            let (mut alike, mut offset) = (0, 0);
            while let Some(attribute) = layout.get(alike).filter(|_| offset < from) {
                let (value, behind) = self.at(alike, offset, attribute);
                if behind > from {
                    break;
                }
                let place = value.addr().wrapping_sub(self.data.addr());
                let same = if value.is_null() { value } else { other.data.wrapping_add(place) };
                *self.values.get_unchecked_mut(alike) = value;
                *other.values.get_unchecked_mut(alike) = same;
                (alike, offset) = (alike + 1, behind);
            }
            for row in [&mut *self, &mut *other] {
                (row.found, row.offset) = (alike, offset);
            }
            for (i, attribute) in layout.iter().enumerate().skip(alike) {
                // Behind the last difference, where both have come to the same offset, they lie alike, too.
                if self.offset >= to && self.offset == other.offset {
                    break;
                }
                each(i, self.take(attribute), other.take(attribute));
            }
        }
    }

    /// Finds the next attribute.
    ///
    /// # Safety
    /// As for [`Row::next`]; not all attributes were found.
    #[inline(always)]
    unsafe fn take(&mut self, attribute: &Attribute) -> *const u8 {
        // SAFETY: as the caller vouches; `begin` made a place for each attribute.
        unsafe {
            let (value, behind) = self.next(attribute);
            *self.values.get_unchecked_mut(self.found) = value;
            self.offset = behind;
            self.found += 1;
            value
        }
    }
}

/// Where a by-value datum has its bytes.
fn by_value_bytes(datum: &Datum, len: i16) -> *const u8 {
    let start = if cfg!(target_endian = "big") { size_of::<Datum>() - len as usize } else { 0 };
    std::ptr::from_ref(datum).cast::<u8>().wrapping_add(start)
}

/// Bytes that a stored value takes.
///
/// # Safety
/// `value` points to a stored value of a type with this length.
#[inline]
pub(super) unsafe fn stored_size(value: *const u8, len: i16) -> usize {
    match len {
        // SAFETY: length -1 is a varlena.
        -1 => unsafe { varsize_any(value.cast()) },
        // SAFETY: length -2 is a C string.
        -2 => unsafe { std::ffi::CStr::from_ptr(value.cast()) }.count_bytes() + 1,
        _ => len as usize,
    }
}

/// Bytes that two slices have in common at their beginning, in words: it need not be exact.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    8 * words_a.iter().zip(words_b).take_while(|(a, b)| a == b).count()
}

/// Likewise at their end.
fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_rchunks::<8>().1, b.as_rchunks::<8>().1);
    8 * words_a.iter().rev().zip(words_b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// The command that wrote this row version.
///
/// # Safety
/// The tuple was inserted by the current transaction.
#[inline]
pub unsafe fn written_by(tuple: HeapTuple) -> u32 {
    // SAFETY: the caller vouches for the tuple; combo ids are known to the transaction that made them.
    unsafe { unguarded::HeapTupleHeaderGetCmin((*tuple).t_data) }
}

/// The command of the current transaction that deleted or replaced this row version, if one did.
///
/// # Safety
/// `tuple` is a heap tuple as the trigger manager fetched it.
#[inline(always)]
pub unsafe fn ended_by(tuple: HeapTuple) -> Option<u32> {
    // SAFETY: reads the header.
    unsafe {
        let header = (*tuple).t_data;
        match u32::from((*header).t_infomask) & pg_sys::HEAP_XMAX_INVALID {
            0 => ended_by_xmax(header),
            _ => None,
        }
    }
}

/// The same where some xmax is set.
///
/// # Safety
/// As for [`ended_by`].
unsafe fn ended_by_xmax(header: HeapTupleHeader) -> Option<u32> {
    // SAFETY: reads the header.
    unsafe {
        let mask = u32::from((*header).t_infomask);
        // HEAP_XMAX_IS_LOCKED_ONLY(infomask)
        let locked_only = mask & pg_sys::HEAP_XMAX_LOCK_ONLY != 0
            || mask & (pg_sys::HEAP_XMAX_IS_MULTI | pg_sys::HEAP_LOCK_MASK) == pg_sys::HEAP_XMAX_EXCL_LOCK;
        if locked_only {
            return None;
        }
        // HeapTupleHeaderGetUpdateXid(tup)
        let xmax = if mask & pg_sys::HEAP_XMAX_IS_MULTI != 0 {
            pg_sys::HeapTupleGetUpdateXid(header)
        } else {
            (*header).t_choice.t_heap.t_xmax
        };
        unguarded::TransactionIdIsCurrentTransactionId(xmax)
            .then(|| unguarded::HeapTupleHeaderGetCmax(header))
    }
}
