//! Was a disk made smaller and as large again since its parent point? QEMU's bitmap does not tell: what is cut off is
//! forgotten with its bits, and what is put back is clean, so that an incremental would show the parent's old data there.
//!
//! A cut takes everything from some offset on. So the last place is looked for in which the target has nothing and the
//! parent's chain something other than zeroes: unless a cut was made, the disk still has it. If the cut went through the
//! middle of that cluster, the disk ends in zeroes there where the parent does not.
//!
//! Only the contents decide. Where a parent has zeroes as data the disk often has none: QEMU copies a cluster whole of which
//! one part is zero in this and another in that way.

use std::fs::File;
use std::ops::Range;
use std::time::Instant;

use super::Error;
use super::chain::ImageFailure;
use super::chain::{Chain, slice_size};
use super::image::{Image, What};
use super::storage::Source;
use super::view::{Layer, View};

/// How much of the parents is read at once when the first cluster held nothing but zeroes.
const CHUNK: u64 = 1 << 20;
/// So many bytes of zeroes are looked at that the parents and the disk both hold as data. Somebody has written them: what a
/// cut takes is put back without data, unless it was asked for to be allocated, or the disk has a data file.
const WRITTEN_ZEROES: u64 = if cfg!(test) { 8 << 20 } else { 256 << 20 };
/// And so many that the parents hold as data and the disk does not, or may not, as after a copy of the disk that left zeroes out. More
/// would take as long as a full, which brings the two together.
const OTHER_ZEROES: u64 = if cfg!(test) { 16 << 20 } else { 4 << 30 };

/// What could not be read, so that a cut would not be seen.
#[derive(Debug)]
pub enum Unseen {
    /// The target.
    Target(Error),
    /// The image at this position of its parents.
    Parent(usize, Error),
    /// The disk's own images, or too much would have to be compared with them, or for too long.
    Disk(Error),
}

impl Unseen {
    fn of_parent(ImageFailure { image, error }: ImageFailure) -> Unseen {
        Unseen::Parent(image - 1, error)
    }
}

/// Does the incremental `target` lack something that was cut off the disk and that the images `parents`, its backing
/// file first, still show? `disk` are the disk's own images, the top one first; a raw one ends them. Zeroes are not read for
/// longer than `until`.
pub fn hides_a_shrink(
    target: impl Source,
    parents: Vec<File>,
    disk: Vec<Layer>,
    until: Instant,
) -> Result<bool, Unseen> {
    let mut target = Image::open(target, slice_size(1)).map_err(Unseen::Target)?;
    let mut parents = Chain::open(parents).map_err(|(image, error)| Unseen::Parent(image, error))?;
    // QEMU maps all that it puts back of a disk with such a file, so that nobody need have written it
    let data_file = disk.iter().any(|layer| matches!(layer, Layer::Qcow2(_, Some(_))));
    let mut disk = View::open_in_use(disk).map_err(Unseen::Disk)?;
    let (mut most, mut written, mut others) = (target.cluster_size(), 0, 0);
    for table in (0..target.l1_entries()).rev() {
        for kept in kept(&mut target, &mut parents, table)?.into_iter().rev() {
            let mut end = kept.end;
            while end > kept.start {
                let range = kept.start.max(end.saturating_sub(most))..end;
                if let Some(last) = last_byte(&mut parents, &range)? {
                    // a guest that runs may have written to the cluster meanwhile
                    let cluster_end = (last + 1).next_multiple_of(target.cluster_size()).min(target.virtual_size());
                    return is_zero(&mut disk, last..cluster_end).map_err(Unseen::Disk);
                }
                let data = if data_file { 0 } else { data_in(&mut disk, &range).map_err(Unseen::Disk)? };
                (written, others) = (written + data, others + (range.end - range.start) - data);
                if written >= WRITTEN_ZEROES {
                    return Ok(false);
                }
                if others >= OTHER_ZEROES {
                    let what =
                        format!("the parent's images end in {others} bytes of zeroes stored as data: too many to read");
                    return Err(Unseen::Disk(Error::Unsupported(what)));
                }
                if Instant::now() >= until {
                    let what = "the parent's images end in zeroes stored as data: no time to read them all";
                    return Err(Unseen::Disk(Error::Unsupported(what.to_owned())));
                }
                (end, most) = (range.start, CHUNK);
            }
        }
    }
    Ok(false)
}

/// The guest offsets that the L2 table at this index of the target's L1 table stands for, in which the target has nothing
/// and its parents have data.
fn kept(target: &mut Image<impl Source>, parents: &mut Chain, table: u64) -> Result<Vec<Range<u64>>, Unseen> {
    let covers = target.table_covers();
    let (mut at, end) = (table * covers, ((table + 1) * covers).min(target.virtual_size()));
    let mut kept: Vec<Range<u64>> = Vec::new();
    while at < end {
        let own = target.extent(at).map_err(Unseen::Target)?.limit(end - at);
        let mut length = own.length;
        if own.what == What::Unallocated {
            let images = 0..parents.images.len();
            let below = parents.provider(images, at, length).map_err(Unseen::of_parent)?.extent;
            length = below.length;
            if matches!(below.what, What::Data(_) | What::Compressed(_)) {
                match kept.last_mut() {
                    Some(last) if last.end == at => last.end += length,
                    _ => kept.push(at..at + length),
                }
            }
        }
        at += length;
    }
    Ok(kept)
}

/// The last byte in this range that is not zero.
fn last_byte(parents: &mut Chain, range: &Range<u64>) -> Result<Option<u64>, Unseen> {
    let mut data = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
    parents.read(range.start, &mut data).map_err(Unseen::of_parent)?;
    Ok(data.iter().rposition(|byte| *byte != 0).map(|last| range.start + last as u64))
}

/// Does the disk have nothing but zeroes in this range?
fn is_zero(disk: &mut View, range: Range<u64>) -> Result<bool, Error> {
    let mut data = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
    disk.read(range.start, &mut data)?;
    Ok(data.iter().all(|byte| *byte == 0))
}

/// How many bytes of this range the disk holds as data.
fn data_in(disk: &mut View, range: &Range<u64>) -> Result<u64, Error> {
    let (mut at, mut bytes) = (range.start, 0);
    while at < range.end {
        let (length, data) = disk.extent(at, range.end - at)?;
        bytes += if data { length } else { 0 };
        at += length;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    fn in_time() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

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

        fn hides_a_shrink(&self) -> bool {
            let open = |path: &Path| File::open(path).unwrap();
            let layers = vec![Layer::Qcow2(open(&self.disk), None), Layer::Raw(open(&self.template))];
            hides_a_shrink(open(&self.target), vec![open(&self.full)], layers, in_time()).unwrap()
        }

        fn resize(&self, size: &str) {
            run("qemu-img", &["resize", "-q", "-f", "qcow2", "--shrink", text(&self.disk), size]);
        }
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn what_the_template_has_is_there() {
        assert!(!Fixture::new().hides_a_shrink());
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_cut_is_seen_whatever_was_written_behind_it() {
        let fixture = Fixture::new();
        fixture.resize("2G");
        fixture.resize("3G");
        assert!(fixture.hides_a_shrink());
        for image in [&fixture.disk, &fixture.target] {
            write(image, "qcow2", "write -P 9 2900M 1M");
        }
        assert!(fixture.hides_a_shrink());
        // all that was cut off is in the incremental
        write(&fixture.target, "qcow2", "write -z 2G 1G");
        assert!(!fixture.hides_a_shrink());
        fixture.resize("512M");
        fixture.resize("3G");
        assert!(fixture.hides_a_shrink(), "a megabyte at 1 GiB went");
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_cut_through_a_cluster_is_seen_by_the_zeroes_at_its_end() {
        let fixture = Fixture::new();
        let cut = (2 << 30) + (60 << 10);
        fixture.resize(&cut.to_string());
        fixture.resize("3G");
        write(&fixture.disk, "qcow2", "write -P 7 2G 4k");
        assert!(fixture.hides_a_shrink());
    }

    /// As QEMU copies a cluster of which the disk has one part as zeroes, and another not at all.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn zeroes_that_the_parent_has_as_data_are_no_cut() {
        let fixture = Fixture::new();
        for at in ["2900M 3M", "2500M 64k", "2560M 1M"] {
            write(&fixture.full, "qcow2", &format!("write -P 0 {at}"));
        }
        assert!(!fixture.hides_a_shrink());
        fixture.resize("2G");
        fixture.resize("3G");
        assert!(fixture.hides_a_shrink(), "what lies before the zeroes went");
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_disk_that_was_put_back_allocated_is_seen() {
        let fixture = Fixture::new();
        write(&fixture.full, "qcow2", "write -P 0 2900M 3M");
        fixture.resize("2G");
        run("qemu-img", &["resize", "-q", "-f", "qcow2", "--preallocation=falloc", text(&fixture.disk), "3G"]);
        assert!(fixture.hides_a_shrink());
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn of_too_many_zeroes_it_is_not_known() {
        let fixture = Fixture::new();
        write(&fixture.full, "qcow2", "write -P 0 2900M 17M");
        let open = |path: &Path| File::open(path).unwrap();
        let look = |until| {
            let layers = vec![Layer::Qcow2(open(&fixture.disk), None), Layer::Raw(open(&fixture.template))];
            match hides_a_shrink(open(&fixture.target), vec![open(&fixture.full)], layers, until) {
                Err(Unseen::Disk(Error::Unsupported(why))) => why,
                known => panic!("{known:?}"),
            }
        };
        assert!(look(in_time()).contains("too many to read"));
        assert!(look(Instant::now()).contains("no time"));
        // somebody has written them
        write(&fixture.disk, "qcow2", "write -P 0 2900M 17M");
        assert!(!fixture.hides_a_shrink());
    }

    /// QEMU maps all that is put back of a disk whose data file is to be read as it is.
    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_disk_with_a_data_file_that_was_put_back_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (disk, data, full, target) = (at("disk"), at("data"), at("full"), at("target"));
        let option = format!("data_file={},data_file_raw=on", text(&data));
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &option, text(&disk), "3G"]);
        write(&disk, "qcow2", "write -P 8 2G 1M");
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "qcow2", text(&disk), text(&full)]);
        write(&full, "qcow2", "write -P 0 2900M 9M");
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&full), text(&target)]);
        for size in ["1G", "3G"] {
            run("qemu-img", &["resize", "-q", "-f", "qcow2", "--shrink", text(&disk), size]);
        }
        let open = |path: &Path| File::open(path).unwrap();
        let layers = vec![Layer::Qcow2(open(&disk), Some(open(&data)))];
        assert!(hides_a_shrink(open(&target), vec![open(&full)], layers, in_time()).unwrap());
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_parent_without_data_hides_nothing() {
        let fixture = Fixture::new();
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&fixture.full), "3G"]);
        fixture.resize("512M");
        fixture.resize("3G");
        assert!(!fixture.hides_a_shrink());
    }
}
