//! Values to and from PostgreSQL's binary forms.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::super::{Row, Value};

type AnyError = Box<dyn Error + Sync + Send>;

/// All columns of a row.
pub(super) fn row(row: &tokio_postgres::Row) -> Result<Row, tokio_postgres::Error> {
    (0..row.len()).map(|column| row.try_get(column)).collect::<Result<_, _>>().map(Row)
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        match (self, ty) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Int(value), &Type::INT8) => value.to_sql(ty, out),
            (Self::Int(value), &Type::INT4) => i32::try_from(*value)?.to_sql(ty, out),
            (Self::Int(value), &Type::INT2) => i16::try_from(*value)?.to_sql(ty, out),
            (Self::Int(value), &Type::NUMERIC) => {
                numeric::write(*value, out);
                Ok(IsNull::No)
            }
            (Self::Text(text), ty) if <&str as ToSql>::accepts(ty) => text.to_sql(ty, out),
            (Self::Bytes(bytes), &Type::BYTEA) => bytes.to_sql(ty, out),
            (value, ty) => Err(format!("{} is given for {ty}", value.kind()).into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// What stands for a placeholder of an INSERT.
#[derive(Debug)]
pub(super) enum Parameter<'v> {
    /// A value of the one row.
    One(&'v Value),
    /// The values of all rows in a column.
    List(Vec<&'v Value>),
}

impl ToSql for Parameter<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        match self {
            Self::One(value) => value.to_sql(ty, out),
            Self::List(values) => values.to_sql(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, AnyError> {
        Ok(match *ty {
            Type::INT8 => Self::Int(i64::from_sql(ty, raw)?),
            Type::INT4 => Self::Int(i32::from_sql(ty, raw)?.into()),
            Type::INT2 => Self::Int(i16::from_sql(ty, raw)?.into()),
            Type::BOOL => Self::Int(bool::from_sql(ty, raw)?.into()),
            Type::NUMERIC => Self::Int(numeric::read(raw)?),
            Type::BYTEA => Self::Bytes(raw.to_vec()),
            _ if <&str as FromSql<'_>>::accepts(ty) => Self::Text(String::from_sql(ty, raw)?),
            _ => return Err(format!("there is no {ty} here").into()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, AnyError> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Whole numbers as NUMERIC, the type of PostgreSQL's sums: digits to the base 10,000 after how
/// many there are, the power of the first, the sign and the decimals (numeric.c, `numeric_recv`).
mod numeric {
    use super::{AnyError, BytesMut};

    const BASE: i128 = 10_000;
    const NEGATIVE: u16 = 0x4000;

    pub(super) fn write(value: i64, out: &mut BytesMut) {
        let mut digits = Vec::with_capacity(5);
        let mut left = value.unsigned_abs();
        while left > 0 {
            digits.push((left % BASE as u64) as u16);
            left /= BASE as u64;
        }
        let count = digits.len() as u16;
        let sign = if value < 0 { NEGATIVE } else { 0 };
        for word in [count, count.saturating_sub(1), sign, 0] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        for digit in digits.iter().rev() {
            out.extend_from_slice(&digit.to_be_bytes());
        }
    }

    pub(super) fn read(raw: &[u8]) -> Result<i64, AnyError> {
        let words: Vec<u16> =
            raw.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        let [count, weight, sign, _, digits @ ..] = &words[..] else {
            return Err("a NUMERIC is cut short".into());
        };
        let weight = i32::from(weight.cast_signed());
        if digits.len() != usize::from(*count) || weight > 4 || *sign & !NEGATIVE != 0 {
            return Err("a NUMERIC is not a number of 64 bits".into());
        }
        let mut value = 0_i128;
        for place in 0..=weight.max(i32::from(*count) - 1) {
            let digit = usize::try_from(place).ok().and_then(|place| digits.get(place));
            match digit.copied().unwrap_or(0) {
                0 if place > weight => {}
                _ if place > weight => return Err("a NUMERIC is not whole".into()),
                digit => value = value * BASE + i128::from(digit),
            }
        }
        Ok(i64::try_from(if *sign == NEGATIVE { -value } else { value })?)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn whole_numbers_there_and_back() {
            for value in [0, 1, -1, 9_999, 10_000, -10_000, 123_456_789, i64::MAX, i64::MIN] {
                let mut out = BytesMut::new();
                write(value, &mut out);
                assert_eq!(read(&out).unwrap(), value);
            }
        }

        #[test]
        fn what_is_no_integer_is_refused() {
            let raw = |words: &[u16]| -> Vec<u8> {
                words.iter().flat_map(|word| word.to_be_bytes()).collect()
            };
            let check = |words: &[u16], expected: Option<i64>| {
                assert_eq!(read(&raw(words)).ok(), expected, "{words:?}");
            };
            check(&[1, 0, 0, 0, 7], Some(7));
            check(&[1, 1, 0, 0, 7], Some(70_000));
            check(&[1, 2, NEGATIVE, 0, 7], Some(-700_000_000));
            check(&[2, 0, 0, 2, 7, 0], Some(7));
            check(&[2, 0, 0, 2, 7, 5000], None);
            check(&[1, 0xffff, 0, 2, 5000], None);
            check(&[5, 4, 0, 0, 922, 3372, 368, 5477, 5808], None);
            check(&[1, 5, 0, 0, 1], None);
            check(&[0, 0, 0xc000, 0], None);
            check(&[2, 0, 0, 0, 7], None);
            check(&[0, 0, 0], None);
        }
    }
}
