//! Another configuration for a test: those that change it run one at a time, for it is the process's.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nasbackup::config::{self, Config};

use super::init;

/// Puts a changed configuration into force until it is dropped.
pub struct Configured {
    before: Config,
    _alone: MutexGuard<'static, ()>,
}

/// Changes what is in force.
pub fn configured(change: impl FnOnce(&mut Config)) -> Configured {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    init();
    let before = Config::clone(&config::current());
    let mut changed = before.clone();
    change(&mut changed);
    config::set(changed.check().unwrap());
    Configured { before, _alone: alone }
}

impl Drop for Configured {
    fn drop(&mut self) {
        config::set(self.before.clone());
    }
}
