//! What is found of a file of a restore point.

use serde::Serialize;

use crate::error::{Code, Error, Result};
use crate::plain::plain;

/// What a file, or all of a point, is found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing that was checked is wrong.
    Good,
    /// It could not be found out.
    Aborted,
    /// It does not, or may not, read as it should.
    Bad,
}

/// One file of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedFile {
    /// Its path, relative to the repository's root.
    pub file: String,
    /// What it is found to be.
    pub verdict: Verdict,
    /// What is wrong, or worth knowing: a good image may have leaked clusters.
    pub reasons: Vec<String>,
}

impl VerifiedFile {
    pub(in crate::operation) fn good(file: &str) -> VerifiedFile {
        VerifiedFile { file: file.to_owned(), verdict: Verdict::Good, reasons: Vec::new() }
    }

    /// What is found, as it may be told.
    pub(super) fn plain(self) -> VerifiedFile {
        let reasons = self.reasons.iter().map(|reason| plain(reason).into_owned()).collect();
        VerifiedFile { file: plain(&self.file).into_owned(), reasons, ..self }
    }

    pub(in crate::operation) fn blame(&mut self, verdict: Verdict, reason: String) {
        self.verdict = self.verdict.max(verdict);
        self.reasons.push(reason);
    }

    /// What a failure to look at the file says of it: that nothing can be said. True when the NAS does not answer, so that no
    /// other file can be looked at either; the error itself when it is about the whole call.
    pub(in crate::operation) fn excuse(&mut self, error: Error) -> Result<bool> {
        let gone = error.code == Code::NasUnresponsive;
        if gone || matches!(error.code, Code::Io | Code::PermissionDenied | Code::NotFound) {
            self.blame(Verdict::Aborted, error.reason());
            return Ok(gone);
        }
        Err(error)
    }
}
