//! Encodings of keys that keep their order.
//!
//! Each is *self-delimiting*, so that components can follow each other, but for byte strings and
//! strings at the very end of a key: those stand as they are, and a key that is one string is just
//! its bytes.
//!
//! Integers are big-endian, of signed ones the sign is flipped. Floats are ordered as by
//! `total_cmp`: of a negative one all bits are flipped, of a positive one the sign is, so that the
//! order is that of the bits.
//!
//! ```text
//! 1u32                   00 00 00 01           "ab" at the end         61 62
//! -1i16                  7f ff                 "ab" before another     61 62 00 01
//! 1.0f32                 bf 80 00 00           "a\0" before another    61 00 ff 00 01
//! -1.0f32                40 7f ff ff           "" before another       00 01
//! false, true            00, 01                None, Some(7u8)         00, 01 07
//! ```
//!
//! Why `00 01`: it ends a string below any byte that could follow in a longer one, also below the
//! `00 ff` that stands for a zero byte.

use terrace_base::{Error, Result};

/// Where in a key a component stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Others follow: the encoding must say where it ends.
    Inside,
    /// It is the last or the only one: the key's end is its end.
    Last,
}

/// What can be a key of a [`Typed`](crate::Typed): the bytes that it is encoded to are ordered as
/// the values are.
///
/// | Type | Bytes |
/// |---|---|
/// | `u8` to `u128` | big-endian |
/// | `i8` to `i128` | big-endian, the highest bit flipped |
/// | `bool` | `00` or `01` |
/// | `f32`, `f64` | the bits big-endian: all flipped if negative, else the highest one; as `total_cmp` has it -NaN < -inf < -1 < -0 < 0 < 1 < inf < NaN, and each NaN and both zeroes are keys of their own |
/// | `String`, `Vec<u8>` | last in a key: their bytes; else each zero byte as `00 ff`, and `00 01` behind them |
/// | `Option<K>` | `00`, or `01` and the key |
/// | tuples of 1 to 6 | one after another |
///
/// It may be implemented for types of one's own, best by encoding them as one of these:
///
/// ```
/// use terrace::{Key, Place, Result};
///
/// #[derive(Debug, PartialEq)]
/// struct UserId(u64);
///
/// impl Key for UserId {
///     fn encode(&self, place: Place, out: &mut Vec<u8>) {
///         self.0.encode(place, out);
///     }
///     fn decode(place: Place, bytes: &mut &[u8]) -> Result<UserId> {
///         u64::decode(place, bytes).map(UserId)
///     }
/// }
/// let key = (UserId(1), "a\0b".to_string(), 2u8);
/// assert_eq!(key.to_bytes(), b"\0\0\0\0\0\0\0\x01a\0\xffb\0\x01\x02");
/// assert_eq!(UserId::from_bytes(&[0, 0, 0, 0, 0, 0, 1, 0])?, UserId(256));
/// # Ok::<(), terrace::Error>(())
/// ```
pub trait Key: Sized {
    /// Appends the encoding.
    fn encode(&self, place: Place, out: &mut Vec<u8>);

    /// Takes a value off the front of `bytes`; what is last takes all.
    ///
    /// # Errors
    /// `Invalid` if no value encodes to that.
    fn decode(place: Place, bytes: &mut &[u8]) -> Result<Self>;

    /// The bytes of the key as a whole, as [`Typed`](crate::Typed) stores it.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(Place::Last, &mut out);
        out
    }

    /// The reverse of [`Key::to_bytes`].
    ///
    /// # Errors
    /// `Invalid` if no value encodes to that.
    fn from_bytes(mut bytes: &[u8]) -> Result<Self> {
        let key = Self::decode(Place::Last, &mut bytes)?;
        match bytes {
            [] => Ok(key),
            _ => Err(wrong("bytes follow it")),
        }
    }
}

/// Keys do not belong into messages.
#[cold]
fn wrong(what: &str) -> Error {
    Error::invalid(format!("a key is not of the type asked for: {what}"))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (first, rest) = bytes
        .split_first_chunk::<N>()
        .ok_or_else(|| wrong("it is too short"))?;
    *bytes = rest;
    Ok(*first)
}

macro_rules! unsigned {
    ($($type:ty)*) => {$(
        impl Key for $type {
            fn encode(&self, _: Place, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn decode(_: Place, bytes: &mut &[u8]) -> Result<$type> {
                take(bytes).map(<$type>::from_be_bytes)
            }
        }
    )*};
}

/// Types that are encoded as another of their size is.
macro_rules! as_other {
    ($($type:ty as $other:ty: |$value:ident| $encode:expr, |$bits:ident| $decode:expr;)*) => {$(
        impl Key for $type {
            fn encode(&self, place: Place, out: &mut Vec<u8>) {
                let $value = *self;
                Key::encode(&$encode, place, out);
            }

            fn decode(place: Place, bytes: &mut &[u8]) -> Result<$type> {
                let $bits = <$other>::decode(place, bytes)?;
                Ok($decode)
            }
        }
    )*};
}

unsigned!(u8 u16 u32 u64 u128);

as_other! {
    i8 as u8: |n| n as u8 ^ (1 << 7), |n| (n ^ (1 << 7)) as i8;
    i16 as u16: |n| n as u16 ^ (1 << 15), |n| (n ^ (1 << 15)) as i16;
    i32 as u32: |n| n as u32 ^ (1 << 31), |n| (n ^ (1 << 31)) as i32;
    i64 as u64: |n| n as u64 ^ (1 << 63), |n| (n ^ (1 << 63)) as i64;
    i128 as u128: |n| n as u128 ^ (1 << 127), |n| (n ^ (1 << 127)) as i128;
    // Of a float that is not negative, the integer of the same bits is ordered as it is; of a
    // negative one the other way round, but for the sign.
    f32 as i32: |x| reversed_32(x.to_bits() as i32), |n| f32::from_bits(reversed_32(n) as u32);
    f64 as i64: |x| reversed_64(x.to_bits() as i64), |n| f64::from_bits(reversed_64(n) as u64);
}

/// All bits but the sign flipped if it is negative; its own reverse.
fn reversed_32(n: i32) -> i32 {
    n ^ ((n >> 31) as u32 >> 1) as i32
}

fn reversed_64(n: i64) -> i64 {
    n ^ ((n >> 63) as u64 >> 1) as i64
}

impl Key for bool {
    fn encode(&self, _: Place, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn decode(_: Place, bytes: &mut &[u8]) -> Result<bool> {
        match take(bytes)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(wrong("a truth value is neither 0 nor 1")),
        }
    }
}

impl<K: Key> Key for Option<K> {
    fn encode(&self, place: Place, out: &mut Vec<u8>) {
        self.is_some().encode(Place::Inside, out);
        if let Some(key) = self {
            key.encode(place, out);
        }
    }

    fn decode(place: Place, bytes: &mut &[u8]) -> Result<Option<K>> {
        match bool::decode(Place::Inside, bytes)? {
            true => K::decode(place, bytes).map(Some),
            false => Ok(None),
        }
    }
}

impl Key for Vec<u8> {
    fn encode(&self, place: Place, out: &mut Vec<u8>) {
        encode_bytes(self, place, out);
    }

    fn decode(place: Place, bytes: &mut &[u8]) -> Result<Vec<u8>> {
        if place == Place::Last {
            return Ok(std::mem::take(bytes).to_vec());
        }
        let mut out = Vec::new();
        loop {
            match take(bytes)? {
                [0] => match take(bytes)? {
                    [ZERO] => out.push(0),
                    [END] => return Ok(out),
                    _ => return Err(wrong("a string has an unknown escape")),
                },
                [byte] => out.push(byte),
            }
        }
    }
}

impl Key for String {
    fn encode(&self, place: Place, out: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), place, out);
    }

    fn decode(place: Place, bytes: &mut &[u8]) -> Result<String> {
        String::from_utf8(Vec::decode(place, bytes)?).map_err(|_| wrong("a string is not UTF-8"))
    }
}

/// Behind a zero byte: it was one.
const ZERO: u8 = 0xff;
/// Behind a zero byte: the string ends.
const END: u8 = 1;

fn encode_bytes(bytes: &[u8], place: Place, out: &mut Vec<u8>) {
    if place == Place::Last {
        out.extend_from_slice(bytes);
        return;
    }
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(ZERO);
        }
    }
    out.extend_from_slice(&[0, END]);
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
