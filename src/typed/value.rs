//! Encodings of values.

use std::borrow::Cow;

use bytes::Bytes;
use terrace_base::{Error, Result};

/// What can be a value of a [`Typed`](crate::Typed).
///
/// | Type | Bytes |
/// |---|---|
/// | `Bytes`, `Vec<u8>`, `String` | their bytes |
/// | `u8` to `u128`, `i8` to `i128` | little-endian, so that [`add_i64`](crate::Keyspace::add_i64) counts in `i64`s |
/// | `Json<T>` | JSON without white space, with feature `json` |
///
/// It may be implemented for types of one's own.
pub trait Value: Sized {
    /// The bytes that are stored.
    ///
    /// # Errors
    /// `Invalid` if the value cannot be encoded.
    fn to_value(&self) -> Result<Cow<'_, [u8]>>;

    /// The reverse of [`Value::to_value`].
    ///
    /// # Errors
    /// `Invalid` if no value encodes to that.
    fn from_value(bytes: Bytes) -> Result<Self>;
}

/// What may be given for a value of type `V`: the value, a reference to it, and borrowed forms of
/// strings.
pub trait AsValue<V> {
    /// The bytes that are stored, as [`Value::to_value`] makes them.
    ///
    /// # Errors
    /// `Invalid` if the value cannot be encoded.
    fn value_bytes(&self) -> Result<Cow<'_, [u8]>>;
}

impl<V: Value> AsValue<V> for V {
    fn value_bytes(&self) -> Result<Cow<'_, [u8]>> {
        self.to_value()
    }
}

impl<V: Value> AsValue<V> for &V {
    fn value_bytes(&self) -> Result<Cow<'_, [u8]>> {
        self.to_value()
    }
}

macro_rules! borrowed {
    ($($borrowed:ty, $owned:ty;)*) => {$(
        impl AsValue<$owned> for $borrowed {
            fn value_bytes(&self) -> Result<Cow<'_, [u8]>> {
                Ok(Cow::Borrowed(self.as_ref()))
            }
        }
    )*};
}

borrowed! {
    &str, String;
    &[u8], Vec<u8>;
    &[u8], Bytes;
}

/// Values do not belong into messages.
#[cold]
fn wrong(what: &str) -> Error {
    Error::invalid(format!("a value is not of the type asked for: {what}"))
}

impl Value for Bytes {
    fn to_value(&self) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(self))
    }

    fn from_value(bytes: Bytes) -> Result<Bytes> {
        Ok(bytes)
    }
}

impl Value for Vec<u8> {
    fn to_value(&self) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(self))
    }

    fn from_value(bytes: Bytes) -> Result<Vec<u8>> {
        Ok(bytes.into())
    }
}

impl Value for String {
    fn to_value(&self) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(self.as_bytes()))
    }

    fn from_value(bytes: Bytes) -> Result<String> {
        String::from_utf8(bytes.into()).map_err(|_| wrong("a string is not UTF-8"))
    }
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Value for $type {
            fn to_value(&self) -> Result<Cow<'_, [u8]>> {
                Ok(Cow::Owned(self.to_le_bytes().to_vec()))
            }

            fn from_value(bytes: Bytes) -> Result<$type> {
                let bytes = bytes.as_ref().try_into();
                let bytes = bytes.map_err(|_| wrong("an integer has another length"))?;
                Ok(<$type>::from_le_bytes(bytes))
            }
        }
    )*};
}

integers!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128);

/// Whatever serde can write as JSON, with feature `json`.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

#[cfg(feature = "json")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Value for Json<T> {
    fn to_value(&self) -> Result<Cow<'_, [u8]>> {
        let bytes = serde_json::to_vec(&self.0);
        let bytes = bytes.map_err(|error| {
            Error::other(error).wrap(
                terrace_base::ErrorKind::Invalid,
                "a value has no form in JSON",
            )
        })?;
        Ok(Cow::Owned(bytes))
    }

    fn from_value(bytes: Bytes) -> Result<Json<T>> {
        // The error's own text may quote the value.
        let value = serde_json::from_slice(&bytes);
        let value = value.map_err(|error| {
            let place = format!("JSON, line {} column {}", error.line(), error.column());
            wrong(&place)
        })?;
        Ok(Json(value))
    }
}
