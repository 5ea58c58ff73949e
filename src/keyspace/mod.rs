//! Names, ids and policies of keyspaces.

pub(crate) mod catalogue;
pub(crate) mod policies;
