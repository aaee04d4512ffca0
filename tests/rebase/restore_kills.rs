//! `restorePoint`, killed at each of its steps: once the next call has ended all is old or all is new, and nothing is left.
#![cfg(feature = "test-hooks")]

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nasbackup::digest::Digest;
use nasbackup::error::Code;
use nasbackup::nas::folder::Folder;
use nasbackup::point::{MANIFEST, Manifest, NVRAM};
use serde_json::{Value, json};

use crate::flatten::Loop;
use crate::restore::{FILES, Points, QUICK, all, in_a_process, restore};

const OLD: &[u8] = b"as it was";

fn begin() -> tempfile::TempDir {
    let out = tempfile::tempdir_in(QUICK).unwrap();
    FILES.iter().for_each(|file| fs::write(out.path().join(file), OLD).unwrap());
    out
}

/// The steps of the call from the first output on, each once.
fn steps(request: &Value) -> Vec<String> {
    let steps = in_a_process(request, None);
    let begun = steps.iter().position(|step| step.starts_with("open the outputs")).unwrap();
    steps[begun..].to_vec()
}

/// Whether each file has what the point has of it; what it was else.
fn new(points: &Points, out: &Path) -> Vec<bool> {
    let is_new = |(file, disk): (&&str, &Vec<u8>)| {
        let now = fs::read(out.join(file)).unwrap();
        assert!(now == OLD || now == *disk, "{file} is neither old nor new");
        now == *disk
    };
    FILES.iter().zip(&points.disks).map(is_new).collect()
}

#[test]
fn two_files_are_all_old_or_all_new_whatever_the_step_and_nothing_of_it_is_left() {
    let points = Points::make(2, 1 << 20);
    let (mut all_old, mut all_new) = (0, 0);
    for keep in [false, true] {
        let request = |out: &Path| {
            let mut request = points.request(out, "qcow2");
            (request["keepOld"], request["verify"]) = (json!(keep), json!("data"));
            (0..FILES.len()).for_each(|i| request["volumes"][i]["output"]["format"] = json!("raw"));
            request
        };
        let steps = steps(&request(begin().path()));
        let first = if keep { steps.iter().position(|step| step.starts_with("publish")).unwrap() } else { 0 };
        for step in &steps[first..] {
            let out = begin();
            in_a_process(&request(out.path()), Some(step));
            // the next call fails after it has looked at what was left
            let mut failing = request(out.path());
            failing["volumes"][1]["output"]["size"] = json!(512);
            assert_eq!(restore(&failing).unwrap_err().code, Code::InvalidArgument, "{step}");
            let new = new(&points, out.path());
            assert_eq!(new[0], new[1], "{step}");
            *if new[0] { &mut all_new } else { &mut all_old } += 1;
            // and another one that succeeds
            restore(&points.request(out.path(), "raw")).unwrap();
            points.assert_restored(out.path(), "raw");
            let mut left = all(out.path());
            FILES.iter().for_each(|file| drop(left.remove(&out.path().join(file))));
            // what was asked to be kept is where something was replaced
            assert_eq!(left.len(), if keep && new[0] { 2 } else { 0 }, "{step}: {:?}", left.keys());
            assert!(left.values().all(|kept| kept == OLD), "{step}");
        }
    }
    assert!(all_old > 10 && all_new > 8, "{all_old} old, {all_new} new");
}

/// Has the last point hold UEFI variables.
fn hold_variables(points: &Points, variables: &[u8]) {
    let at = points.dir.path().join(points.last());
    fs::write(at.join(NVRAM), variables).unwrap();
    let manifest = Manifest::read(&Folder::open_root(&at).unwrap()).unwrap().unwrap();
    let texts = Some([(NVRAM.to_owned(), Digest::of(variables))].into());
    Manifest { texts, checksum: None, ..manifest }.write(&File::create(at.join(MANIFEST)).unwrap()).unwrap();
}

#[test]
fn what_a_machine_remembers_is_old_or_new_together_with_its_disks_whatever_the_step() {
    let (points, variables) = (Points::make(2, 1 << 20), vec![7; 5000]);
    hold_variables(&points, &variables);
    let request = |out: &Path| {
        let mut request = points.request(out, "raw");
        request["nvramPath"] = json!(out.join("vars"));
        request
    };
    let begin = || {
        let out = begin();
        fs::write(out.path().join("vars"), OLD).unwrap();
        out
    };
    let (mut all_old, mut all_new) = (0, 0);
    for step in steps(&request(begin().path())) {
        let out = begin();
        let vars = || fs::read(out.path().join("vars")).unwrap();
        in_a_process(&request(out.path()), Some(&step));
        // the next call fails after it has looked at what was left
        let mut failing = request(out.path());
        failing["volumes"][1]["output"]["size"] = json!(512);
        assert_eq!(restore(&failing).unwrap_err().code, Code::InvalidArgument, "{step}");
        let disks = new(&points, out.path());
        let expected = if disks[0] { &variables[..] } else { OLD };
        assert!(disks[0] == disks[1] && vars() == expected, "{step}: {disks:?}");
        *if disks[0] { &mut all_new } else { &mut all_old } += 1;
        restore(&request(out.path())).unwrap();
        points.assert_restored(out.path(), "raw");
        assert!(vars() == variables && all(out.path()).len() == 3, "{step}");
    }
    assert!(all_old > 5 && all_new > 2, "{all_old} old, {all_new} new");
}

/// What a device held is gone once it is written to: the call made again is what makes it whole.
#[test]
fn a_device_is_whole_after_the_next_call_and_is_not_touched_before_the_file_is() {
    let points = Points::make(2, 1 << 20);
    let (device, size) = (Loop::full(2 << 20), 2 << 20);
    let content = || {
        let mut content = Vec::new();
        device.open().read_to_end(&mut content).unwrap();
        content
    };
    let request = |out: &Path| {
        let mut request = points.request(out, "raw");
        request["volumes"][0]["output"]["path"] = json!(device.device);
        (request["keepOld"], request["keepOldIn"]) = (json!(true), json!(out));
        request
    };
    let before = vec![0xa5; size];
    for step in steps(&request(begin().path())) {
        device.open().write_all_at(&before, 0).unwrap();
        let out = begin();
        in_a_process(&request(out.path()), Some(&step));
        if step.starts_with("open")
            || step.starts_with("keep")
            || ["copy:1", "copy:2", "sync:1"].contains(&step.as_str())
        {
            assert!(content() == before, "{step}");
        }
        let file = out.path().join(FILES[1]);
        let now = fs::read(&file).unwrap();
        assert!(now == OLD || now == points.disks[1] && content()[..1 << 20] == points.disks[0], "{step}");
        restore(&request(out.path())).unwrap();
        let mut wanted = points.disks[0].clone();
        wanted.resize(size, 0);
        assert!(content() == wanted && fs::read(&file).unwrap() == points.disks[1], "{step}");
        fs::remove_file(out.path().join(FILES[0])).unwrap();
        // what is kept is whole, and nothing else is there
        let mut left = all(out.path());
        left.remove(&file);
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(
            left.keys().all(|path| name(path).contains(".kept-") && !name(path).starts_with('.')),
            "{step}: {left:?}"
        );
        let (files, devices): (Vec<_>, Vec<_>) = left.iter().partition(|(path, _)| name(path).starts_with(FILES[1]));
        assert!(
            (1..=2).contains(&files.len())
                && files.iter().all(|(_, kept)| kept[..] == *OLD || **kept == points.disks[1])
        );
        assert!((1..=2).contains(&devices.len()) && devices.iter().any(|(_, kept)| **kept == before), "{step}");
    }
}
