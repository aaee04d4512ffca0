//! The one error type: a stable code, the step that failed, the disk it concerned, and the cause in words.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use serde::Serialize;

use crate::plain::plain;

/// Result of everything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Long work was told to end, or nobody waits for it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ended by its caller")]
pub struct Stopped;

impl Stopped {
    /// The error of whoever was told so. Who has told it has its own reason.
    pub fn error(self) -> Error {
        Error::new(Code::Cancelled, "go on", self)
    }
}

/// What a caller branches on. The names are stable: Java and C see them as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// A field of the request is missing, malformed or contradicts another; nothing was touched.
    InvalidArgument,
    /// The restore point, or the bitmap that names it, is there already.
    AlreadyExists,
    /// Another image names a file of the point as its backing file.
    HasChildren,
    /// libvirt does not know the domain.
    DomainNotFound,
    /// The domain is not in a state in which this can be done.
    DomainState,
    /// Another job holds the domain, the restore points or the repository, or as many backups run as may.
    Busy,
    /// The parent given for a rebase, verification or flattening can't serve.
    ParentInvalid,
    /// An image's metadata contradicts itself or its specification.
    CorruptImage,
    /// An image uses a feature that is not supported.
    UnsupportedImage,
    /// The repository or the scratch folder is full, or a quota is used up.
    NoSpace,
    /// The operating system, or the NAS, refuses access.
    PermissionDenied,
    /// The NAS did not answer within the deadline.
    NasUnresponsive,
    /// The repository could not be mounted.
    MountFailed,
    /// A file or folder that the request names is not there.
    NotFound,
    /// The hypervisor ended the backup job with an error.
    JobFailed,
    /// A libvirt call failed.
    Libvirt,
    /// The guest's file systems could not be frozen.
    QuiesceFailed,
    /// The caller cancelled the job.
    Cancelled,
    /// The job did not end within `waitSeconds`.
    Timeout,
    /// Any other input or output error.
    Io,
    /// A defect of this library.
    Internal,
    /// The Java side and the native library are of different versions.
    VersionMismatch,
}

impl Code {
    /// The code as callers see it, e.g. `NO_SPACE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::HasChildren => "HAS_CHILDREN",
            Code::DomainNotFound => "DOMAIN_NOT_FOUND",
            Code::DomainState => "DOMAIN_STATE",
            Code::Busy => "BUSY",
            Code::ParentInvalid => "PARENT_INVALID",
            Code::CorruptImage => "CORRUPT_IMAGE",
            Code::UnsupportedImage => "UNSUPPORTED_IMAGE",
            Code::NoSpace => "NO_SPACE",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::NasUnresponsive => "NAS_UNRESPONSIVE",
            Code::MountFailed => "MOUNT_FAILED",
            Code::NotFound => "NOT_FOUND",
            Code::JobFailed => "JOB_FAILED",
            Code::Libvirt => "LIBVIRT",
            Code::QuiesceFailed => "QUIESCE_FAILED",
            Code::Cancelled => "CANCELLED",
            Code::Timeout => "TIMEOUT",
            Code::Io => "IO",
            Code::Internal => "INTERNAL",
            Code::VersionMismatch => "VERSION_MISMATCH",
        }
    }

    /// The code for a system error: a full disk and a refused access are told apart from the rest.
    fn of_io(error: &io::Error) -> Code {
        match errno(error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Code::NoSpace,
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Code::PermissionDenied,
            Some(Errno::NOENT) => Code::NotFound,
            Some(Errno::EXIST) => Code::AlreadyExists,
            _ => Code::Io,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure. Its `Display` is one plain line that is enough for an operator:
/// `NO_SPACE: begin backup, disk 'vda': No space left on device (os error 28)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What a caller branches on.
    pub code: Code,
    /// What was being done, as a verb phrase: `create the target`.
    pub step: &'static str,
    /// Target name (`vda`) or path of the disk that it concerned.
    pub disk: Option<String>,
    /// Why it failed, in words, which others may have a part in: plain only once it is displayed.
    pub cause: String,
    /// Something that this call made could not be cleaned away.
    pub leftovers: bool,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk.as_ref().map(|disk| format!(", disk '{disk}'")).unwrap_or_default();
        f.write_str(&plain(&format!("{}: {}{disk}: {}", self.code, self.step, self.cause)))
    }
}

impl std::error::Error for Error {}

impl Error {
    /// An error at `step` because of `cause`.
    pub fn new(code: Code, step: &'static str, cause: impl fmt::Display) -> Error {
        let cause = cause.to_string().trim().replace('\n', "; ");
        Error { code, step, disk: None, cause, leftovers: false }
    }

    /// `field` of the request is wrong because of `cause`. Only before any effect.
    pub fn invalid(field: &str, cause: impl fmt::Display) -> Error {
        Error::new(Code::InvalidArgument, "check the request", format!("{field}: {cause}"))
    }

    /// A system call on `path` failed at `step`; the code follows from the error number.
    pub fn io(step: &'static str, path: impl AsRef<Path>, error: impl Into<io::Error>) -> Error {
        let error = error.into();
        let stale = errno(&error) == Some(Errno::STALE);
        let hint = if stale {
            ": the server was set up anew, or exports it no more: the repository has to be mounted again"
        } else {
            ""
        };
        Error::new(Code::of_io(&error), step, format!("'{}': {error}{hint}", path.as_ref().display()))
    }

    /// What failed and why, for who tells of it elsewhere than in an error.
    pub fn reason(&self) -> String {
        format!("{}: {}", self.step, self.cause)
    }

    /// The same error, for the disk `disk` unless it names one already.
    pub fn on_disk(mut self, disk: &str) -> Error {
        self.disk.get_or_insert_with(|| disk.to_owned());
        self
    }

    /// The same error, saying that something this call made is still there: `what`.
    pub fn with_leftover(mut self, what: impl fmt::Display) -> Error {
        self.cause = format!("{}; left behind: {what}", self.cause);
        self.leftovers = true;
        self
    }
}

/// A system call's error, with its name: of a step that makes several, one alone has failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {error}")]
struct Called {
    call: &'static str,
    #[source]
    error: io::Error,
}

/// Gives the error the name of the system call that it is of.
pub fn called(call: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), Called { call, error })
}

/// The number of a system call's error, with a name or without.
pub fn errno(error: &io::Error) -> Option<Errno> {
    let named = error.get_ref().and_then(|inner| inner.downcast_ref::<Called>());
    Errno::from_io_error(named.map_or(error, |named| &named.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_code_step_disk_and_cause() {
        let error = Error::new(Code::NoSpace, "create the target", "disk\nfull\n").on_disk("vda").on_disk("vdb");
        assert_eq!(error.to_string(), "NO_SPACE: create the target, disk 'vda': disk; full");
        let error = error.with_leftover("folder 'x'");
        assert!(error.leftovers);
        assert!(error.to_string().ends_with("left behind: folder 'x'"));
    }

    #[test]
    fn what_others_have_written_is_plain_in_an_error() {
        let folder = Path::new("/nas/i-1/T1\r\u{1b}[2J\nERROR: forged");
        let error = Error::io("open", folder, std::io::Error::from_raw_os_error(2)).on_disk("vd\na\u{202e}");
        let told = error.with_leftover("a\u{9b}b").to_string();
        assert!(
            told.starts_with("NOT_FOUND: open, disk 'vd\\na\\u{202e}': '/nas/i-1/T1\\r\\u{1b}[2J; ERROR"),
            "{told}"
        );
        assert!(told.ends_with("left behind: a\\u{9b}b"), "{told}");
    }

    #[test]
    fn the_text_of_a_code_is_its_serialized_form() {
        for code in [Code::InvalidArgument, Code::NasUnresponsive, Code::Io, Code::VersionMismatch, Code::HasChildren] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn a_stale_handle_says_what_helps() {
        let error = Error::io("open", "/x", std::io::Error::from_raw_os_error(116));
        assert!(error.cause.ends_with("the repository has to be mounted again"), "{error}");
    }

    #[test]
    fn an_error_with_its_call_s_name_keeps_its_number() {
        let error = called("write")(io::Error::from_raw_os_error(28));
        assert_eq!((errno(&error), error.kind()), (Some(Errno::NOSPC), io::ErrorKind::StorageFull));
        let error = Error::io("copy", "/x", error);
        assert_eq!(error.to_string(), "NO_SPACE: copy: '/x': write: No space left on device (os error 28)");
        assert_eq!(errno(&io::Error::other("no number")), None);
    }

    #[test]
    fn error_numbers_become_codes() {
        for (errno, code) in [
            (28, Code::NoSpace),
            (122, Code::NoSpace),
            (13, Code::PermissionDenied),
            (30, Code::PermissionDenied),
            (2, Code::NotFound),
            (5, Code::Io),
        ] {
            assert_eq!(Error::io("open", "/x", std::io::Error::from_raw_os_error(errno)).code, code, "{errno}");
        }
    }
}
