//! Values to bytes: which wire form a type has, and how to write it.

use std::borrow::Cow;
use std::cell::UnsafeCell;
use std::ffi::CStr;

use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::varlena::{varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u, varlena_to_byte_slice};

use super::tuple::stored_size;
use crate::encode;

/// How the values of a column are written.
pub enum Encoder {
    /// Passed by value; the low bytes in network order.
    ByValue1,
    ByValue2,
    ByValue4,
    ByValue8,
    /// uuid
    Bytes16,
    Interval,
    /// A varlena whose bytes stand for themselves: bytea, and text that needs no conversion.
    Bytes,
    /// A varlena of text in the database's encoding.
    Text,
    Name,
    /// By the type's send function.
    Send(Stored, FunctionInfo),
    /// By the type's output function; `pinned` when its text depends on settings.
    Output {
        stored: Stored,
        function: FunctionInfo,
        pinned: bool,
    },
}

/// How a value becomes a datum.
#[derive(Clone, Copy)]
pub struct Stored {
    len: i16,
    by_value: bool,
}

/// What PostgreSQL knows of a function, and the function's own cache; it writes there when called.
pub type FunctionInfo = Box<UnsafeCell<pg_sys::FmgrInfo>>;

/// The wire form of a type.
pub struct WireType {
    pub encoder: Encoder,
    /// As the column message says it: 0 when the type has no oid that every server knows.
    pub oid: u32,
    pub binary: bool,
}

/// Oids below this are assigned by hand and the same in every server (access/transam.h).
const FIRST_GENBKI_OBJECT_ID: u32 = 10000;

/// Built-in types whose send function writes no text, no oids, and the same in every server.
fn has_portable_send(oid: Oid) -> bool {
    use pg_sys::*;
    matches!(
        oid,
        NUMERICOID
            | TIMETZOID
            | INETOID
            | CIDROID
            | MACADDROID
            | MACADDR8OID
            | BITOID
            | VARBITOID
            | POINTOID
            | LSEGOID
            | PATHOID
            | BOXOID
            | POLYGONOID
            | LINEOID
            | CIRCLEOID
            | TIDOID
            | PG_SNAPSHOTOID
            | TXID_SNAPSHOTOID
            | INT2VECTOROID
            | OIDVECTOROID
    )
}

/// By-value types and their like, written here without a call.
fn inline_encoder(oid: Oid) -> Option<Encoder> {
    use pg_sys::*;
    Some(match oid {
        BOOLOID | CHAROID => Encoder::ByValue1,
        INT2OID => Encoder::ByValue2,
        INT4OID | OIDOID | XIDOID | CIDOID | FLOAT4OID | DATEOID => Encoder::ByValue4,
        INT8OID | XID8OID | FLOAT8OID | TIMEOID | TIMESTAMPOID | TIMESTAMPTZOID | MONEYOID | PG_LSNOID => {
            Encoder::ByValue8
        }
        UUIDOID => Encoder::Bytes16,
        INTERVALOID => Encoder::Interval,
        BYTEAOID => Encoder::Bytes,
        TEXTOID | VARCHAROID | BPCHAROID | JSONOID => Encoder::Text,
        NAMEOID => Encoder::Name,
        _ => return None,
    })
}

fn is_text(encoder: &Encoder) -> bool {
    matches!(encoder, Encoder::Text | Encoder::Name)
}

/// Whether arrays and ranges of the type can be sent in binary: they call its send function, which for text
/// would convert to the encoding of the writer's client.
fn is_portable_element(oid: Oid) -> bool {
    match inline_encoder(oid) {
        Some(encoder) => !is_text(&encoder),
        None => has_portable_send(oid),
    }
}

/// Text of these depends on no setting, nor does that of enums and of arrays of them.
fn has_constant_text(oid: Oid) -> bool {
    use pg_sys::*;
    let constant = matches!(
        oid,
        TEXTOID | VARCHAROID | BPCHAROID | JSONOID | JSONBOID | JSONPATHOID | XMLOID | NAMEOID | TSVECTOROID
    );
    // SAFETY: looks the oid up in the system cache; an unknown one gives false.
    constant || unsafe { pg_sys::type_is_enum(oid) }
}

/// The wire form of a type; function call data lives in `context`, which must outlive the result.
pub fn wire_type(oid: Oid, len: i16, by_value: bool, context: pg_sys::MemoryContext) -> WireType {
    let stored = Stored { len, by_value };
    // SAFETY: system cache look-ups by oid of a type that an existing column has.
    let (base, element, subtype) = unsafe {
        let base = pg_sys::getBaseType(oid);
        let range = match pg_sys::get_multirange_range(base) {
            pg_sys::InvalidOid => base,
            range => range,
        };
        (base, pg_sys::get_element_type(base), pg_sys::get_range_subtype(range))
    };
    let known = base.to_u32() < FIRST_GENBKI_OBJECT_ID;
    let inner = if element != pg_sys::InvalidOid { element } else { subtype };
    if let Some(encoder) = inline_encoder(base) {
        let encoder = match encoder {
            Encoder::Text if needs_no_conversion() => Encoder::Bytes,
            encoder => encoder,
        };
        return WireType { encoder, oid: base.to_u32(), binary: true };
    }
    let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
    if known && (has_portable_send(base) || inner != pg_sys::InvalidOid && is_portable_element(inner)) {
        // SAFETY: two out parameters; the type exists.
        unsafe { pg_sys::getTypeBinaryOutputInfo(base, &mut function, &mut is_varlena) };
        return WireType {
            encoder: Encoder::Send(stored, function_info(function, context)),
            oid: base.to_u32(),
            binary: true,
        };
    }
    // SAFETY: two out parameters; the type exists.
    unsafe { pg_sys::getTypeOutputInfo(base, &mut function, &mut is_varlena) };
    let pinned = !(has_constant_text(base) || inner != pg_sys::InvalidOid && has_constant_text(inner));
    WireType {
        encoder: Encoder::Output { stored, function: function_info(function, context), pinned },
        oid: if known { base.to_u32() } else { 0 },
        binary: false,
    }
}

fn function_info(function: Oid, context: pg_sys::MemoryContext) -> FunctionInfo {
    let info = FunctionInfo::default();
    // SAFETY: the box does not move its content; what the function caches goes to `context`.
    unsafe { pg_sys::fmgr_info_cxt(function, info.get(), context) };
    info
}

impl Encoder {
    /// Appends a value that is not NULL.
    ///
    /// # Safety
    /// `value` points to a stored value of the type that this encoder was made for.
    #[inline(always)]
    pub unsafe fn write(&self, value: *const u8, out: &mut Vec<u8>) {
        // SAFETY: the caller vouches for the value, whose length its type has. Interval is time, day, month.
        unsafe {
            match self {
                Encoder::ByValue1 => encode::fixed(out, [*value]),
                Encoder::ByValue2 => encode::fixed(out, value.cast::<u16>().read_unaligned().to_be_bytes()),
                Encoder::ByValue4 => encode::fixed(out, value.cast::<u32>().read_unaligned().to_be_bytes()),
                Encoder::ByValue8 => encode::fixed(out, value.cast::<u64>().read_unaligned().to_be_bytes()),
                Encoder::Bytes => with_varlena(value, |bytes| encode::value(out, bytes)),
                _ => self.write_rare(value, out),
            }
        }
    }

    /// # Safety
    /// As for [`Encoder::write`].
    unsafe fn write_rare(&self, value: *const u8, out: &mut Vec<u8>) {
        // SAFETY: as above; a uuid has 16 bytes, a name is a C string; functions get what they were made for.
        unsafe {
            match self {
                Encoder::Bytes16 => encode::fixed(out, value.cast::<[u8; 16]>().read_unaligned()),
                Encoder::Interval => {
                    let interval = value.cast::<pg_sys::Interval>().read_unaligned();
                    let mut wire = [0; 16];
                    wire[..8].copy_from_slice(&interval.time.to_be_bytes());
                    wire[8..12].copy_from_slice(&interval.day.to_be_bytes());
                    wire[12..].copy_from_slice(&interval.month.to_be_bytes());
                    encode::fixed(out, wire);
                }
                Encoder::Text => with_varlena(value, |bytes| encode::value(out, &to_utf8(bytes))),
                Encoder::Name => encode::value(out, &to_utf8(CStr::from_ptr(value.cast()).to_bytes())),
                Encoder::Send(stored, function) => {
                    let sent = pg_sys::SendFunctionCall(function.get(), stored.datum(value));
                    with_varlena(sent.cast(), |bytes| encode::value(out, bytes));
                }
                Encoder::Output { stored, function, .. } => {
                    let text = pg_sys::OutputFunctionCall(function.get(), stored.datum(value));
                    encode::value(out, &to_utf8(CStr::from_ptr(text).to_bytes()));
                }
                _ => unreachable!("written by Encoder::write"),
            }
        }
    }

    /// Whether the session's settings must be pinned while this encoder writes.
    pub fn is_pinned(&self) -> bool {
        matches!(self, Encoder::Output { pinned: true, .. })
    }
}

impl Stored {
    /// # Safety
    /// `value` points to a stored value of this length.
    unsafe fn datum(self, value: *const u8) -> Datum {
        // SAFETY: the caller vouches for it; as fetch_att does.
        unsafe {
            match (self.by_value, self.len) {
                (false, _) => Datum::from(value),
                (true, 1) => Datum::from(*value),
                (true, 2) => Datum::from(value.cast::<i16>().read_unaligned()),
                (true, 4) => Datum::from(value.cast::<i32>().read_unaligned()),
                (true, _) => Datum::from(value.cast::<i64>().read_unaligned()),
            }
        }
    }
}

/// Hands the bytes of a varlena to `f`, fetched and decompressed if need be.
///
/// # Safety
/// `value` points to a varlena.
#[inline]
unsafe fn with_varlena(value: *const u8, f: impl FnOnce(&[u8])) {
    let stored = value.cast_mut().cast::<pg_sys::varlena>();
    // SAFETY: the caller vouches for the varlena; what detoasting allocates is in the per-tuple context of
    // the trigger, but may be large, so it is freed at once.
    unsafe {
        if varatt_is_1b(stored) && !varatt_is_1b_e(stored) || varatt_is_4b_u(stored) {
            return f(varlena_to_byte_slice(stored));
        }
        let plain = pg_sys::pg_detoast_datum_packed(stored);
        f(varlena_to_byte_slice(plain));
        if plain != stored {
            pg_sys::pfree(plain.cast());
        }
    }
}

/// Whether the stored images of two values that are not NULL are the same; where one lies in a TOAST table no
/// value is fetched when both are the same one.
///
/// # Safety
/// Both point to stored values of a type with this length.
#[inline(always)]
pub unsafe fn same_image(a: *const u8, b: *const u8, len: i16) -> bool {
    // SAFETY: the caller vouches for the values. Of a size known when compiling: most are.
    unsafe {
        match len {
            8 => a.cast::<u64>().read_unaligned() == b.cast::<u64>().read_unaligned(),
            4 => a.cast::<u32>().read_unaligned() == b.cast::<u32>().read_unaligned(),
            _ => same_image_of_any(a, b, len),
        }
    }
}

/// # Safety
/// As for [`same_image`].
#[inline(never)]
unsafe fn same_image_of_any(a: *const u8, b: *const u8, len: i16) -> bool {
    // SAFETY: the caller vouches for the values. The whole image is compared, a varlena with its header: for values
    // in a TOAST table that is the pointer to it. Only varlenas have several images of one value.
    unsafe {
        let (size_a, size_b) = (stored_size(a, len), stored_size(b, len));
        let same = size_a == size_b
            && std::slice::from_raw_parts(a, size_a) == std::slice::from_raw_parts(b, size_b);
        if same || len != -1 {
            return same;
        }
        if pg_sys::toast_raw_datum_size(Datum::from(a)) != pg_sys::toast_raw_datum_size(Datum::from(b)) {
            return false;
        }
        let mut same = false;
        with_varlena(a, |a| with_varlena(b, |b| same = a == b));
        same
    }
}

/// Whether text of the database is written as it is: in UTF-8, or of no known encoding.
fn needs_no_conversion() -> bool {
    // SAFETY: reads the encoding of the database.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    encoding == pg_sys::pg_enc::PG_UTF8 as i32 || encoding == pg_sys::pg_enc::PG_SQL_ASCII as i32
}

/// Text of the database's encoding as UTF-8.
pub fn to_utf8(text: &[u8]) -> Cow<'_, [u8]> {
    if needs_no_conversion() {
        return Cow::Borrowed(text);
    }
    // SAFETY: converts to a palloc'd C string, which is copied.
    unsafe {
        let encoding = pg_sys::GetDatabaseEncoding();
        let converted = pg_sys::pg_do_encoding_conversion(
            text.as_ptr().cast_mut(),
            text.len() as i32,
            encoding,
            pg_sys::pg_enc::PG_UTF8 as i32,
        );
        if std::ptr::eq(converted, text.as_ptr()) {
            return Cow::Borrowed(text);
        }
        let copy = CStr::from_ptr(converted.cast()).to_bytes().to_vec();
        pg_sys::pfree(converted.cast());
        Cow::Owned(copy)
    }
}

/// UTF-8 text in the database's encoding.
pub fn from_utf8(text: &[u8]) -> Vec<u8> {
    // SAFETY: as in `to_utf8`, the other way.
    unsafe {
        let encoding = pg_sys::GetDatabaseEncoding();
        let converted = pg_sys::pg_do_encoding_conversion(
            text.as_ptr().cast_mut(),
            text.len() as i32,
            pg_sys::pg_enc::PG_UTF8 as i32,
            encoding,
        );
        if std::ptr::eq(converted, text.as_ptr()) {
            return text.to_vec();
        }
        CStr::from_ptr(converted.cast()).to_bytes().to_vec()
    }
}

/// A value of the log as the text that its type's output function gives. `binary` values are received first.
pub fn text_of(type_oid: u32, binary: bool, bytes: &[u8]) -> Vec<u8> {
    if !binary || type_oid == 0 {
        return from_utf8(bytes);
    }
    let oid = Oid::from(type_oid);
    if inline_encoder(oid).as_ref().is_some_and(is_text) {
        return from_utf8(bytes);
    }
    let (mut receive, mut io_param, mut output, mut is_varlena) =
        (pg_sys::InvalidOid, pg_sys::InvalidOid, pg_sys::InvalidOid, false);
    // SAFETY: the receive function checks what it reads from the buffer, which is a copy with the terminating
    // zero that StringInfo promises; the output function gets what it made.
    unsafe {
        pg_sys::getTypeBinaryInputInfo(oid, &mut receive, &mut io_param);
        pg_sys::getTypeOutputInfo(oid, &mut output, &mut is_varlena);
        let mut copy = Vec::with_capacity(bytes.len() + 1);
        copy.extend_from_slice(bytes);
        copy.push(0);
        let mut buffer = pg_sys::StringInfoData {
            data: copy.as_mut_ptr().cast(),
            len: bytes.len() as i32,
            maxlen: copy.len() as i32,
            cursor: 0,
        };
        let value = pg_sys::OidReceiveFunctionCall(receive, &mut buffer, io_param, -1);
        CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, value)).to_bytes().to_vec()
    }
}
