//! The reads of a transaction

use std::ops::Range;

use bytes::Bytes;
use terrace_base::Result;

use crate::bounds::{KeyBounds, OwnedBounds};
use crate::db::readable::{Entry, readable};
use crate::read::iter::{Cursor, Iter};
use crate::transaction::{Transaction, TxKeyspace};

readable!(Transaction);
readable!(TxKeyspace<'_>);
