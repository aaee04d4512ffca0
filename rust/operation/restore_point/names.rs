//! The names of files beside an output: the partial file that becomes it, and the volume that it replaces and that is kept.

/// Random digits at the end of a partial output's name, so that nobody can plant a file under that name before.
pub(super) const RANDOM_DIGITS: usize = 16;

/// How the names of the partial files of the output `name` begin.
pub(super) fn partial_prefix(name: &str) -> String {
    format!(".{name}.nasbackup")
}

/// How the names begin under which a volume called `name` is kept.
pub(super) fn kept_prefix(name: &str) -> String {
    format!("{name}.kept-")
}

pub(super) fn is_kept(name: &str, other: &str) -> bool {
    other.strip_prefix(&kept_prefix(name)).is_some_and(is_random)
}

/// If `left` is a partial file of a copy that keeps the volume `name`, the name that the copy was to have.
pub(super) fn kept_name_of<'a>(name: &str, left: &'a str) -> Option<&'a str> {
    let (output, _) = left.strip_prefix('.')?.rsplit_once(".nasbackup")?;
    (is_kept(name, output) && is_partial(output, left)).then_some(output)
}

fn is_random(end: &str) -> bool {
    end.len() == RANDOM_DIGITS && end.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// True if `other` is the name of a partial file of the output `name`. Older versions put no random digits at its end.
pub(super) fn is_partial(name: &str, other: &str) -> bool {
    let end = other.strip_prefix(&partial_prefix(name));
    end.is_some_and(|end| end.is_empty() || end.strip_prefix('-').is_some_and(is_random))
}
