//! The library names the fields of its requests; the command speaks of its arguments.

use nasbackup::error::{Code, Error};

/// A field, and the argument that fills it.
const FIELDS: [(&str, &str); 13] = [
    ("backupPath", "POINT"),
    ("newParent", "--parent"),
    ("excludeDisks", "--exclude"),
    ("keepOld", "--keep-old"),
    ("keepOldIn", "--keep-old-in"),
    ("rateLimit", "--rate-limit"),
    ("nvramPath", "--to"),
    ("tpmPath", "--to"),
    ("vmName", "VM"),
    ("output.path", "the output"),
    ("repository.type", "--repo"),
    ("repository.address", "--repo"),
    ("repository.options", "--repo-options"),
];

/// Those whose names are words that a sentence may have, too: they stand at its begin.
const FIRST: [(&str, &str); 7] = [
    ("engine", "--engine"),
    ("instance", "the machine"),
    ("memory", "--memory"),
    ("repository", "--repo"),
    ("screenshot", "--screenshot"),
    ("volume", "the volume"),
    ("wait", "--wait"),
];

/// The error in the command's words.
pub(crate) fn own(error: Error) -> Error {
    let mut fields = FIRST.iter().filter(|_| error.code == Code::InvalidArgument);
    let first = fields.find_map(|(field, argument)| {
        let rest = error.cause.strip_prefix(field)?;
        rest.starts_with(": ").then(|| format!("{argument}{rest}"))
    });
    let cause = first.unwrap_or_else(|| own_text(&error.cause));
    Error { cause, ..error }
}

/// The text with each field's name replaced, but for what stands in quotes.
fn own_text(text: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-[]".contains(c);
    let mut own = String::new();
    for (i, part) in text.split('\'').enumerate() {
        if i > 0 {
            own.push('\'');
        }
        if i % 2 == 1 {
            own += part;
            continue;
        }
        for word in part.split_inclusive(|c| !is_name(c)) {
            let name = word.trim_end_matches(|c| !is_name(c));
            own += argument(name).unwrap_or(name);
            own += &word[name.len()..];
        }
    }
    own
}

/// The argument of a field, which may be one of a list: `volumes[0].output.path`.
fn argument(name: &str) -> Option<&'static str> {
    let field = name.rsplit_once("].").map_or(name, |(_, field)| field);
    FIELDS.iter().find(|(known, _)| *known == field).map(|(_, argument)| *argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_called_as_the_arguments_that_fill_them() {
        for (said, own_words) in [
            ("backupPath: 'i-1' is no point", "POINT: 'i-1' is no point"),
            ("keepOldIn: is given, and keepOld is not", "--keep-old-in: is given, and --keep-old is not"),
            ("volumes[0].output.path: '/x/keepOld' is a link", "the output: '/x/keepOld' is a link"),
            ("engine: 'x' is none of auto, push and pull", "--engine: 'x' is none of auto, push and pull"),
            ("the engine: wait", "the engine: wait"),
            ("other backups have all 4 (parallelBackups)", "other backups have all 4 (parallelBackups)"),
        ] {
            assert_eq!(own(Error::new(Code::InvalidArgument, "check", said)).cause, own_words);
        }
        let busy = Error::new(Code::Busy, "wait", "engine: rateLimit");
        assert_eq!(own(busy).cause, "engine: --rate-limit");
    }
}
