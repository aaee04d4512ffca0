//! Mount options: which of them are secrets, and how these are kept from command lines and messages.

use super::repository::Export;

/// What goes on the command line, and what goes into a file of mode 0600.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    /// Options for `mount -o`.
    pub(super) options: Vec<String>,
    /// Text of a credentials file as `mount.cifs` reads it.
    pub(super) credentials: Option<String>,
}

/// Takes the credentials of a CIFS export out of its options; other types know no such file.
pub(super) fn prepare(export: &Export) -> Prepared {
    let all = split(export.options());
    if !matches!(export.kind(), "cifs" | "smb3") {
        return Prepared { options: all.into_iter().map(str::to_owned).collect(), credentials: None };
    }
    let mut prepared = Prepared { options: Vec::new(), credentials: None };
    for option in all {
        match option.split_once('=').and_then(|(key, value)| Some((credential(key)?, value))) {
            Some((key, value)) => {
                let text = prepared.credentials.get_or_insert_default();
                *text += &format!("{key}={}\n", unquoted(value));
            }
            None => prepared.options.push(option.to_owned()),
        }
    }
    prepared
}

/// The name that a credentials file has for an option, if it is one that belongs there.
fn credential(key: &str) -> Option<&'static str> {
    match key {
        "username" | "user" => Some("username"),
        "password" | "pass" => Some("password"),
        "password2" | "pass2" => Some("password2"),
        "domain" | "dom" | "workgroup" => Some("domain"),
        _ => None,
    }
}

/// The options, at the commas that are not within a value in double quotes.
fn split(options: &str) -> Vec<&str> {
    let (mut quoted, mut previous) = (false, ',');
    let at_commas = |c| {
        // a quote in the middle of a value is a part of it, as in a password
        quoted = if quoted { c != '"' } else { c == '"' && previous == '=' };
        previous = c;
        c == ',' && !quoted
    };
    options.split(at_commas).filter(|option| !option.is_empty()).collect()
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// `text` of the mount command without the values that the options have.
pub(super) fn redact(export: &Export, text: &str) -> String {
    let whole = export.options().contains('=').then(|| export.options().to_owned());
    let values =
        split(export.options()).into_iter().filter_map(|option| option.split_once('=')).flat_map(|(key, value)| {
            // a bare '4' of 'vers=4' would take every 4 out of the text
            let alone = credential(key).is_some() || value.len() > 3;
            let value_alone = alone.then(|| unquoted(value).to_owned());
            [Some(format!("{key}={value}")), value_alone]
        });
    let mut secrets: Vec<String> = whole.into_iter().chain(values.flatten()).filter(|s| !s.is_empty()).collect();
    // a value may be part of another
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nas::repository::Repository;

    fn export(kind: &str, options: &str) -> Export {
        let some = |text: &str| Some(text.to_owned());
        Repository::check(Some(Repository { kind: some(kind), address: some("//h/s"), options: some(options) }))
            .unwrap()
    }

    #[test]
    fn cifs_credentials_leave_the_command_line() {
        let prepared = prepare(&export("cifs", "vers=3.0,username=a b,pass=p=w\"x,domain=D,nobrl,"));
        assert_eq!(prepared.credentials.unwrap(), "username=a b\npassword=p=w\"x\ndomain=D\n");
        assert_eq!(prepared.options, ["vers=3.0", "nobrl"]);
        let prepared = prepare(&export("cifs", "vers=3.0,,user=u,password=\"p,w\",dom=D,nobrl"));
        assert_eq!(prepared.credentials.unwrap(), "username=u\npassword=p,w\ndomain=D\n");
        assert_eq!(prepared.options, ["vers=3.0", "nobrl"]);
        let prepared = prepare(&export("nfs", "vers=4,username=x"));
        assert_eq!((prepared.options.len(), prepared.credentials), (2, None));
        assert_eq!(prepare(&export("cifs", "")), Prepared { options: vec![], credentials: None });
    }

    #[test]
    fn nothing_that_an_option_is_set_to_is_echoed() {
        let options = "vers=4,password=pw,user=me,sec=geheim";
        let text = redact(&export("cifs", options), &format!("{options}: error 4 at geheim, pw, vers=4"));
        assert_eq!(text, "***: error 4 at ***, ***, ***");
        assert_eq!(redact(&export("nfs", ""), "as it is"), "as it is");
    }
}
