//! Keys, and the one order in which terrace keeps entries.
//!
//! A *user key* lives in a keyspace; in memory the two are a pair, on disk the keyspace id stands
//! in front of the user key as 4 big-endian bytes (or once per block), so that the order of pairs
//! is the order of bytes. An *internal key* adds the sequence number of the write and what the
//! write did. The order of internal keys is
//!
//! ```text
//! keyspace up, then user key bytewise up, then sequence number DOWN
//! ```
//!
//! so that the first entry found for a user key is its newest version. The kind of an entry takes
//! no part: a sequence number is given to one entry. The comparison has two steps; one memcmp over
//! key and trailer would misorder keys where one is a prefix of the other.
//!
//! Keys print and parse as `a#5,PUT`, and as `7:a#5,PUT` outside keyspace 0: tests are text.

use std::cmp::Ordering;
use std::fmt;

use crate::error::{Error, Result};

/// Longest user key in bytes.
pub const MAX_KEY_LEN: usize = 65_531;
/// Longest value in bytes.
pub const MAX_VALUE_LEN: u64 = 1 << 30;

/// Number of a keyspace; 0 is the default keyspace. Never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(pub u32);

/// Place of a write in the commit order: 56 bits, never reused.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNo(u64);

impl SeqNo {
    /// Before every write.
    pub const ZERO: SeqNo = SeqNo(0);
    /// The largest sequence number; as a read point it sees everything.
    pub const MAX: SeqNo = SeqNo((1 << 56) - 1);

    /// The sequence number `n`; values beyond [`SeqNo::MAX`] become it.
    #[inline]
    pub const fn new(n: u64) -> SeqNo {
        if n > SeqNo::MAX.0 {
            SeqNo::MAX
        } else {
            SeqNo(n)
        }
    }

    /// As a plain number.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number before; zero has none before it and stays.
    #[inline]
    pub const fn before(self) -> SeqNo {
        SeqNo(self.0.saturating_sub(1))
    }

    /// The number `n` later, at most [`SeqNo::MAX`].
    #[inline]
    pub const fn plus(self, n: u64) -> SeqNo {
        SeqNo::new(self.0.saturating_add(n))
    }
}

impl fmt::Debug for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a write did to its key. Stored on disk: numbers are never reused, 0 is never valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ValueKind {
    /// The key has this value.
    Put = 1,
    /// The key is absent; the value is empty.
    Tombstone = 2,
    /// What a merge operator is to combine with the older value.
    Merge = 3,
    /// The key has this value until a time: see [`split_expiry`].
    PutExpiring = 4,
    /// The key has the value that lies at this place of a blob file.
    Blob = 5,
    /// A reference to a value in a blob file, after the time at which it expires.
    BlobExpiring = 6,
    // 7 is reserved: a range of keys is deleted by the log and the manifest, not by entries.
}

impl ValueKind {
    /// The kind stored as `byte`, if that is one.
    #[inline]
    pub const fn of_byte(byte: u8) -> Option<ValueKind> {
        match byte {
            1 => Some(ValueKind::Put),
            2 => Some(ValueKind::Tombstone),
            3 => Some(ValueKind::Merge),
            4 => Some(ValueKind::PutExpiring),
            5 => Some(ValueKind::Blob),
            6 => Some(ValueKind::BlobExpiring),
            _ => None,
        }
    }

    /// The kind stored as `byte`.
    #[inline]
    pub fn from_byte(byte: u8) -> Result<ValueKind> {
        ValueKind::of_byte(byte).ok_or_else(|| no_kind(byte))
    }

    /// True if the stored value begins with the time until which it holds.
    #[inline]
    pub const fn expires(self) -> bool {
        matches!(self, ValueKind::PutExpiring | ValueKind::BlobExpiring)
    }

    /// True if the stored value names a place in a blob file.
    #[inline]
    pub const fn in_blob(self) -> bool {
        matches!(self, ValueKind::Blob | ValueKind::BlobExpiring)
    }

    /// `Corruption` unless a stored value of this kind may have `len` bytes.
    #[inline]
    pub fn check_len(self, len: usize) -> Result<()> {
        let fits = match self {
            ValueKind::Put | ValueKind::Merge => true,
            ValueKind::Tombstone => len == 0,
            ValueKind::PutExpiring => len >= EXPIRY_LEN,
            ValueKind::Blob => len == BLOB_REF_LEN,
            ValueKind::BlobExpiring => len == EXPIRY_LEN + BLOB_REF_LEN,
        };
        if fits {
            return Ok(());
        }
        Err(Error::corruption(format!(
            "the stored value of a {self:?} cannot have {len} bytes"
        )))
    }
}

#[cold]
fn no_kind(byte: u8) -> Error {
    if byte == 7 {
        return Error::unsupported(
            "entry of kind 7 was written by a newer terrace; open it with that version",
        );
    }
    Error::corruption(format!("{byte} is no kind of entry"))
}

/// Bytes of the time in front of a stored value that expires.
pub const EXPIRY_LEN: usize = 8;
/// Bytes of a place in a blob file.
pub const BLOB_REF_LEN: usize = 24;

/// The time from which a stored value of an expiring kind counts as absent, in milliseconds since
/// 1970-01-01 UTC, and the rest of the value.
#[inline]
pub fn split_expiry(stored: &[u8]) -> Result<(u64, &[u8])> {
    match stored.split_first_chunk::<EXPIRY_LEN>() {
        Some((time, rest)) => Ok((u64::from_le_bytes(*time), rest)),
        None => Err(Error::corruption("an expiring value has no time")),
    }
}

/// A user key in its keyspace. Its order is the order of the tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey<'a> {
    /// The keyspace that the key lives in.
    pub keyspace: KeyspaceId,
    /// The key's bytes, without the keyspace.
    pub bytes: &'a [u8],
}

impl<'a> UserKey<'a> {
    /// The key `bytes` in `keyspace`.
    #[inline]
    pub const fn new(keyspace: KeyspaceId, bytes: &'a [u8]) -> UserKey<'a> {
        UserKey { keyspace, bytes }
    }

    /// A number that orders as the key does as far as it goes: `a.head() < b.head()` implies `a <
    /// b`; equal heads say nothing. Always below `u128::MAX`.
    #[inline]
    pub fn head(&self) -> u128 {
        (u128::from(self.keyspace.0) << 64) | u128::from(head_of(self.bytes))
    }

    /// A copy that owns its bytes.
    pub fn to_owned(&self) -> OwnedUserKey {
        OwnedUserKey {
            keyspace: self.keyspace,
            bytes: self.bytes.into(),
        }
    }
}

/// The first 8 bytes of `bytes` as a big-endian number, padded with zeroes.
#[inline]
pub fn head_of(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => bytes
            .iter()
            .enumerate()
            .fold(0, |head, (i, b)| head | u64::from(*b) << (56 - 8 * i)),
    }
}

impl fmt::Debug for UserKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.keyspace.0 != 0 {
            write!(f, "{}:", self.keyspace.0)?;
        }
        write!(f, "{}", self.bytes.escape_ascii())
    }
}

/// An owned [`UserKey`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OwnedUserKey {
    /// The keyspace that the key lives in.
    pub keyspace: KeyspaceId,
    /// The key's bytes, without the keyspace.
    pub bytes: Box<[u8]>,
}

impl OwnedUserKey {
    /// Borrows the key.
    #[inline]
    pub fn as_ref(&self) -> UserKey<'_> {
        UserKey::new(self.keyspace, &self.bytes)
    }

    /// Parses what [`fmt::Debug`] prints, for keys without escapes, `:` or `#`.
    pub fn parse(text: &str) -> Result<OwnedUserKey> {
        let (keyspace, key) = match text.split_once(':') {
            Some((id, key)) => (parse_number(id)?, key),
            None => (0, text),
        };
        let keyspace = u32::try_from(keyspace)
            .map_err(|_| Error::invalid(format!("{keyspace} is no keyspace id")))?;
        Ok(UserKey::new(KeyspaceId(keyspace), key.as_bytes()).to_owned())
    }
}

impl fmt::Debug for OwnedUserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// An internal key: one version of a user key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyRef<'a> {
    /// The key written.
    pub user: UserKey<'a>,
    /// When it was written.
    pub seq: SeqNo,
    /// What the write did.
    pub kind: ValueKind,
}

impl<'a> KeyRef<'a> {
    /// The version of `user` written at `seq`.
    #[inline]
    pub const fn new(user: UserKey<'a>, seq: SeqNo, kind: ValueKind) -> KeyRef<'a> {
        KeyRef { user, seq, kind }
    }

    /// The position before every version of `user` that a reader at `seq` may see.
    #[inline]
    pub const fn lookup(user: UserKey<'a>, seq: SeqNo) -> KeyRef<'a> {
        KeyRef {
            user,
            seq,
            kind: ValueKind::Put,
        }
    }

    /// Sequence number and kind in one number, as stored.
    #[inline]
    pub fn trailer(&self) -> u64 {
        (self.seq.get() << 8) | self.kind as u64
    }

    /// A copy that owns its bytes.
    pub fn to_owned(&self) -> OwnedKey {
        OwnedKey {
            user: self.user.to_owned(),
            seq: self.seq,
            kind: self.kind,
        }
    }
}

/// Splits a stored trailer into sequence number and kind.
#[inline]
pub fn split_trailer(trailer: u64) -> Result<(SeqNo, ValueKind)> {
    Ok((
        SeqNo::new(trailer >> 8),
        ValueKind::from_byte(trailer as u8)?,
    ))
}

impl Ord for KeyRef<'_> {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.user
            .cmp(&other.user)
            .then_with(|| other.seq.cmp(&self.seq))
    }
}

impl PartialOrd for KeyRef<'_> {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = KINDS.iter().find(|(kind, _)| *kind == self.kind);
        let kind = kind.map_or("?", |(_, name)| name);
        write!(f, "{:?}#{},{kind}", self.user, self.seq)
    }
}

/// How kinds print.
const KINDS: [(ValueKind, &str); 6] = [
    (ValueKind::Put, "PUT"),
    (ValueKind::Tombstone, "DEL"),
    (ValueKind::Merge, "MERGE"),
    (ValueKind::PutExpiring, "EXP"),
    (ValueKind::Blob, "BLOB"),
    (ValueKind::BlobExpiring, "BLOBEXP"),
];

/// An owned [`KeyRef`].
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedKey {
    /// The key written.
    pub user: OwnedUserKey,
    /// When it was written.
    pub seq: SeqNo,
    /// What the write did.
    pub kind: ValueKind,
}

impl OwnedKey {
    /// Borrows the key.
    #[inline]
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef::new(self.user.as_ref(), self.seq, self.kind)
    }

    /// Parses what [`fmt::Debug`] prints: `a#5,PUT`, `7:a#5,DEL`.
    pub fn parse(text: &str) -> Result<OwnedKey> {
        let wrong = || Error::invalid(format!("`{text}` is no key like a#5,PUT"));
        let (user, trailer) = text.rsplit_once('#').ok_or_else(wrong)?;
        let (seq, kind) = trailer.split_once(',').ok_or_else(wrong)?;
        let kind = KINDS.iter().find(|(_, name)| *name == kind);
        let kind = kind.map(|(kind, _)| *kind).ok_or_else(wrong)?;
        Ok(OwnedKey {
            user: OwnedUserKey::parse(user)?,
            seq: SeqNo::new(parse_number(seq)?),
            kind,
        })
    }
}

impl fmt::Debug for OwnedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

fn parse_number(text: &str) -> Result<u64> {
    text.parse()
        .map_err(|_| Error::invalid(format!("`{text}` is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_key_up_then_sequence_number_down() {
        let sorted = ["a#9,PUT", "a#3,DEL", "ab#7,PUT", "b#1,PUT", "1:a#2,PUT"];
        for pair in sorted.windows(2) {
            let [a, b] = [
                OwnedKey::parse(pair[0]).unwrap(),
                OwnedKey::parse(pair[1]).unwrap(),
            ];
            assert!(a.as_ref() < b.as_ref(), "{a:?} < {b:?}");
        }
    }

    #[test]
    fn keys_print_and_parse() {
        for text in ["a#5,PUT", "7:abc#123,DEL", "#0,PUT"] {
            assert_eq!(format!("{:?}", OwnedKey::parse(text).unwrap()), text);
        }
        assert!(OwnedKey::parse("a#5,MRG").is_err());
        assert!(OwnedKey::parse("a,PUT").is_err());
    }

    #[test]
    fn heads_never_contradict_the_order() {
        let keys: [&[u8]; 7] = [
            b"",
            b"\0",
            b"a",
            b"a\0",
            b"abcdefgh",
            b"abcdefghi",
            b"\xff\xff",
        ];
        for a in keys {
            for b in keys {
                let (a, b) = (
                    UserKey::new(KeyspaceId(3), a),
                    UserKey::new(KeyspaceId(3), b),
                );
                if a.head() < b.head() {
                    assert!(a < b, "{a:?} {b:?}");
                }
            }
        }
        assert!(UserKey::new(KeyspaceId(u32::MAX), &[255; 9]).head() < u128::MAX);
    }

    #[test]
    fn reserved_kinds_are_unsupported_and_others_corrupt() {
        for (kind, name) in KINDS {
            assert_eq!(ValueKind::from_byte(kind as u8).unwrap(), kind);
            let text = format!("a#5,{name}");
            assert_eq!(format!("{:?}", OwnedKey::parse(&text).unwrap()), text);
        }
        assert_eq!(
            ValueKind::from_byte(7).unwrap_err().kind(),
            crate::ErrorKind::Unsupported
        );
        assert_eq!(
            ValueKind::from_byte(0).unwrap_err().kind(),
            crate::ErrorKind::Corruption
        );
        assert_eq!(
            ValueKind::from_byte(8).unwrap_err().kind(),
            crate::ErrorKind::Corruption
        );
    }
}
