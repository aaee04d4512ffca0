//! qcow2 metadata, read and written without QEMU, by the public specification (QEMU's `docs/interop/qcow2`).
//!
//! Nothing that is read is trusted: each offset and length is checked before it is used, memory is bounded, and
//! files are read with `pread`, never mapped, so that a failing NAS is an error and not a signal.

mod absorb;
mod batch;
mod bitmaps;
mod chain;
mod check;
mod commit;
mod create;
mod direct;
mod dirty;
mod error;
mod follow;
mod header;
mod holes;
mod image;
mod inflate;
mod info;
mod mapping;
mod naming;
mod pieces;
mod read_write;
mod refcount;
mod shrink;
mod storage;
mod stream;
mod survey;
mod transfer;
mod view;
mod write;
mod zeroing;

pub use absorb::{Absorb, Rebase};
pub use batch::{Progress, RebasePulse};
pub use bitmaps::Bitmap;
pub use chain::ImageFailure;
pub use check::{CheckReport, check};
pub use commit::Commit;
pub use create::{CLUSTER, check_creatable, check_filled, create};
pub use direct::{Buffer, Direct};
pub use dirty::Dirty;
pub use error::{Error, Pulse, unless_stopped};
pub use follow::follow;
pub use header::Backing;
pub use info::{Info, backing, inspect, inspect_readable};
pub use mapping::{Mapped, Mapping, hash_rest};
pub use pieces::{Images, Inflated, Part, Piece, Pieces, Place};
pub use read_write::Fault;
pub use shrink::{Unseen, hides_a_shrink};
pub use storage::{Source, Storage};
pub use stream::Stream;
pub use transfer::{Moved, Route, Step, Writeback, shares};
pub use view::{At, Layer, Run, View};
pub use zeroing::Zeroing;

use error::corrupt;

#[cfg(test)]
mod tests;
