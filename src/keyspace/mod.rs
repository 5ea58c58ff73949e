//! Names, ids and policies of keyspaces.

pub(crate) mod catalogue;
pub(crate) mod policies;
pub(crate) mod state;
