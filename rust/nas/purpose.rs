//! What an instance is locked for.

/// What the instance's points are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A new point beside those that are there: they stay as they are, and others may read them meanwhile.
    Add,
    /// Points are changed or removed: nobody else is there.
    Change,
    /// Points are read: they stay as they are, and a new one may be added meanwhile.
    Read,
}
