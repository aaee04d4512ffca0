//! Names beside an output's: of what is written for it, and of what it replaces.

/// Digits at the end of a partial output's name, which nobody can know before.
pub(super) const RANDOM_DIGITS: usize = 16;

/// How the names of the partial outputs of `name` begin.
pub(super) fn partial_prefix(name: &str) -> String {
    format!(".{name}.nasbackup")
}

/// How the names begin that what had the name `name` is kept under.
pub(super) fn kept_prefix(name: &str) -> String {
    format!("{name}.kept-")
}

pub(super) fn is_kept(name: &str, other: &str) -> bool {
    other.strip_prefix(&kept_prefix(name)).is_some_and(is_random)
}

/// The name under which what is called `name` is kept, by that of a partial output of it.
pub(super) fn kept_name_of<'a>(name: &str, left: &'a str) -> Option<&'a str> {
    let (output, _) = left.strip_prefix('.')?.rsplit_once(".nasbackup")?;
    (is_kept(name, output) && is_partial(output, left)).then_some(output)
}

fn is_random(end: &str) -> bool {
    end.len() == RANDOM_DIGITS && end.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Is it the name of a partial output of `name`, of this version or of older ones, which had no end?
pub(super) fn is_partial(name: &str, other: &str) -> bool {
    let end = other.strip_prefix(&partial_prefix(name));
    end.is_some_and(|end| end.is_empty() || end.strip_prefix('-').is_some_and(is_random))
}
