//! Scripts: a tree in text goes in, decisions in text come out.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p terrace-compaction` writes what they print into the scripts.

use std::collections::HashSet;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::ops::Bound;
use std::sync::Arc;

use goldenscript::{Argument, Command, Context};
use terrace_base::{Error, FileNumber, KeyspaceId, OwnedKey, RangeSet, SeqNo, UserKey};
use terrace_compaction::*;
use terrace_sstable::Compression;

use crate::store::{Sorted, Store};

#[test]
fn scripts() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");
    for name in [
        "check_order",
        "edits",
        "guard",
        "iterator",
        "level0",
        "levels",
        "ranges",
        "worth",
    ] {
        goldenscript::run(&mut Runner::default(), format!("{dir}/{name}")).unwrap();
    }
}

struct Runner {
    store: Arc<dyn TableStore>,
    version: Version,
    options: PickOptions,
    busy: HashSet<FileNumber>,
    lz4: bool,
    own: Vec<u32>,
}

/// LZ4 or nothing, and the other one for the keyspaces `own`.
fn packings(lz4: bool, own: &[u32]) -> Packings {
    let packing = |lz4| Packing {
        compression: match lz4 {
            true => Compression::Lz4,
            false => Compression::None,
        },
        ..Packing::default()
    };
    let own = own.iter().map(|id| (KeyspaceId(*id), packing(!lz4)));
    Packings::new(packing(lz4), own.collect())
}

impl Default for Runner {
    fn default() -> Runner {
        Runner {
            store: Store::new().shared(),
            version: Version::empty(),
            options: PickOptions {
                base_bytes: 256 << 20,
                ..PickOptions::default()
            },
            busy: HashSet::new(),
            lz4: false,
            own: Vec::new(),
        }
    }
}

type Answer = Result<String, Box<dyn StdError>>;

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Answer {
        let args: Vec<&str> = positional(command).collect();
        match command.name.as_str() {
            "version" => {
                self.version = Version::parse(&args.join("\n"), &self.store)?;
                self.busy.clear();
                Ok(String::new())
            }
            "apply" => {
                let edit = VersionEdit::parse(&args.join("\n"))?;
                self.version = self.version.apply(&edit, &self.store)?;
                Ok(format!("{:?}\n", self.version))
            }
            "options" => self.set_options(command),
            "busy" => {
                self.busy = numbers(&args)?.collect();
                Ok(String::new())
            }
            "damaged" => {
                for number in numbers(&args)? {
                    let table = self.version.table(number).ok_or("no such table")?;
                    table.set_damaged(Error::corruption("damaged by the script"));
                }
                Ok(String::new())
            }
            "shape" => Ok(self.shape()),
            "pick" => Ok(text(pick(&self.version, &self.options, &self.busy))),
            "pick-range" => self.pick_range(&args),
            "debt" => Ok(format!("{}\n", debt(&self.version, &self.options))),
            "edit" => edit(&args),
            "merge" => merge_entries(command),
            name => Err(format!("no command is called {name}").into()),
        }
    }
}

/// The arguments without a name.
fn positional(command: &Command) -> impl Iterator<Item = &str> {
    let args = command.args.iter();
    args.filter_map(|arg| match arg {
        Argument::Positional(value) => Some(value.as_str()),
        _ => None,
    })
}

fn numbers(args: &[&str]) -> Result<impl Iterator<Item = FileNumber>, Box<dyn StdError>> {
    let numbers: Result<Vec<u64>, _> = args.iter().map(|arg| arg.parse()).collect();
    Ok(numbers?.into_iter().map(FileNumber))
}

fn text(compaction: Option<Compaction>) -> String {
    compaction.map_or("none\n".into(), |compaction| format!("{compaction:?}\n"))
}

impl Runner {
    fn set_options(&mut self, command: &Command) -> Answer {
        let mut args = command.consume_args();
        while let Some((name, value)) = args.next_key() {
            match name {
                "idle" => self.options.idle = value == "yes",
                "worth" => self.options.worth = value.parse()?,
                "blobs" => self.options.blob_bytes = value.parse::<u64>()? << 20,
                "settled" => self.options.settled = SeqNo::new(value.parse()?),
                "job" => self.options.max_job_bytes = value.parse::<u64>()? << 20,
                "lz4" => {
                    self.lz4 = value == "yes";
                    self.options.packings = packings(self.lz4, &self.own);
                }
                // Keyspaces that want the other compression: 1,2,5.
                "others" => {
                    let ids = value.split(',').filter(|id| !id.is_empty());
                    let ids: Result<Vec<u32>, _> = ids.map(str::parse).collect();
                    self.own = ids?;
                    self.options.packings = packings(self.lz4, &self.own);
                }
                _ => return Err(format!("no option is called {name}").into()),
            }
        }
        Ok(String::new())
    }

    fn shape(&self) -> String {
        let targets = targets(&self.version, &self.options);
        let mut out = format!("base L{}", targets.base);
        for level in 1..LEVELS - 1 {
            let (size, target) = (self.version.level(level).size(), targets.of(level));
            if size > 0 || target > 0 {
                write!(out, ", L{level} {}M of {}M", size >> 20, target >> 20).unwrap();
            }
        }
        out + "\n"
    }

    fn pick_range(&mut self, args: &[&str]) -> Answer {
        let range = match *args {
            [] => KeyRange::ALL,
            [start, end] => KeyRange::new(
                KeyspaceId(0),
                Bound::Included(start.as_bytes()),
                Bound::Included(end.as_bytes()),
            ),
            _ => return Err("give no bounds or two".into()),
        };
        let picked = pick_range(
            &self.version,
            &range,
            &|_, _| true,
            &self.options,
            &self.busy,
        );
        Ok(text(picked))
    }
}

/// Shows an edit as bytes and as text again.
fn edit(args: &[&str]) -> Answer {
    let edit = VersionEdit::parse(&args.join("\n"))?;
    let mut bytes = Vec::new();
    edit.encode(&mut bytes);
    let mut out = String::new();
    for line in bytes.chunks(16) {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{}", hex.join(" "))?;
    }
    writeln!(out, "{:?}", VersionEdit::decode(&bytes)?)?;
    Ok(out)
}

/// After `@` stands when an entry expires, and the time of a snapshot; after `=` its value.
/// Operands are lists, and combined by appending; `panics=k` says for which key that fails,
/// `unwanted=v` which value the filter does not want.
///
/// `merge a#9,PUT a#5,DEL b#4,EXP@60 now=70 snapshots=7 visible=9 below=a dropped=3@7 range=a,f@8`:
/// what stays, and why the rest goes.
fn merge_entries(command: &Command) -> Answer {
    let (mut entries, mut snapshots, mut visible) = (Vec::new(), Vec::new(), SeqNo::new(100));
    let (mut below, mut dropped, mut deleted) = (HashSet::new(), Vec::new(), Vec::new());
    let (mut now, mut panics, mut unwanted) = (0u64, String::new(), None);
    for entry in positional(command) {
        let (key, time) = entry.split_once('@').unwrap_or((entry, ""));
        let (key, text) = key.split_once('=').unwrap_or((key, ""));
        let value = match time {
            "" => text.into(),
            time => time.parse::<u64>()?.to_le_bytes().to_vec(),
        };
        entries.push((OwnedKey::parse(key)?, value));
    }
    let mut args = command.consume_args();
    while let Some((name, value)) = args.next_key() {
        match name {
            "panics" => panics = value.into(),
            "unwanted" => unwanted = Some(value.to_string()),
            "now" => now = value.parse()?,
            "visible" => visible = SeqNo::new(value.parse()?),
            "snapshots" => {
                for snapshot in value.split(',') {
                    let (seq, time) = snapshot.split_once('@').unwrap_or((snapshot, "0"));
                    snapshots.push((SeqNo::new(seq.parse()?), time.parse()?));
                }
            }
            "below" => below.extend(value.split(',').map(str::to_string)),
            "dropped" => {
                let (id, seq) = value.split_once('@').ok_or("dropped=id@seq")?;
                dropped.push((KeyspaceId(id.parse()?), SeqNo::new(seq.parse()?)));
            }
            "range" => {
                let (bounds, seq) = value.split_once('@').ok_or("range=from,to@seq")?;
                let edit = VersionEdit::parse(&format!("range {bounds} seq={seq}"))?;
                deleted.extend(edit.ranges_deleted.into_iter().map(Arc::new));
            }
            name => return Err(format!("no argument is called {name}").into()),
        }
    }
    let oldest = snapshots.iter().map(|(seq, _)| *seq).min();
    let stripes = Stripes::at(&snapshots, visible, now);
    let may_exist = |key: terrace_base::UserKey<'_>| below.contains(&format!("{key:?}"));
    let input = Sorted::raw(entries);
    let deleted = RangeSet::new(deleted);
    let combine =
        |key: UserKey<'_>, parts: &[&[u8]]| (format!("{key:?}") != panics).then(|| parts.concat());
    let keeps =
        |_: UserKey<'_>, value: &[u8]| unwanted.as_ref().map(String::as_bytes) != Some(value);
    let rules = Rules {
        stripes: &stripes,
        dropped_keyspaces: &dropped,
        deleted: &deleted,
        oldest_snapshot: oldest,
        may_exist_below: &may_exist,
        folding: Some(Folding {
            combine: &combine,
            deleted: &deleted,
        }),
        keeps: Some(&keeps),
        fetch: None,
    };
    let mut iter = CompactionIter::new(input, rules);
    let mut out = String::new();
    loop {
        match iter.advance() {
            Ok(Step::Kept) => match iter.entry() {
                (key, value) if value.is_empty() || key.kind.expires() => writeln!(out, "{key:?}")?,
                (key, value) => writeln!(out, "{key:?}={}", value.escape_ascii())?,
            },
            Ok(Step::Dropped(why)) => writeln!(out, "{:?}  -> {why:?}", iter.entry().0)?,
            Ok(Step::End) => break,
            Err(error) => {
                writeln!(out, "error: {error}")?;
                break;
            }
        }
    }
    let (read, counts) = (iter.read(), iter.counts());
    write!(out, "read {read}, dropped {}", counts.total())?;
    if counts.merged > 0 {
        write!(out, ", {} of them merged", counts.merged)?;
    }
    writeln!(out)?;
    Ok(out)
}
