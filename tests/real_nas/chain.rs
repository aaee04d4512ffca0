//! A chain of a machine that does not run: quick where everything is emulated.

use std::path::PathBuf;

use nasbackup::error::Result;
use nasbackup::operation::call;
use nasbackup::operation::take_backup::{StoppedDisk, TakeBackupRequest, TakenBackup};
use serde_json::{Value, json};

use crate::support::{Image, MIB, Nas, folder, init, repository_json, run, take};

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
        self.taken += 1;
        let path = format!("{}/T{}", self.vm, self.taken);
        let parent = self.points.last().map(|(_, taken, _)| taken);
        let taken = take(TakeBackupRequest {
            vm_name: Some(self.vm.clone()),
            backup_path: Some(path.clone()),
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
        })?;
        let copy = folder("copy").join("raw");
        run("qemu-img", ["convert", "-O", "raw", self.disk.to_str().unwrap(), copy.to_str().unwrap()]);
        self.points.push((path, taken, copy));
        Ok(&self.points.last().unwrap().1)
    }

    /// Runs an operation on one of its points.
    pub(crate) fn ask(&self, operation: &str, point: usize, more: Value) -> Result<Value> {
        let repository = repository_json(&self.nas.repository());
        let mut request = json!({"repository": repository, "backupPath": self.points[point].0});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        call(operation, &request.to_string(), &mut |_| Ok(()))
    }

    pub(crate) fn delete(&mut self, point: usize) -> Result<()> {
        self.ask("deleteBackup", point, json!({}))?;
        self.points.remove(point);
        Ok(())
    }

    /// Every point is what it was, by its fingerprints and by its content.
    pub(crate) fn assert_good(&self) {
        for (at, (_, taken, copy)) in self.points.iter().enumerate() {
            let data = self.ask("verifyData", at, json!({})).unwrap();
            assert_eq!(data["verdict"], "good", "{data}");
            let restored = folder("restored").join("disk");
            let output = json!({"path": restored, "format": "raw"});
            let volumes = json!([{"volume": taken.disks[0].volume, "output": output}]);
            self.ask("restorePoint", at, json!({"volumes": volumes})).unwrap();
            run("cmp", [&restored, copy]);
        }
    }

    /// All that can be done there: a full, incrementals, one of which goes, and restores.
    pub(crate) fn live(mut self) {
        for at in 1..=3 {
            self.write(0x20 + at, u64::from(at), 1);
            self.take().unwrap();
        }
        let newest = json!({"newParent": self.points[0].0});
        self.ask("rebasePoint", 2, newest).unwrap();
        self.delete(1).unwrap();
        self.assert_good();
        self.delete(1).unwrap();
        self.delete(0).unwrap();
        let left = crate::support::listing(self.nas.root());
        assert!(left.iter().all(|(path, _)| !path.to_str().unwrap().contains("/T")), "{left:?}");
    }
}
