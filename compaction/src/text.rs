//! How tables look in text. What is printed parses back: tests are text.
//!
//! ```text
//! table := number ":[" key "#" min_seq "-" key "#" max_seq "]" ( "(" field ("," field)* ")" )?
//! key   := ( keyspace ":" )? ( letter | digit | "_" | "." | "/" | "%" hex hex )*
//! field := "size=" n | "entries=" n | "del=" n | "raw=" n | "blocks=" n | "id=" hex
//!        | "exp=" n "@" n "/" n "/" n | "lz4" | "zstd" | "blob=" file "@" n
//!
//! 000100:[a#5-j#9](size=32M,entries=2000)
//! ```
//!
//! A field is left out when it has its usual value: size 1, entries 1, no tombstones, raw = size, 1
//! block, id = number. Numbers may end in `K`, `M` or `G`. The sequence number at each bound is the
//! least and the greatest of the table, wherever it stands.

use std::fmt;

use terrace_base::{Error, FileNumber, KeyspaceId, OwnedUserKey, Result, SeqNo, UserKey};
use terrace_sstable::{Compression, Expiries, TableInfo};

use crate::table_file::TableMeta;

/// Prints `bytes` so that they parse back and hold none of the marks of the grammar.
pub(crate) fn write_escaped(f: &mut dyn fmt::Write, bytes: &[u8]) -> fmt::Result {
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'/' => {
                f.write_char(char::from(byte))?;
            }
            _ => write!(f, "%{byte:02x}")?,
        }
    }
    Ok(())
}

/// What [`write_escaped`] printed.
pub(crate) fn parse_escaped(text: &str) -> Result<Vec<u8>> {
    let wrong = || Error::invalid(format!("`{text}` has a wrong escape"));
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (digits, tail) = rest.split_at_checked(2).ok_or_else(wrong)?;
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            out.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
            rest = tail;
        } else {
            out.push(byte);
        }
    }
    Ok(out)
}

pub(crate) fn write_key(f: &mut dyn fmt::Write, key: UserKey<'_>) -> fmt::Result {
    if key.keyspace.0 != 0 {
        write!(f, "{}:", key.keyspace.0)?;
    }
    write_escaped(f, key.bytes)
}

pub(crate) fn parse_key(text: &str) -> Result<OwnedUserKey> {
    let (keyspace, key) = text.split_once(':').unwrap_or(("0", text));
    let keyspace = keyspace
        .parse()
        .map_err(|_| Error::invalid(format!("`{keyspace}` is no keyspace id")))?;
    Ok(UserKey::new(KeyspaceId(keyspace), &parse_escaped(key)?).to_owned())
}

/// A number, perhaps with `K`, `M` or `G` behind it.
pub(crate) fn parse_number(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (text.get(..text.len() - 1), 10),
        Some(b'M') => (text.get(..text.len() - 1), 20),
        Some(b'G') => (text.get(..text.len() - 1), 30),
        _ => (Some(text), 0),
    };
    digits
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| Error::invalid(format!("`{text}` is no number")))
}

pub(crate) fn parse_hex(text: &str) -> Result<u64> {
    u64::from_str_radix(text, 16).map_err(|_| Error::invalid(format!("`{text}` is no hex number")))
}

/// A number in the shortest of its forms.
pub(crate) struct Short(pub u64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n > 0 && n % (1 << 30) == 0 => write!(f, "{}G", n >> 30),
            n if n > 0 && n % (1 << 20) == 0 => write!(f, "{}M", n >> 20),
            n if n > 0 && n % (1 << 10) == 0 => write!(f, "{}K", n >> 10),
            n => write!(f, "{n}"),
        }
    }
}

/// What a compression is called in text; the usual one, none, has no name.
pub(crate) fn compression_name(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::Lz4 => Some("lz4"),
        Compression::Zstd => Some("zstd"),
        _ => None,
    }
}

impl fmt::Debug for TableMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = &self.info;
        write!(f, "{}:[", self.number)?;
        write_key(f, info.smallest.as_ref())?;
        write!(f, "#{}-", info.min_seq)?;
        write_key(f, info.largest.as_ref())?;
        write!(f, "#{}]", info.max_seq)?;
        let mut open = "(";
        let mut field = |name: &str, n: u64, usual: u64| {
            if n != usual {
                write!(f, "{open}{name}={}", Short(n))?;
                open = ",";
            }
            Ok(())
        };
        field("size", info.size, 1)?;
        field("entries", info.entries, 1)?;
        field("del", info.tombstones, 0)?;
        field("raw", info.raw_bytes, info.size)?;
        field("blocks", info.blocks, 1)?;
        if info.id != self.number.0 {
            write!(f, "{open}id={:x}", info.id)?;
            open = ",";
        }
        if let Some(expiries) = &info.expiries {
            let Expiries {
                entries,
                first,
                median,
                last,
            } = expiries;
            write!(f, "{open}exp={entries}@{first}/{median}/{last}")?;
            open = ",";
        }
        for (file, bytes) in &info.blobs {
            write!(f, "{open}blob={file}@{}", Short(*bytes))?;
            open = ",";
        }
        if let Some(name) = compression_name(info.compression) {
            write!(f, "{open}{name}")?;
            open = ",";
        }
        f.write_str(if open == "," { ")" } else { "" })
    }
}

impl TableMeta {
    /// Parses what [`fmt::Debug`] prints.
    pub fn parse(text: &str) -> Result<TableMeta> {
        let wrong = || Error::invalid(format!("`{text}` is no table like 000100:[a#5-j#9]"));
        let (number, rest) = text.split_once(":[").ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (bounds, fields) = rest.split_once(']').ok_or_else(wrong)?;
        let (smallest, largest) = bounds.split_once('-').ok_or_else(wrong)?;
        let bound = |text: &str| {
            let (key, seq) = text.rsplit_once('#').ok_or_else(wrong)?;
            Ok((parse_key(key)?, SeqNo::new(parse_number(seq)?)))
        };
        let ((smallest, min_seq), (largest, max_seq)) = (bound(smallest)?, bound(largest)?);
        let mut info = TableInfo {
            id: number,
            size: 1,
            entries: 1,
            tombstones: 0,
            min_seq,
            max_seq,
            smallest,
            largest,
            compression: Compression::None,
            raw_bytes: 1,
            blocks: 1,
            expiries: None,
            blobs: Vec::new(),
        };
        parse_fields(fields, &mut info)?;
        Ok(TableMeta {
            number: FileNumber(number),
            info,
        })
    }
}

fn parse_expiries(text: &str) -> Result<Expiries> {
    let wrong = || Error::invalid(format!("`{text}` is not like 3@10/15/20"));
    let (entries, times) = text.split_once('@').ok_or_else(wrong)?;
    let times: Vec<&str> = times.split('/').collect();
    let [first, median, last] = times.as_slice() else {
        return Err(wrong());
    };
    Ok(Expiries {
        entries: parse_number(entries)?,
        first: parse_number(first)?,
        median: parse_number(median)?,
        last: parse_number(last)?,
    })
}

fn parse_fields(text: &str, info: &mut TableInfo) -> Result<()> {
    let fields = text
        .strip_prefix('(')
        .and_then(|text| text.strip_suffix(')'))
        .unwrap_or(text);
    let mut raw_bytes = None;
    for field in fields.split(',').filter(|field| !field.is_empty()) {
        match field.split_once('=') {
            Some(("size", n)) => info.size = parse_number(n)?,
            Some(("entries", n)) => info.entries = parse_number(n)?,
            Some(("del", n)) => info.tombstones = parse_number(n)?,
            Some(("raw", n)) => raw_bytes = Some(parse_number(n)?),
            Some(("blocks", n)) => info.blocks = parse_number(n)?,
            Some(("exp", text)) => info.expiries = Some(parse_expiries(text)?),
            Some(("blob", text)) => {
                let (file, bytes) = text
                    .split_once('@')
                    .ok_or_else(|| Error::invalid(format!("`{text}` is not like 000007@10")))?;
                let file = FileNumber(parse_number(file)?);
                info.blobs.push((file, parse_number(bytes)?));
            }
            Some(("id", n)) => info.id = parse_hex(n)?,
            None if field == "lz4" => info.compression = Compression::Lz4,
            None if field == "zstd" => info.compression = Compression::Zstd,
            _ => return Err(Error::invalid(format!("`{field}` is no field of a table"))),
        }
    }
    info.raw_bytes = raw_bytes.unwrap_or(info.size);
    Ok(())
}
