//! A caller's operations as a validated payload of the log.

pub(crate) mod batch;
pub(crate) mod deferred;
pub(crate) mod expiry;
pub(crate) mod payload;
pub(crate) mod prepared;
pub(crate) mod values;
