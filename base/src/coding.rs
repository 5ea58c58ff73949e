//! Numbers on disk: fixed-width little-endian, or LEB128 where most are small; and the bounded
//! reader.
//!
//! A [`Decoder`] never reads past its input, never allocates, and answers every malformed input
//! with `Corruption`; callers add file and offset with [`Error::in_file`].
#![deny(clippy::indexing_slicing)]

use crate::error::{Error, Result};

/// Longest encoding of a varint.
pub const MAX_VARINT_LEN: usize = 10;

/// Appends `n` as LEB128: 7 bits a byte, low bits first, high bit set on all bytes but the last.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends the length of `bytes` as a varint, then `bytes`.
#[inline]
pub fn put_slice(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends `n` as 4 little-endian bytes.
#[inline]
pub fn put_u32(out: &mut Vec<u8>, n: u32) {
    out.extend_from_slice(&n.to_le_bytes());
}

/// Appends `n` as 8 little-endian bytes.
#[inline]
pub fn put_u64(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

/// The next multiple of 8 at or above `n`.
#[inline]
pub const fn align8(n: u64) -> u64 {
    n.wrapping_add(7) & !7
}

/// Reads values off the front of a byte slice, with every bound checked.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Reads from `bytes`.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { rest: bytes }
    }

    /// What has not been read yet.
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// True when everything has been read.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes.
    #[inline]
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(n) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(Error::corruption(format!(
                "{n} bytes are wanted where {} are left",
                self.rest.len()
            ))),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.rest.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(*taken)
            }
            None => Err(Error::corruption(format!(
                "{N} bytes are wanted where {} are left",
                self.rest.len()
            ))),
        }
    }

    /// The next byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// The next 2 bytes, little-endian.
    #[inline]
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next 4 bytes, little-endian.
    #[inline]
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next 8 bytes, little-endian.
    #[inline]
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The next varint. An encoding longer than needed is malformed, so each number has one form.
    #[inline]
    pub fn varint(&mut self) -> Result<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if (shift == 63 && bits > 1) || (byte == 0 && shift > 0) {
                break;
            }
            n |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(Error::corruption("malformed varint"))
    }

    /// The next varint as a length or count that fits `usize`.
    #[inline]
    pub fn varint_usize(&mut self) -> Result<usize> {
        usize::try_from(self.varint()?).map_err(|_| Error::corruption("a length is out of range"))
    }

    /// The next varint as a `u32`.
    #[inline]
    pub fn varint_u32(&mut self) -> Result<u32> {
        u32::try_from(self.varint()?).map_err(|_| Error::corruption("a number is out of range"))
    }

    /// The next length-prefixed slice.
    #[inline]
    pub fn slice(&mut self) -> Result<&'a [u8]> {
        let n = self.varint_usize()?;
        self.bytes(n)
    }

    /// An error unless everything has been read.
    pub fn finish(&self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(Error::corruption(format!(
                "{n} bytes follow the last field"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_in_their_shortest_form() {
        for n in [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, n);
            assert!(out.len() <= MAX_VARINT_LEN);
            let mut decoder = Decoder::new(&out);
            assert_eq!(decoder.varint().unwrap(), n);
            decoder.finish().unwrap();
        }
        for malformed in [
            &[0x80][..],
            &[0x80, 0x00],
            &[0xff; 11],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        ] {
            assert!(Decoder::new(malformed).varint().is_err(), "{malformed:?}");
        }
    }

    #[test]
    fn nothing_is_read_past_the_end() {
        let mut decoder = Decoder::new(&[3, 1, 2]);
        assert!(decoder.slice().is_err());
        assert!(Decoder::new(&[1, 2, 3]).u32().is_err());
        assert!(Decoder::new(&[1]).finish().is_err());
    }
}
