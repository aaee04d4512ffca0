//! What a failed attempt teaches the next one.

use super::plan::Plan;
use crate::error::{Code, Error};

/// What earlier attempts of the same call have shown to be impossible, and why.
#[derive(Debug, Default)]
pub(super) struct Constraints {
    /// Why no disk can stand on the parent.
    pub parent: Option<String>,
    /// Why no disk can rely on the parent's bitmap.
    pub bitmap: Option<String>,
    /// Why the data can't be moved by pull.
    pub pull: Option<String>,
    /// The parent's checkpoint was lost, and an earlier attempt has made it again.
    pub recreated: bool,
}

/// Why an attempt has failed. An `error` with `PARENT_INVALID`: the point can't stand on the parent in the way that was
/// planned.
#[derive(Debug)]
pub(super) struct Failed {
    pub error: Error,
    pub lesson: FailureLesson,
}

/// What a failure has shown beyond its error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureLesson {
    Nothing,
    /// The parent can't be read: nothing can stand on it.
    ParentUnreadable,
    /// libvirt refused to begin a pull job that the library chose itself.
    PullRefused,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, lesson: FailureLesson::Nothing }
    }
}

impl Constraints {
    /// The constraints after an attempt that `failed`; `None` if another attempt would be no better.
    pub(super) fn learn(self, plan: &Plan, failed: &Failed) -> Option<Constraints> {
        let reason = failed.error.to_string();
        let known = Constraints { recreated: self.recreated || plan.recreated, ..self };
        match failed.lesson {
            FailureLesson::ParentUnreadable => Some(Constraints { parent: Some(reason), ..known }),
            FailureLesson::PullRefused => Some(Constraints { pull: Some(reason), ..known }),
            FailureLesson::Nothing if failed.error.code == Code::ParentInvalid => Some(known.after(plan, reason)),
            FailureLesson::Nothing => None,
        }
    }

    /// The constraints after `plan` could not stand on the parent: the next attempt compares the disks with the parent, unless
    /// `plan` did so already.
    fn after(self, plan: &Plan, reason: String) -> Constraints {
        if plan.relies_on_bitmap() {
            Constraints { bitmap: Some(reason), ..self }
        } else {
            Constraints { parent: Some(reason), ..self }
        }
    }
}
