//! How edits look in text. What is printed parses back: one line a part.
//!
//! ```text
//! add L0 run 12 000100:[a#5-j#9](size=4M)
//! remove L0 000098
//! move L0 L6 run 0 000099
//! segment 000007 salt=5eed size=64M
//! segment- 000003
//! flushed lsn=4096 seq=17
//! ceiling 128
//! keyspace 3 users created=18 options=0102
//! keyspace-options 3 options=0102
//! keyspace-name 3 name=people
//! keyspace- 2 19
//! keyspace-forget 2
//! next-keyspace 4
//! last-seq 20
//! range 3:a,f seq=21                  up to the keyspace's end where nothing follows the comma
//! range- 21
//! clock 1790000000000
//! ```

use std::fmt;

use terrace_base::{DeletedRange, Error, FileNumber, KeyspaceId, Result, SeqNo, UserKey};

use crate::blob_file::BlobMeta;
use crate::edit::{
    AddedTable, Flushed, KeyspaceRecord, MovedTable, RemovedTable, SegmentRecord, VersionEdit,
};
use crate::table_file::TableMeta;
use crate::text::{
    Short, parse_escaped, parse_hex, parse_key, parse_number, write_escaped, write_key,
};

impl fmt::Debug for AddedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AddedTable { level, run, meta } = self;
        write!(f, "add L{level} run {run} {meta:?}")
    }
}

impl fmt::Debug for RemovedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "remove L{} {}", self.level, self.number)
    }
}

impl fmt::Debug for MovedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from_level, self.to_level);
        write!(f, "move L{from} L{to} run {} {}", self.run, self.number)
    }
}

impl fmt::Debug for SegmentRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, size) = (self.salt, Short(self.size));
        write!(f, "segment {} salt={salt:x} size={size}", self.number)
    }
}

impl fmt::Debug for BlobMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, size) = (self.id, Short(self.size));
        write!(f, "blob {} id={id:x} size={size}", self.number)
    }
}

impl fmt::Debug for KeyspaceRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keyspace {} ", self.id.0)?;
        write_escaped(f, self.name.as_bytes())?;
        write!(f, " created={} options=", self.created)?;
        self.options.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Flushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flushed lsn={} seq={}", self.lsn, self.seq)
    }
}

impl fmt::Debug for VersionEdit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = Vec::new();
        lines.extend(self.added.iter().map(|part| format!("{part:?}")));
        lines.extend(self.removed.iter().map(|part| format!("{part:?}")));
        lines.extend(self.moved.iter().map(|part| format!("{part:?}")));
        lines.extend(self.segments_added.iter().map(|part| format!("{part:?}")));
        let gone = self.segments_removed.iter();
        lines.extend(gone.map(|number| format!("segment- {number}")));
        lines.extend(self.flushed.iter().map(|part| format!("{part:?}")));
        lines.extend(self.file_ceiling.iter().map(|n| format!("ceiling {n}")));
        let created = self.keyspaces_created.iter();
        lines.extend(created.map(|part| format!("{part:?}")));
        let changed = self.keyspaces_changed.iter();
        lines.extend(changed.map(|(id, options)| {
            let options: String = options.iter().map(|b| format!("{b:02x}")).collect();
            format!("keyspace-options {} options={options}", id.0)
        }));
        let renamed = self.keyspaces_renamed.iter();
        lines.extend(renamed.map(|(id, name)| NameLine(*id, name).to_string()));
        let dropped = self.keyspaces_dropped.iter();
        lines.extend(dropped.map(|(id, seq)| format!("keyspace- {} {seq}", id.0)));
        let forgotten = self.keyspaces_forgotten.iter();
        lines.extend(forgotten.map(|id| format!("keyspace-forget {}", id.0)));
        lines.extend(self.next_keyspace.map(|id| format!("next-keyspace {id}")));
        lines.extend(self.last_seq.map(|seq| format!("last-seq {seq}")));
        lines.extend(self.blobs_added.iter().map(|part| format!("{part:?}")));
        let gone = self.blobs_removed.iter();
        lines.extend(gone.map(|number| format!("blob- {number}")));
        let ranges = self.ranges_deleted.iter();
        lines.extend(ranges.map(|range| RangeLine(range).to_string()));
        let forgotten = self.ranges_forgotten.iter();
        lines.extend(forgotten.map(|seq| format!("range- {seq}")));
        lines.extend(self.clock.map(|time| format!("clock {time}")));
        f.write_str(&lines.join("\n"))
    }
}

struct NameLine<'a>(KeyspaceId, &'a str);

impl fmt::Display for NameLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keyspace-name {} name=", self.0.0)?;
        write_escaped(f, self.1.as_bytes())
    }
}

impl VersionEdit {
    /// Parses what [`fmt::Debug`] prints.
    pub fn parse(text: &str) -> Result<VersionEdit> {
        let mut edit = VersionEdit::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split(' ').collect();
            edit.parse_line(&words)
                .map_err(|error| error.wrap(terrace_base::ErrorKind::Invalid, line))?;
        }
        Ok(edit)
    }

    fn parse_line(&mut self, words: &[&str]) -> Result<()> {
        match *words {
            ["add", level, "run", run, table] => self.added.push(AddedTable {
                level: parse_level(level)?,
                run: parse_number(run)?,
                meta: TableMeta::parse(table)?,
            }),
            ["remove", level, number] => self.removed.push(RemovedTable {
                level: parse_level(level)?,
                number: parse_file(number)?,
            }),
            ["move", from, to, "run", run, number] => self.moved.push(MovedTable {
                from_level: parse_level(from)?,
                to_level: parse_level(to)?,
                run: parse_number(run)?,
                number: parse_file(number)?,
            }),
            ["segment", number, salt, size] => self.segments_added.push(SegmentRecord {
                number: parse_file(number)?,
                salt: parse_hex(named("salt=", salt)?)?,
                size: parse_number(named("size=", size)?)?,
            }),
            ["segment-", number] => self.segments_removed.push(parse_file(number)?),
            ["flushed", lsn, seq] => {
                self.flushed = Some(Flushed {
                    lsn: parse_number(named("lsn=", lsn)?)?,
                    seq: parse_seq(named("seq=", seq)?)?,
                });
            }
            ["ceiling", number] => self.file_ceiling = Some(parse_number(number)?),
            ["keyspace", id, name, created, options] => {
                self.keyspaces_created.push(KeyspaceRecord {
                    id: KeyspaceId(parse_id(id)?),
                    name: parse_name(name)?,
                    created: parse_seq(named("created=", created)?)?,
                    options: parse_bytes(named("options=", options)?)?,
                });
            }
            ["keyspace-options", id, options] => {
                let changed = (
                    KeyspaceId(parse_id(id)?),
                    parse_bytes(named("options=", options)?)?,
                );
                self.keyspaces_changed.push(changed);
            }
            ["keyspace-name", id, name] => {
                let renamed = (
                    KeyspaceId(parse_id(id)?),
                    parse_name(named("name=", name)?)?,
                );
                self.keyspaces_renamed.push(renamed);
            }
            ["keyspace-", id, seq] => {
                let dropped = (KeyspaceId(parse_id(id)?), parse_seq(seq)?);
                self.keyspaces_dropped.push(dropped);
            }
            ["keyspace-forget", id] => {
                self.keyspaces_forgotten.push(KeyspaceId(parse_id(id)?));
            }
            ["next-keyspace", id] => self.next_keyspace = Some(parse_id(id)?),
            ["last-seq", seq] => self.last_seq = Some(parse_seq(seq)?),
            ["range", bounds, seq] => self.ranges_deleted.push(parse_range(bounds, seq)?),
            ["blob", number, id, size] => self.blobs_added.push(BlobMeta {
                number: parse_file(number)?,
                id: parse_hex(named("id=", id)?)?,
                size: parse_number(named("size=", size)?)?,
            }),
            ["blob-", number] => self.blobs_removed.push(parse_file(number)?),
            ["clock", time] => self.clock = Some(parse_number(time)?),
            ["range-", seq] => self.ranges_forgotten.push(parse_seq(seq)?),
            _ => return Err(Error::invalid("no part of an edit looks so")),
        }
        Ok(())
    }
}

/// Prints as the line of a deleted range.
pub(crate) struct RangeLine<'a>(pub &'a DeletedRange);

impl fmt::Display for RangeLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = self.0;
        f.write_str("range ")?;
        write_key(f, UserKey::new(range.keyspace, &range.lower))?;
        f.write_str(",")?;
        write_escaped(f, range.upper.as_deref().unwrap_or_default())?;
        write!(f, " seq={}", range.seq)
    }
}

fn parse_range(bounds: &str, seq: &str) -> Result<DeletedRange> {
    let wrong = || Error::invalid(format!("`{bounds}` is no range like 3:a,f"));
    let (lower, upper) = bounds.split_once(',').ok_or_else(wrong)?;
    let (lower, upper) = (parse_key(lower)?, parse_escaped(upper)?);
    Ok(DeletedRange {
        keyspace: lower.keyspace,
        lower: lower.bytes,
        upper: (!upper.is_empty()).then(|| upper.into()),
        seq: parse_seq(named("seq=", seq)?)?,
    })
}

fn named<'a>(name: &str, word: &'a str) -> Result<&'a str> {
    word.strip_prefix(name)
        .ok_or_else(|| Error::invalid(format!("`{word}` stands where {name} belongs")))
}

fn parse_level(word: &str) -> Result<usize> {
    Ok(parse_number(named("L", word)?)? as usize)
}

fn parse_file(word: &str) -> Result<FileNumber> {
    parse_number(word).map(FileNumber)
}

fn parse_seq(word: &str) -> Result<SeqNo> {
    parse_number(word).map(SeqNo::new)
}

fn parse_name(word: &str) -> Result<String> {
    String::from_utf8(parse_escaped(word)?).map_err(|_| Error::invalid("the name is not UTF-8"))
}

fn parse_id(word: &str) -> Result<u32> {
    u32::try_from(parse_number(word)?).map_err(|_| Error::invalid("no keyspace id is so large"))
}

fn parse_bytes(digits: &str) -> Result<Vec<u8>> {
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2);
        pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    bytes.ok_or_else(|| Error::invalid(format!("`{digits}` is no string of hex bytes")))
}
