//! Names beside an output's: of what is written for it, and of what it replaces.

/// Digits at the end of a partial output's name, which nobody can know before.
pub(super) const ID: usize = 16;

/// How the names of the partial outputs of `name` begin.
pub(super) fn beside(name: &str) -> String {
    format!(".{name}.nasbackup")
}

/// How the names begin that what had the name `name` is kept under.
pub(super) fn kept(name: &str) -> String {
    format!("{name}.kept-")
}

pub(super) fn is_kept(name: &str, other: &str) -> bool {
    other.strip_prefix(&kept(name)).is_some_and(is_id)
}

/// The name under which what is called `name` is kept, by that of a partial output of it.
pub(super) fn kept_beside<'a>(name: &str, left: &'a str) -> Option<&'a str> {
    let (output, _) = left.strip_prefix('.')?.rsplit_once(".nasbackup")?;
    (is_kept(name, output) && is_beside(output, left)).then_some(output)
}

fn is_id(end: &str) -> bool {
    end.len() == ID && end.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Is it the name of a partial output of `name`, of this version or of older ones, which had no end?
pub(super) fn is_beside(name: &str, other: &str) -> bool {
    let end = other.strip_prefix(&beside(name));
    end.is_some_and(|end| end.is_empty() || end.strip_prefix('-').is_some_and(is_id))
}
