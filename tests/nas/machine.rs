//! A machine that does not run, whose points are made without a guest.

use nasbackup::error::Result;
use nasbackup::operation::take_backup::{StoppedDisk, TakeBackupRequest, TakenBackup};
use serde_json::{Value, json};

use crate::run;
use crate::support::{Image, MIB, Nas, folder, init, run as command, take};

/// A machine with two disks, and its repository.
pub(crate) struct Machine {
    pub(crate) vm: &'static str,
    disks: Vec<StoppedDisk>,
    pub(crate) nas: Nas,
    /// What the next incremental stands on: a name and files.
    pub(crate) parent: Option<(String, Vec<String>)>,
}

impl Machine {
    /// Whose disks hold `mib` MiB of data each.
    pub(crate) fn new(vm: &'static str, nas: Nas, mib: u64) -> Machine {
        init();
        let disks = ["one", "two"].map(|name| {
            let path = folder("disk").join(name);
            Image::Qcow2.create(&path, mib * MIB);
            let path = path.to_str().unwrap().to_owned();
            command("qemu-io", ["-f", "qcow2", "-c", &format!("write -q -P 7 0 {mib}M"), &path]);
            StoppedDisk { path: Some(path), format: Some("qcow2".into()), ..StoppedDisk::default() }
        });
        Machine { vm, disks: disks.into(), nas, parent: None }
    }

    /// The name of a point.
    pub(crate) fn point(&self, number: u32) -> String {
        format!("{}/2026.01.02.03.04.0{number}", self.vm)
    }

    /// Makes a point: a full, or an incremental on the last one if there is one.
    pub(crate) fn back_up(&mut self, number: u32) -> Result<TakenBackup> {
        let taken = take(self.request(number))?;
        let files = taken.disks.iter().map(|disk| disk.file.clone()).collect();
        self.parent = taken.parent_name.clone().map(|name| (name, files));
        Ok(taken)
    }

    /// What asks for it.
    pub(crate) fn request(&self, number: u32) -> TakeBackupRequest {
        let parent = self.parent.as_ref();
        TakeBackupRequest {
            vm_name: Some(self.vm.into()),
            backup_path: Some(self.point(number)),
            repository: Some(self.nas.repository()),
            mode: Some(if parent.is_some() { "incremental" } else { "full" }.into()),
            bitmap_new: Some(format!("backup-{number}")),
            bitmap_parent: parent.map(|(name, _)| name.clone()),
            parent_paths: parent.map(|(_, files)| files.clone()),
            disks: Some(self.disks.clone()),
            ..Default::default()
        }
    }

    /// Deletes a point, in the repository as `nas` shows it.
    pub(crate) fn delete_by(&self, nas: &Nas, number: u32) -> Result<Value> {
        run(nas, "deleteBackup", json!({"backupPath": self.point(number)}))
    }

    /// Deletes a point.
    pub(crate) fn delete(&self, number: u32) -> Result<Value> {
        self.delete_by(&self.nas, number)
    }
}
