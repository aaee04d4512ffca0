//! A chain of a machine that does not run: quick where everything is emulated.

use std::path::{Path, PathBuf};

use nasbackup::error::Result;
use nasbackup::operation::call;
use nasbackup::operation::take_backup::{self, StoppedDisk, TakeBackupRequest, TakenBackup};
use nasbackup::work::job::Listener;
use serde_json::{Value, json};

use crate::support::{Image, MIB, Nas, assert_same, folder, init, repository_json, run};

/// A machine with one disk, and its points.
pub(crate) struct Chain {
    vm: String,
    disk: PathBuf,
    pub(crate) nas: Nas,
    /// Those that are there: their paths, what was answered, and a raw copy of the disk at that moment.
    points: Vec<(String, TakenBackup, PathBuf)>,
    taken: usize,
}

impl Chain {
    pub(crate) fn new(nas: Nas) -> Chain {
        init();
        let own = folder("disk");
        let (disk, vm) = (own.join("disk"), format!("i-{}-VM", own.file_name().unwrap().display()));
        Image::Qcow2.create(&disk, 96 * MIB);
        let mut chain = Chain { vm, disk, nas, points: Vec::new(), taken: 0 };
        chain.write(0x11, 0, 2);
        chain
    }

    /// What its disk holds from now on, in MiB.
    pub(crate) fn write(&mut self, pattern: u8, at: u64, mib: u64) {
        let write = format!("write -q -P {pattern} {at}M {mib}M");
        run("qemu-io", ["-f", "qcow2", "-c", &write, self.disk.to_str().unwrap()]);
    }

    /// Backs it up, on top of the newest point if there is one.
    pub(crate) fn take(&mut self) -> Result<&TakenBackup> {
        self.take_and(|request| request, &mut |_| Ok(()))
    }

    /// The same, with what is changed of the request and who is told of its progress.
    pub(crate) fn take_and(
        &mut self,
        change: impl FnOnce(TakeBackupRequest) -> TakeBackupRequest,
        listener: Listener<'_>,
    ) -> Result<&TakenBackup> {
        let request = change(self.request());
        let path = request.backup_path.clone().unwrap();
        let taken = take_backup::run(request, listener)?;
        let copy = folder("copy").join("raw");
        run("qemu-img", ["convert", "-O", "raw", self.disk.to_str().unwrap(), copy.to_str().unwrap()]);
        self.points.push((path, taken, copy));
        Ok(&self.points.last().unwrap().1)
    }

    /// What asks for its next point.
    pub(crate) fn request(&mut self) -> TakeBackupRequest {
        self.taken += 1;
        let path = format!("{}/T{}", self.vm, self.taken);
        let parent = self.points.last().map(|(_, taken, _)| taken);
        TakeBackupRequest {
            vm_name: Some(self.vm.clone()),
            backup_path: Some(path),
            repository: Some(self.nas.repository()),
            mode: Some(if parent.is_some() { "incremental" } else { "full" }.into()),
            bitmap_new: Some(format!("backup-{}", self.taken)),
            bitmap_parent: parent.and_then(|parent| parent.parent_name.clone()),
            parent_paths: parent.map(|parent| parent.disks.iter().map(|disk| disk.file.clone()).collect()),
            disks: Some(vec![StoppedDisk {
                path: Some(self.disk.to_str().unwrap().into()),
                format: Some("qcow2".into()),
                backing: None,
            }]),
            ..Default::default()
        }
    }

    /// Runs an operation on one of its points.
    pub(crate) fn ask(&self, operation: &str, point: usize, more: Value) -> Result<Value> {
        self.ask_and(operation, point, more, &mut |_| Ok(()))
    }

    /// The same, with who is told of its progress.
    pub(crate) fn ask_and(&self, operation: &str, point: usize, more: Value, listener: Listener<'_>) -> Result<Value> {
        let repository = repository_json(&self.nas.repository());
        let mut request = json!({"repository": repository, "backupPath": self.points[point].0});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        call(operation, &request.to_string(), listener)
    }

    pub(crate) fn path(&self, point: usize) -> &str {
        &self.points[point].0
    }

    /// The file of its disk in a point.
    pub(crate) fn image(&self, point: usize) -> PathBuf {
        self.nas.at(&self.points[point].1.disks[0].file)
    }

    /// The number of its newest point.
    pub(crate) fn newest(&self) -> usize {
        self.points.len() - 1
    }

    /// What `restorePoint` is asked that puts this point's disk there.
    pub(crate) fn restored_to(&self, point: usize, path: &Path) -> Value {
        let output = json!({"path": path, "format": "raw"});
        json!([{"volume": self.points[point].1.disks[0].volume, "output": output}])
    }

    pub(crate) fn delete(&mut self, point: usize) -> Result<()> {
        self.ask("deleteBackup", point, json!({}))?;
        self.forget(point);
        Ok(())
    }

    /// It has been deleted.
    pub(crate) fn forget(&mut self, point: usize) {
        self.points.remove(point);
    }

    /// Every point is what it was, by its fingerprints and by its content.
    pub(crate) fn assert_good(&self) {
        for at in 0..self.points.len() {
            let data = self.ask("verifyData", at, json!({})).unwrap();
            assert_eq!(data["verdict"], "good", "{data}");
        }
        self.assert_restores();
    }

    /// Every point is what it was by its content, whether or not it has fingerprints.
    pub(crate) fn assert_restores(&self) {
        for (at, (.., copy)) in self.points.iter().enumerate() {
            let restored = folder("restored").join("disk");
            self.ask("restorePoint", at, json!({"volumes": self.restored_to(at, &restored)})).unwrap();
            assert_same(&restored, copy);
        }
    }

    /// All that can be done there: a full, incrementals, one of which goes, and then the full one, and restores.
    pub(crate) fn live(mut self) {
        self.write(0x12, 20, 8);
        for at in 1..=3 {
            self.write(0x20 + at, u64::from(at), 1);
            self.take().unwrap();
        }
        let newest = json!({"newParent": self.points[0].0});
        self.ask("rebasePoint", 2, newest).unwrap();
        self.delete(1).unwrap();
        self.assert_good();
        // where blocks are not shared its image takes the place of its child's
        let going = json!({"goingPoint": self.points[0].0});
        self.ask("rebasePoint", 1, going).unwrap();
        self.delete(0).unwrap();
        self.assert_good();
        self.delete(0).unwrap();
        let left = crate::support::listing(self.nas.root());
        assert!(left.iter().all(|(path, _)| !path.to_str().unwrap().contains("/T")), "{left:?}");
    }
}
