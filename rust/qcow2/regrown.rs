//! Was a disk made smaller and as large again since its parent point? QEMU's bitmap does not tell: what is cut off is
//! forgotten with its bits, and what is put back is clean, so that an incremental would show the parent's old data there.
//!
//! A cut takes everything from some offset on. So the last cluster that the parent's chain has and the target lacks is
//! looked at: unless a cut was made, the disk still has it. If the cut went through the middle of that cluster, the disk
//! ends in zeroes there where the parent does not.

use std::fs::File;
use std::ops::Range;

use super::Error;
use super::absorb::Failure;
use super::chain::{Chain, slice_size};
use super::image::{Image, What};
use super::view::{Layer, View};

/// What could not be read.
#[derive(Debug)]
pub enum Unread {
    /// The target.
    Target(Error),
    /// The image at this position of its parents.
    Parent(usize, Error),
    /// The disk's own images.
    Disk(Error),
}

impl Unread {
    fn of_parent(Failure { image, error }: Failure) -> Unread {
        Unread::Parent(image - 1, error)
    }
}

/// Does the incremental `target` lack something that was cut off the disk and that the images `parents`, its backing
/// file first, still show? `disk` are the disk's own images, the top one first; a raw one ends them.
pub fn regrown(target: File, parents: Vec<File>, disk: Vec<Layer>) -> Result<bool, Unread> {
    let mut target = Image::open(target, slice_size(1)).map_err(Unread::Target)?;
    let mut parents = Chain::open(parents).map_err(|(image, error)| Unread::Parent(image, error))?;
    let Some(kept) = last_kept(&mut target, &mut parents)? else { return Ok(false) };
    let mut disk = View::open_in_use(disk).map_err(Unread::Disk)?;
    if !has_data(&mut disk, &kept).map_err(Unread::Disk)? {
        return Ok(true);
    }
    let mut before = vec![0; usize::try_from(kept.end - kept.start).unwrap_or(0)];
    let mut now = before.clone();
    parents.read(kept.start, &mut before).map_err(Unread::of_parent)?;
    disk.read(kept.start, &mut now).map_err(Unread::Disk)?;
    Ok(without_zeroes(&now) < without_zeroes(&before))
}

/// The last cluster of the target, as guest offsets, in which it has nothing and its parents have data.
fn last_kept(target: &mut Image<File>, parents: &mut Chain) -> Result<Option<Range<u64>>, Unread> {
    let (size, covers, cluster) = (target.virtual_size(), target.table_covers(), target.cluster_size());
    for table in (0..target.l1_entries()).rev() {
        let end = ((table + 1) * covers).min(size);
        let (mut at, mut last) = (table * covers, None);
        while at < end {
            let own = target.extent(at).map_err(Unread::Target)?.limit(end - at);
            let mut length = own.length;
            if own.what == What::Unallocated {
                let images = 0..parents.images.len();
                let below = parents.provider(images, at, length).map_err(Unread::of_parent)?.extent;
                length = below.length;
                if matches!(below.what, What::Data(_) | What::Compressed(_)) {
                    last = Some(at + length - 1);
                }
            }
            at += length;
        }
        if let Some(last) = last {
            let start = last / cluster * cluster;
            return Ok(Some(start..(start + cluster).min(size)));
        }
    }
    Ok(None)
}

/// Does any image of the disk have data of its own in this range?
fn has_data(disk: &mut View, range: &Range<u64>) -> Result<bool, Error> {
    let raw = disk.raw.as_ref().map_or(0, |raw| raw.length);
    let mut at = range.start;
    while at < range.end {
        let images = 0..disk.images.images.len();
        let here = disk.images.provider(images, at, range.end - at).map_err(|failure| failure.error)?.extent;
        match here.what {
            What::Data(_) | What::Compressed(_) => return Ok(true),
            What::Unallocated if at < raw => return Ok(true),
            _ => at += here.length,
        }
    }
    Ok(false)
}

/// The length without the zeroes at the end.
fn without_zeroes(data: &[u8]) -> usize {
    data.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::*;

    fn run(program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn text(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    fn write(path: &Path, format: &str, command: &str) {
        run("qemu-io", &["-f", format, "-c", command, text(path)]);
    }

    /// A disk of 3 GiB on a raw template, backed up in full, compressed, and after a write as an incremental.
    struct Fixture {
        _folder: tempfile::TempDir,
        template: PathBuf,
        disk: PathBuf,
        full: PathBuf,
        target: PathBuf,
    }

    impl Fixture {
        fn new() -> Fixture {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            let (template, disk, full, target) = (at("template"), at("disk"), at("full"), at("target"));
            run("qemu-img", &["create", "-q", "-f", "raw", text(&template), "3G"]);
            write(&template, "raw", "write -P 7 2G 64k");
            let backing = ["-F", "raw", "-b", text(&template)];
            run("qemu-img", &[&["create", "-q", "-f", "qcow2"][..], &backing, &[text(&disk)]].concat());
            write(&disk, "qcow2", "write -P 8 1G 1M");
            run("qemu-img", &["convert", "-c", "-f", "qcow2", "-O", "qcow2", text(&disk), text(&full)]);
            let backing = ["-F", "qcow2", "-b", text(&full)];
            run("qemu-img", &[&["create", "-q", "-f", "qcow2"][..], &backing, &[text(&target)]].concat());
            Fixture { _folder: folder, template, disk, full, target }
        }

        fn regrown(&self) -> bool {
            let open = |path: &Path| File::open(path).unwrap();
            let layers = vec![Layer::Qcow2(open(&self.disk), None), Layer::Raw(open(&self.template))];
            regrown(open(&self.target), vec![open(&self.full)], layers).unwrap()
        }

        fn resize(&self, size: &str) {
            run("qemu-img", &["resize", "-q", "-f", "qcow2", "--shrink", text(&self.disk), size]);
        }
    }

    #[test]
    fn what_the_template_has_is_there() {
        assert!(!Fixture::new().regrown());
    }

    #[test]
    fn a_cut_is_seen_whatever_was_written_behind_it() {
        let fixture = Fixture::new();
        fixture.resize("2G");
        fixture.resize("3G");
        assert!(fixture.regrown());
        for image in [&fixture.disk, &fixture.target] {
            write(image, "qcow2", "write -P 9 2900M 1M");
        }
        assert!(fixture.regrown());
        // all that was cut off is in the incremental
        write(&fixture.target, "qcow2", "write -z 2G 1G");
        assert!(!fixture.regrown());
        fixture.resize("512M");
        fixture.resize("3G");
        assert!(fixture.regrown(), "a megabyte at 1 GiB went");
    }

    #[test]
    fn a_cut_through_a_cluster_is_seen_by_the_zeroes_at_its_end() {
        let fixture = Fixture::new();
        let cut = (2 << 30) + (60 << 10);
        fixture.resize(&cut.to_string());
        fixture.resize("3G");
        write(&fixture.disk, "qcow2", "write -P 7 2G 4k");
        assert!(fixture.regrown());
    }

    #[test]
    fn a_parent_without_data_hides_nothing() {
        let fixture = Fixture::new();
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&fixture.full), "3G"]);
        fixture.resize("512M");
        fixture.resize("3G");
        assert!(!fixture.regrown());
    }
}
