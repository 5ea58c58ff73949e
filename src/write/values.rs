//! New values of counters and of values that bytes are appended to

use terrace_base::{Error, Result};

use crate::write::batch::check_lengths;

/// A counter's next value: 8 bytes, little-endian; none counts as 0.
pub(crate) fn counter(value: Option<&[u8]>, delta: i64) -> Result<i64> {
    let now = match value {
        None => 0,
        Some(bytes) => match <[u8; 8]>::try_from(bytes) {
            Ok(bytes) => i64::from_le_bytes(bytes),
            Err(_) => {
                return Err(Error::invalid(format!(
                    "a counter has 8 bytes; this value has {}",
                    bytes.len()
                )));
            }
        },
    };
    now.checked_add(delta)
        .ok_or_else(|| Error::invalid(format!("the sum of {now} and {delta} is out of range")))
}

/// A value with `bytes` appended.
pub(crate) fn joined(value: Option<&[u8]>, bytes: &[u8]) -> Result<Vec<u8>> {
    let value = value.unwrap_or(&[]);
    check_lengths(0, value.len().saturating_add(bytes.len()))?;
    Ok([value, bytes].concat())
}
