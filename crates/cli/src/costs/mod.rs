//! What specialising costs and brings, for `bespoke costs`.
//!
//! The library measures ([`bespoke::runtime::Session::costs`]); here measurements become a table. `table` makes rows,
//! shares and sums of them, plain arithmetic that is tested without a device; `report` shows the table to people and to
//! scripts. `tiles` has the tiles that were timed beside those in use.

pub(crate) mod report;
pub(crate) mod table;
pub(crate) mod tiles;
