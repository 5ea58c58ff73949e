//! Options as a configuration file says them, with feature `serde`.
//!
//! ```json
//! { "durability": { "interval_ms": 100 }, "memory": 67108864, "compression": "lz4", "io": "mmap" }
//! ```
//!
//! What is left out keeps its default; a name that is not known is an error, not a default.

use std::time::Duration;

use serde::de::Deserializer;
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};

use crate::options::{Compression, Durability, IoMode, Options};

#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Plain {
    durability: PlainDurability,
    memory: Option<u64>,
    compression: PlainCompression,
    io: PlainIo,
    create: bool,
    read_only: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PlainDurability {
    Sync,
    IntervalMs(u64),
    Buffered,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PlainCompression {
    None,
    Lz4,
    Zstd,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PlainIo {
    Mmap,
    Pread,
}

impl Default for Plain {
    fn default() -> Plain {
        Plain {
            durability: PlainDurability::Sync,
            memory: None,
            compression: PlainCompression::Lz4,
            io: PlainIo::Mmap,
            create: true,
            read_only: false,
        }
    }
}

impl Serialize for Options {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let unknown = |what| S::Error::custom(format!("this {what} has no name yet"));
        let plain = Plain {
            durability: match self.durability {
                Durability::Sync => PlainDurability::Sync,
                Durability::Interval(longest) => {
                    PlainDurability::IntervalMs(longest.as_millis() as u64)
                }
                Durability::Buffered => PlainDurability::Buffered,
            },
            memory: self.memory,
            compression: match self.compression {
                Compression::None => PlainCompression::None,
                Compression::Lz4 => PlainCompression::Lz4,
                Compression::Zstd => PlainCompression::Zstd,
                _ => return Err(unknown("compression")),
            },
            io: match self.io {
                IoMode::Mmap => PlainIo::Mmap,
                IoMode::Pread => PlainIo::Pread,
                _ => return Err(unknown("way of reading")),
            },
            create: self.create,
            read_only: self.read_only,
        };
        plain.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Options, D::Error> {
        let plain = Plain::deserialize(deserializer)?;
        let mut options = Options::new()
            .durability(match plain.durability {
                PlainDurability::Sync => Durability::Sync,
                PlainDurability::IntervalMs(ms) => Durability::Interval(Duration::from_millis(ms)),
                PlainDurability::Buffered => Durability::Buffered,
            })
            .compression(match plain.compression {
                PlainCompression::None => Compression::None,
                PlainCompression::Lz4 => Compression::Lz4,
                PlainCompression::Zstd => Compression::Zstd,
            })
            .io(match plain.io {
                PlainIo::Mmap => IoMode::Mmap,
                PlainIo::Pread => IoMode::Pread,
            })
            .create(plain.create)
            .read_only(plain.read_only);
        options.memory = plain.memory;
        Ok(options)
    }
}
