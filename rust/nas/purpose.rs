//! What the library locks an instance for.

/// What the holder of the lock does with the instance's points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Adds a point and leaves the others as they are: others may read meanwhile.
    Add,
    /// Changes or removes points: nobody else may work there.
    Change,
    /// Reads points: others may read, or add one, meanwhile.
    Read,
}
