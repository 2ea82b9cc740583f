//! All columns of a row as the log has them, written in one walk over the tuple: what an INSERT is made of.
//!
//! The usual types are written without a look at the room that is left, since no value grows by more than its header;
//! the others by their encoders (`types`).

use pgrx::pg_sys;

use super::tuple::{Attribute, Row};
use super::types::Encoder;

/// How this walk writes an attribute.
#[derive(Clone, Copy)]
pub enum Form {
    /// Not at all.
    LeftOut,
    /// Of so many bytes, to which it is aligned; in network order.
    One,
    Two,
    Four,
    Eight,
    /// A varlena whose bytes stand for themselves.
    Bytes,
    /// By its encoder.
    Other,
}

impl Form {
    pub fn of(encoder: &Encoder, len: i16, align: usize) -> Form {
        match (encoder, len, align) {
            (Encoder::ByValue1, 1, 0) => Form::One,
            (Encoder::ByValue2, 2, 1) => Form::Two,
            (Encoder::ByValue4, 4, 3) => Form::Four,
            (Encoder::ByValue8, 8, 7) => Form::Eight,
            (Encoder::Bytes, -1, _) => Form::Bytes,
            _ => Form::Other,
        }
    }
}

const NULL: u8 = 0;
/// What a value has besides its bytes: a varint of 32 bits.
const HEADER_MAX: usize = 5;

/// Appends all values of a row; `other` those whose form is that, by the number of the attribute. False when the tuple
/// is older than the last attributes of its table: nothing was written.
///
/// # Safety
/// The tuple of `row` is alive, and was begun with this layout, which says how its attributes are stored.
pub(super) unsafe fn write(
    row: &Row,
    layout: &[Attribute],
    out: &mut Vec<u8>,
    mut other: impl FnMut(usize, *const u8, &mut Vec<u8>),
) -> bool {
    if row.is_old() {
        return false;
    }
    // No two values share a byte of the tuple.
    let room = row.size() + layout.len() * HEADER_MAX;
    out.reserve(room);
    let mut offset = 0;
    // SAFETY: the caller vouches for the tuple. `to` stays within the room that was reserved, of which each value
    // takes its own bytes and a header; what `other` writes comes besides.
    unsafe {
        let mut to = end(out);
        for (i, attribute) in layout.iter().enumerate() {
            if row.is_null(i) {
                if !matches!(attribute.form, Form::LeftOut) {
                    to.write(NULL);
                    to = to.add(1);
                }
                continue;
            }
            match attribute.form {
                Form::One => (to, offset) = fixed(to, row.fixed_at::<1>(offset)),
                Form::Two => (to, offset) = fixed(to, row.fixed_at::<2>(offset)),
                Form::Four => (to, offset) = fixed(to, row.fixed_at::<4>(offset)),
                Form::Eight => (to, offset) = fixed(to, row.fixed_at::<8>(offset)),
                Form::LeftOut => (_, offset) = row.present_at(offset, attribute),
                Form::Bytes | Form::Other => {
                    let value;
                    (value, offset) = row.present_at(offset, attribute);
                    if matches!(attribute.form, Form::Bytes) && is_plain(value) {
                        to = bytes(to, value);
                    } else {
                        set_end(out, to);
                        other(i, value, out);
                        out.reserve(room);
                        to = end(out);
                    }
                }
            }
        }
        set_end(out, to);
    }
    true
}

/// Hands through the offset behind the value.
///
/// # Safety
/// There is room for the bytes and a header at `to`.
#[inline(always)]
unsafe fn fixed<const N: usize>(to: *mut u8, (mut bytes, behind): ([u8; N], usize)) -> (*mut u8, usize) {
    if cfg!(target_endian = "little") {
        bytes.reverse();
    }
    // SAFETY: the caller vouches for the room.
    unsafe {
        to.write(N as u8 + 1);
        to.add(1).cast::<[u8; N]>().write_unaligned(bytes);
        (to.add(1 + N), behind)
    }
}

/// Whether a varlena stands as it is in the tuple.
///
/// # Safety
/// `value` points to a varlena.
#[inline(always)]
unsafe fn is_plain(value: *const u8) -> bool {
    let varlena = value.cast_mut().cast::<pg_sys::varlena>();
    // SAFETY: the caller vouches for it.
    unsafe {
        pgrx::varlena::varatt_is_1b(varlena) && !pgrx::varlena::varatt_is_1b_e(varlena)
            || pgrx::varlena::varatt_is_4b_u(varlena)
    }
}

/// # Safety
/// `value` points to a plain varlena; there is room for its bytes and a header at `to`.
#[inline(always)]
unsafe fn bytes(mut to: *mut u8, value: *const u8) -> *mut u8 {
    // SAFETY: the caller vouches for both.
    unsafe {
        let bytes = pgrx::varlena::varlena_to_byte_slice(value.cast());
        let mut header = bytes.len() + 1;
        while header >= 0x80 {
            to.write(header as u8 | 0x80);
            to = to.add(1);
            header >>= 7;
        }
        to.write(header as u8);
        to = to.add(1);
        to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        to.add(bytes.len())
    }
}

/// Where the next byte of a vector goes.
fn end(out: &mut Vec<u8>) -> *mut u8 {
    out.spare_capacity_mut().as_mut_ptr().cast()
}

/// # Safety
/// All up to `to`, which is in the vector's memory or at its end, was written.
unsafe fn set_end(out: &mut Vec<u8>, to: *mut u8) {
    // SAFETY: the caller vouches for it.
    unsafe { out.set_len(to.offset_from_unsigned(out.as_ptr())) }
}
