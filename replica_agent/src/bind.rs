//! Values as they travelled, bound to statements as they are: no value is decoded or copied on its way.
//!
//! In: columns and values of the log. Out: parameters and the types to prepare their statements with.

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use postgres::types::{to_sql_checked, Format, IsNull, Kind, ToSql, Type};

use crate::decode::{Column, Relation, Value};

/// A value; its statement was prepared with the type that it has.
#[derive(Debug)]
pub struct Param<'a> {
    bytes: Value<'a>,
    binary: bool,
}

impl ToSql for Param<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match self.bytes {
            Some(bytes) => {
                out.put_slice(bytes);
                IsNull::No
            }
            None => IsNull::Yes,
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        if self.binary {
            Format::Binary
        } else {
            Format::Text
        }
    }

    to_sql_checked!();
}

/// An array of one dimension in its binary form.
#[derive(Debug)]
pub struct Array(Vec<u8>);

impl Array {
    /// Room for so many elements of that type; `push` has to be called so often.
    pub fn new(element_type: u32, count: usize) -> Self {
        let mut bytes = Vec::with_capacity(20 + count * 12);
        let has_nulls = 1; // allowed, not promised
        for word in [1, has_nulls, element_type, count as u32, 1] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        Array(bytes)
    }

    pub fn push(&mut self, value: Value) {
        put_field(&mut self.0, value);
    }
}

/// A parameter that outlives what it was made from, to be sent without waiting for the answer.
#[derive(Debug)]
pub enum Owned {
    Value { bytes: Option<Box<[u8]>>, binary: bool },
    Array(Array),
    Text(Option<String>),
    Time(Option<Timestamp>),
    Int4(i32),
    Int8(i64),
    Bool(Option<bool>),
    Oids(Vec<u32>),
    Int8s(Vec<i64>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

impl From<&Param<'_>> for Owned {
    fn from(param: &Param) -> Self {
        Owned::Value { bytes: param.bytes.map(Box::from), binary: param.binary }
    }
}

impl ToSql for Owned {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Owned::Value { bytes, binary } => {
                Param { bytes: bytes.as_deref(), binary: *binary }.to_sql(ty, out)
            }
            Owned::Array(array) => array.to_sql(ty, out),
            Owned::Text(text) => text.to_sql(ty, out),
            Owned::Time(time) => time.to_sql(ty, out),
            Owned::Int4(number) => number.to_sql(ty, out),
            Owned::Int8(number) => number.to_sql(ty, out),
            Owned::Bool(truth) => truth.to_sql(ty, out),
            Owned::Oids(oids) => oids.to_sql(ty, out),
            Owned::Int8s(numbers) => numbers.to_sql(ty, out),
            Owned::Bools(bools) => bools.to_sql(ty, out),
            Owned::Texts(texts) => texts.to_sql(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, ty: &Type) -> Format {
        match self {
            Owned::Value { bytes, binary } => {
                Param { bytes: bytes.as_deref(), binary: *binary }.encode_format(ty)
            }
            _ => Format::Binary,
        }
    }

    to_sql_checked!();
}

/// A value with its length before it, as arrays and COPY have it.
pub fn put_field(out: &mut Vec<u8>, value: Value) {
    match value {
        Some(bytes) => {
            out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        None => out.extend_from_slice(&u32::MAX.to_be_bytes()),
    }
}

impl ToSql for Array {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A type by its oid.
pub fn type_of(oid: u32) -> Type {
    Type::from_oid(oid)
        .unwrap_or_else(|| Type::new(format!("type {oid}"), oid, Kind::Simple, "pg_catalog".to_owned()))
}

/// The type under which a value is bound: the master's, so that the server casts it as in an assignment; or left
/// to the server, which takes the column's.
pub fn param_type(column: &Column) -> Type {
    match column.type_oid {
        0 => Type::UNKNOWN,
        oid => type_of(oid),
    }
}

/// Parameters for the key and then the other columns of a relation.
pub fn params<'a>(relation: &Relation, numbers: [&[usize]; 2], values: [&[Value<'a>]; 2]) -> Vec<Param<'a>> {
    let binary = |n: usize| relation.columns[n].as_ref().is_some_and(|c| c.binary);
    let param = |(&n, &bytes): (&usize, &Value<'a>)| Param { bytes, binary: binary(n) };
    let [key, set] = [0, 1].map(|i| numbers[i].iter().zip(values[i]).map(param));
    key.chain(set).collect()
}

/// As the client wants them.
pub fn as_dyn<'p>(params: &'p [Param<'p>]) -> Vec<&'p (dyn ToSql + Sync)> {
    params.iter().map(|p| p as &(dyn ToSql + Sync)).collect()
}
