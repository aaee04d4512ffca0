//! Restore points: what they consist of, how they name each other, and what may be a parent.

mod chain;
pub mod fingerprints;
mod images;
mod machine_state;
mod manifest;
mod parent;
mod volume;

use serde::{Deserialize, Serialize};

pub use chain::{DEEPEST, Link, open_chain, open_chain_while, resolve};
pub use images::{image_names, images, open_with_images};
pub use machine_state::{LONGEST_STATE, NVRAM, NVRAM_QCOW2, StateFile, StatePart, TPM, TPM_1_2};
pub use manifest::{LeftOut, MANIFEST, Manifest, ManifestDisk, ParentPoint, Rebasing, Snapshot, UNTOLD};
pub use parent::{ChainImage, Parent, ParentDisk};
pub use volume::{volume_of, volume_of_image};

/// Name of the domain's XML in a point.
pub const DOMAIN: &str = "domain-config.xml";

/// Whether a file or point stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// No backing file.
    Full,
    /// A qcow2 whose backing file is the parent's.
    Incremental,
}
