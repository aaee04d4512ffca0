//! The verdict on a file of a restore point.

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::plain::plain;

/// The verdict on a file, or on all of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing that was checked is wrong.
    Good,
    /// The check could not be made.
    Aborted,
    /// The file does not, or may not, read as it should.
    Bad,
}

/// One file of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedFile {
    /// Its path, relative to the repository's root.
    pub file: String,
    /// The verdict on it.
    pub verdict: Verdict,
    /// What is wrong, or worth knowing: a good image may have leaked clusters.
    pub reasons: Vec<String>,
}

impl VerifiedFile {
    pub(in crate::operation) fn good(file: &str) -> VerifiedFile {
        VerifiedFile { file: file.to_owned(), verdict: Verdict::Good, reasons: Vec::new() }
    }

    /// The same verdict, with texts that can be shown: names on a NAS may hold control characters.
    pub(super) fn plain(self) -> VerifiedFile {
        let reasons = self.reasons.iter().map(|reason| plain(reason).into_owned()).collect();
        VerifiedFile { file: plain(&self.file).into_owned(), reasons, ..self }
    }

    pub(in crate::operation) fn blame(&mut self, verdict: Verdict, reason: String) {
        self.verdict = self.verdict.max(verdict);
        self.reasons.push(reason);
    }

    /// Turns a failure to read the file into the verdict that nothing is known of it. The flag is true if the NAS does not answer, so
    /// that no other file can be checked either. An error that ends the whole call is returned as it is.
    pub(in crate::operation) fn excuse(&mut self, error: Error) -> Result<bool> {
        let gone = error.code == Code::NasUnresponsive;
        if gone || matches!(error.code, Code::Io | Code::PermissionDenied | Code::NotFound) {
            self.blame(Verdict::Aborted, error.reason());
            return Ok(gone);
        }
        Err(error)
    }
}
