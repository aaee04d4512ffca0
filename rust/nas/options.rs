//! Mount options: which of them are secret, how the library keeps these from command lines and messages, and what it adds.

use super::repository::Export;

/// What goes on the command line, and what goes into a file of mode 0600.
#[derive(Debug, PartialEq, Eq)]
pub struct PreparedOptions {
    /// Options for `mount -o`.
    pub options: Vec<String>,
    /// The secrets, which the mount helper reads from a file.
    pub secret: Option<Secret>,
    /// True if the caller wants the kernel to follow symbolic links. Not passed to `mount`: old versions and some helpers don't
    /// know the option.
    pub follows_links: bool,
    /// True if the options say how long `mount` tries: the library does not try again then.
    pub tries_itself: bool,
}

/// The text of a file, and the option that names it to the mount helper.
#[derive(Debug, PartialEq, Eq)]
pub struct Secret {
    /// `credentials` of mount.cifs(8), `secretfile` of mount.ceph(8).
    pub option: &'static str,
    /// What the file holds.
    pub text: String,
}

/// Nobody runs programs from a NAS, and no file on it is a device of this host.
const CONFINED: [&str; 3] = ["nodev", "nosuid", "noexec"];

/// What is added for a CIFS server unless an option of the listed names is given. `nobrl`: QEMU's byte-range locks would be
/// mandatory at the server, and keep others from reading. The modes: a server that tells no rights gives its files to one user.
const CIFS: [(&str, &[&str]); 3] =
    [("nobrl", &["nobrl", "brl"]), ("file_mode=0600", &["file_mode"]), ("dir_mode=0700", &["dir_mode"])];

/// What is added for an NFS server: by itself `mount` tries a refusing server for two minutes, which is longer than its limit,
/// and nobody would hear why. The library tries again instead.
const NFS: [(&str, &[&str]); 1] = [("retry=0", &["retry"])];

/// Adds the options that confine the mount, unless the export's options say otherwise, and takes the secrets out, for the types
/// whose helpers read them from a file.
pub fn prepare(export: &Export) -> PreparedOptions {
    let cifs = matches!(export.kind(), "cifs" | "smb3");
    let (option, line): (_, fn(&str, &str) -> Option<String>) = match export.kind() {
        _ if cifs => ("credentials", |key, value| Some(format!("{}={}\n", credential(key)?, unquoted(value)))),
        "ceph" => ("secretfile", |key, value| (key == "secret").then(|| value.to_owned())),
        _ => ("", |_, _| None),
    };
    let nfs = matches!(export.kind(), "nfs" | "nfs4");
    let options = CONFINED.map(str::to_owned).to_vec();
    let mut prepared = PreparedOptions { options, secret: None, follows_links: false, tries_itself: false };
    for each in split(export.options()) {
        match each {
            "symfollow" | "nosymfollow" => {
                prepared.follows_links = each == "symfollow";
                continue;
            }
            // `mount` would go on in the background, and mount when nobody waits any more
            "bg" if nfs => continue,
            _ => {}
        }
        match each.split_once('=').and_then(|(key, value)| line(key, value)) {
            Some(line) => {
                let secret = prepared.secret.get_or_insert_with(|| Secret { option, text: String::new() });
                secret.text += &line;
            }
            None => prepared.options.push(each.to_owned()),
        }
    }
    let own: &[(&str, &[&str])] = match export.kind() {
        _ if cifs => &CIFS,
        _ if nfs => &NFS,
        _ => &[],
    };
    let is_given = |name: &str| prepared.options.iter().any(|option| option.split('=').next() == Some(name));
    prepared.tries_itself = nfs && is_given("retry");
    let own = own.iter().filter(|(_, names)| !names.iter().any(|name| is_given(name)));
    let own: Vec<_> = own.map(|(option, _)| (*option).to_owned()).collect();
    prepared.options.extend(own);
    prepared
}

/// The name of an option in a credentials file; `None` if the option does not belong there.
fn credential(key: &str) -> Option<&'static str> {
    match key {
        "username" | "user" => Some("username"),
        "password" | "pass" => Some("password"),
        "password2" | "pass2" => Some("password2"),
        "domain" | "dom" | "workgroup" => Some("domain"),
        _ => None,
    }
}

/// Splits the options at commas that are not within a value in double quotes.
fn split(options: &str) -> Vec<&str> {
    let (mut quoted, mut previous) = (false, ',');
    let at_commas = |c| {
        // a quote in the middle of a value is a part of the value, as in a password
        quoted = if quoted { c != '"' } else { c == '"' && previous == '=' };
        previous = c;
        c == ',' && !quoted
    };
    options.split(at_commas).filter(|option| !option.is_empty()).collect()
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// Removes the options' values from a `text` of the mount command.
pub fn redact(export: &Export, text: &str) -> String {
    let whole = export.options().contains('=').then(|| export.options().to_owned());
    let values =
        split(export.options()).into_iter().filter_map(|option| option.split_once('=')).flat_map(|(key, value)| {
            // without the key, the '4' of 'vers=4' would match every 4 in the text
            let alone = key == "secret" || credential(key).is_some() || value.len() > 3;
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

    /// The options without those that confine it, which come first: of two that differ `mount` takes the last.
    fn given(prepared: &PreparedOptions) -> &[String] {
        prepared.options.strip_prefix(&CONFINED.map(str::to_owned)).unwrap()
    }

    #[test]
    fn cifs_credentials_leave_the_command_line() {
        let prepared = prepare(&export("cifs", "vers=3.0,username=a b,pass=p=w\"x,domain=D,nobrl,"));
        let credentials = |text: &str| Some(Secret { option: "credentials", text: text.to_owned() });
        assert_eq!(prepared.secret, credentials("username=a b\npassword=p=w\"x\ndomain=D\n"));
        let options = ["vers=3.0", "nobrl", "file_mode=0600", "dir_mode=0700"];
        assert_eq!(given(&prepared), options);
        let prepared = prepare(&export("cifs", "vers=3.0,,user=u,password=\"p,w\",dom=D,nobrl"));
        assert_eq!(prepared.secret, credentials("username=u\npassword=p,w\ndomain=D\n"));
        assert_eq!(given(&prepared), options);
        let prepared = prepare(&export("nfs", "vers=4,username=x"));
        assert_eq!((given(&prepared).len(), prepared.secret), (3, None));
    }

    #[test]
    fn a_cifs_server_gets_no_byte_range_lock_and_nobody_else_its_files_unless_it_is_asked_for() {
        let options = |kind, options| given(&prepare(&export(kind, options))).to_vec();
        assert_eq!(options("cifs", ""), ["nobrl", "file_mode=0600", "dir_mode=0700"]);
        assert_eq!(options("smb3", "vers=3.1.1"), ["vers=3.1.1", "nobrl", "file_mode=0600", "dir_mode=0700"]);
        assert_eq!(options("cifs", "nobrl,ro,dir_mode=0750"), ["nobrl", "ro", "dir_mode=0750", "file_mode=0600"]);
        assert_eq!(options("cifs", "brl,file_mode=0640,dir_mode=0750"), ["brl", "file_mode=0640", "dir_mode=0750"]);
        assert_eq!(options("nfs", "vers=4"), ["vers=4", "retry=0"]);
        assert_eq!(options("nfs4", "retry=1"), ["retry=1"]);
        assert_eq!(options("nfs", "bg,vers=3"), ["vers=3", "retry=0"]);
        assert_eq!(options("ext4", "loop"), ["loop"]);
    }

    #[test]
    fn whether_links_are_followed_is_no_option_of_the_mount_program() {
        for (options, follows) in [("", false), ("symfollow,vers=4", true), ("symfollow,nosymfollow,vers=4", false)] {
            let prepared = prepare(&export("nfs", options));
            assert_eq!(prepared.follows_links, follows, "{options}");
            assert!(given(&prepared).iter().all(|option| option == "vers=4" || option == "retry=0"), "{options}");
        }
    }

    #[test]
    fn with_the_caller_s_own_retry_the_library_does_not_try_again() {
        for (kind, options, itself) in [("nfs", "", false), ("nfs", "retry=0", true), ("cifs", "retry=0", false)] {
            assert_eq!(prepare(&export(kind, options)).tries_itself, itself, "{kind} {options}");
        }
    }

    #[test]
    fn a_ceph_key_leaves_the_command_line() {
        let prepared = prepare(&export("ceph", "name=admin,secret=QVFE==,noatime"));
        assert_eq!(prepared.secret, Some(Secret { option: "secretfile", text: "QVFE==".to_owned() }));
        assert_eq!(given(&prepared), ["name=admin", "noatime"]);
    }

    #[test]
    fn no_option_s_value_is_shown() {
        let options = "vers=4,password=pw,user=me,sec=geheim";
        let text = redact(&export("cifs", options), &format!("{options}: error 4 at geheim, pw, vers=4"));
        assert_eq!(text, "***: error 4 at ***, ***, ***");
        assert_eq!(redact(&export("nfs", ""), "as it is"), "as it is");
    }
}
