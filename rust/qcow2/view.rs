//! A view shows what a guest sees of its disk: qcow2 images, the top one first, and perhaps plain bytes below them.

use std::fs::File;
use std::ops::Range;

use rustix::fs::SeekFrom;

use super::chain::Chain;
use super::chain::ImageFailure;
use super::create::CLUSTER;
use super::holes;
use super::image::What;
use super::pieces::{Images, Part, Piece, Place};
use super::storage::{Source, read_padded};
use super::{Error, corrupt};

/// Data that lie apart are joined up to so many bytes.
const JOINED: u64 = 1 << 20;
/// QEMU's unit of a disk's size.
const SECTOR: u64 = 512;

/// An image of a disk, open for reading.
#[derive(Debug)]
pub enum Layer {
    /// A qcow2 image, and the file that its data are in, if not in its own.
    Qcow2(File, Option<File>),
    /// Bytes as they are.
    Raw(File),
}

/// Clusters that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// In bytes.
    pub length: u64,
    /// They hold nothing but zeroes, which is known without reading them; others may, too.
    pub zero: bool,
}

/// A file, and an offset in it.
pub type At<'a> = Option<(&'a File, u64)>;

/// A disk, open for reading.
#[derive(Debug)]
pub struct View {
    pub(super) images: Chain,
    pub(super) raw: Option<Raw>,
    size: u64,
}

impl View {
    /// The disk that consists of `layers`, the top one first; a raw one ends them. Nobody may write to them.
    pub fn open(layers: Vec<Layer>) -> Result<View, Error> {
        let (images, raw) = split(layers);
        let mut images = Chain::open_at_rest(images)?;
        images.check_tables_are_distinct().map_err(of_failure)?;
        View::of(images, raw)
    }

    /// As `open`, for a disk that a guest may be using.
    pub fn open_in_use(layers: Vec<Layer>) -> Result<View, Error> {
        let (images, raw) = split(layers);
        View::of(Chain::open_in_use(images)?, raw)
    }

    fn of(images: Chain, raw: Option<File>) -> Result<View, Error> {
        let raw = raw.map(Raw::new).transpose()?;
        let length = raw.as_ref().map_or(0, |raw| raw.length.next_multiple_of(SECTOR));
        let size = images.images.first().map_or(length, |image| image.virtual_size());
        Ok(View { images, raw, size })
    }

    /// An error if one of its files has been truncated since it was opened. The caller asks before it relies on what it has read.
    pub fn check_whole(&self) -> Result<(), Error> {
        self.images.check_whole().map_err(of_failure)?;
        match &self.raw {
            Some(raw) if raw.file.length()? < raw.length => corrupt("a raw image was cut off while it was read"),
            _ => Ok(()),
        }
    }

    /// Size that the guest sees, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What there is from `at` on, the begin of a cluster: whole clusters of `CLUSTER` bytes, up to `limit` bytes,
    /// which are such clusters too or lead to the end of the disk.
    pub fn run(&mut self, at: u64, limit: u64) -> Result<Run, Error> {
        let (length, data) = self.extent(at, limit)?;
        let whole = if length == limit { length } else { length / CLUSTER * CLUSTER };
        if !data && whole > 0 {
            return Ok(Run { length: whole, zero: true });
        }
        let mut end = length.next_multiple_of(CLUSTER);
        while end < limit.min(JOINED) {
            let (length, data) = self.extent(at + end, limit - end)?;
            if !data {
                break;
            }
            end = (end + length).next_multiple_of(CLUSTER);
        }
        Ok(Run { length: end.min(limit), zero: false })
    }

    /// For how many of the `limit` bytes from `at` on the same is true: that there are data, or none.
    pub(super) fn extent(&mut self, at: u64, limit: u64) -> Result<(u64, bool), Error> {
        let images = 0..self.images.images.len();
        let here = self.images.provider(images, at, limit).map_err(of_failure)?.extent;
        match (here.what, &mut self.raw) {
            (What::Data(_) | What::Compressed(_), _) => Ok((here.length, true)),
            (What::Unallocated, Some(raw)) => raw.extent(at, here.length),
            (What::Unallocated | What::Zero, _) => Ok((here.length, false)),
        }
    }

    /// Where the first of the `limit` bytes from `at` on lie as they are, and how many; none of a hole, or of what is compressed.
    pub fn place(&mut self, at: u64, limit: u64) -> Result<(At<'_>, u64), Error> {
        let images = 0..self.images.images.len();
        let here = self.images.provider(images, at, limit).map_err(of_failure)?;
        let place = match (here.extent.what, &self.raw) {
            (What::Data(offset), _) => Some((self.images.images[here.image].data().0, offset)),
            (What::Unallocated, Some(raw)) => Some((&raw.file, at)),
            _ => None,
        };
        Ok((place, here.extent.length))
    }

    /// The images once more, for threads that read at once what `piece` tells.
    pub fn images(&self) -> Result<Images, Error> {
        Images::again(&self.images, self.raw.as_ref().map(|raw| &raw.file)).map_err(of_failure)
    }

    /// Tells where the `length` bytes from `at` on lie. They count as taken.
    pub fn piece(&mut self, at: u64, length: u64) -> Result<Piece, Error> {
        let mut piece = Piece { at, length: 0, parts: Vec::new() };
        while piece.length < length {
            let part = self.part(at + piece.length, length - piece.length)?;
            piece.length += part.length;
            piece.parts.push(part);
        }
        Ok(piece)
    }

    /// The first part of the `limit` bytes from `at` on.
    fn part(&mut self, at: u64, limit: u64) -> Result<Part, Error> {
        let count = self.images.images.len();
        let found = self.images.provider(0..count, at, limit).map_err(of_failure)?;
        if let (What::Unallocated, Some(raw)) = (found.extent.what, &mut self.raw) {
            let (length, data) = raw.extent(at, found.extent.length)?;
            return Ok(Part { length, place: if data { Place::Data(count, at) } else { Place::Hole } });
        }
        let part = Part { length: found.extent.length, place: Place::of(&self.images, found, at) };
        if let Place::Data(image, _) = part.place {
            self.images.spend(image, part.length).map_err(of_failure)?;
        }
        Ok(part)
    }

    /// Reads what the guest sees at `at`.
    pub fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let Some(raw) = &self.raw else { return self.images.read(at, buffer).map_err(of_failure) };
        let mut done = 0;
        while done < buffer.len() {
            let (images, at) = (0..self.images.images.len(), at + done as u64);
            let limit = (buffer.len() - done) as u64;
            let here = self.images.provider(images, at, limit).map_err(of_failure)?.extent;
            let length = usize::try_from(here.length).unwrap_or(usize::MAX);
            let part = &mut buffer[done..done + length];
            match here.what {
                What::Unallocated => read_padded(&raw.file, part, at)?,
                _ => self.images.read(at, part).map_err(of_failure)?,
            }
            done += length;
        }
        Ok(())
    }
}

fn split(layers: Vec<Layer>) -> (Vec<(File, Option<File>)>, Option<File>) {
    let (mut images, mut raw) = (Vec::new(), None);
    for layer in layers {
        match layer {
            Layer::Qcow2(file, data) => images.push((file, data)),
            Layer::Raw(file) => raw = Some(file),
        }
    }
    (images, raw)
}

/// Drops the image's position: the error says what is wrong.
fn of_failure(failure: ImageFailure) -> Error {
    failure.error
}

/// Plain bytes.
#[derive(Debug)]
pub(super) struct Raw {
    file: File,
    pub(super) length: u64,
    /// The data or the hole that was found last.
    last: (Range<u64>, bool),
}

impl Raw {
    fn new(file: File) -> Result<Raw, Error> {
        let length = file.length()?;
        Ok(Raw { file, length, last: (0..0, false) })
    }

    fn extent(&mut self, at: u64, limit: u64) -> Result<(u64, bool), Error> {
        if at >= self.length {
            return Ok((limit, false));
        }
        if !self.last.0.contains(&at) {
            self.last = self.look(at);
        }
        let (range, data) = &self.last;
        Ok((limit.min(range.end - at), *data))
    }

    /// Finds the data or the hole at `at`. Where that can't be told, as on a block device, all are data.
    fn look(&self, at: u64) -> (Range<u64>, bool) {
        let seek = |to| holes::seek(&self.file, to).map(|found| found.min(self.length));
        match seek(SeekFrom::Data(at)) {
            Some(data) if data > at => (at..data, false),
            Some(_) => match seek(SeekFrom::Hole(at)) {
                Some(hole) if hole > at => (at..hole, true),
                _ => (at..self.length, true),
            },
            None => (at..self.length, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::qcow2::Inflated;

    fn run(program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("failed"), "{program} {arguments:?}: {text}");
    }

    fn text(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    fn file(path: &Path) -> File {
        File::open(path).unwrap()
    }

    /// All of the disk, by `View::read` and by pieces.
    fn content(layers: Vec<Layer>) -> (Vec<u8>, u64) {
        let again = |file: &File| file.try_clone().unwrap();
        let same = layers.iter().map(|layer| match layer {
            Layer::Qcow2(file, data) => Layer::Qcow2(again(file), data.as_ref().map(again)),
            Layer::Raw(file) => Layer::Raw(again(file)),
        });
        let mut view = View::open(same.collect()).unwrap();
        let (images, mut inflated) = (view.images().unwrap(), Inflated::default());
        let by_pieces = content_of(&mut view, |view, at, part| {
            let piece = view.piece(at, part.len() as u64).unwrap();
            images.read(&piece, 0..piece.length, part, &mut inflated).unwrap();
        });
        let read = content_of(&mut View::open(layers).unwrap(), |view, at, part| view.read(at, part).unwrap());
        assert!(read == by_pieces);
        read
    }

    /// All of the disk as its runs say: zeroes where they say so, else what is read, and how many zeroes they say.
    fn content_of(view: &mut View, mut read: impl FnMut(&mut View, u64, &mut [u8])) -> (Vec<u8>, u64) {
        let mut content = vec![0x99; usize::try_from(view.size()).unwrap()];
        let (mut at, mut zeroes) = (0, 0);
        while at < view.size() {
            let run = view.run(at, view.size() - at).unwrap();
            assert!(
                run.length > 0 && (run.length.is_multiple_of(CLUSTER) || at + run.length == view.size()),
                "{run:?}"
            );
            let part = &mut content[at as usize..][..run.length as usize];
            if run.zero {
                part.fill(0);
                zeroes += run.length;
            } else {
                read(view, at, part);
            }
            at += run.length;
        }
        (content, zeroes)
    }

    /// A disk whose layers are of these formats and cluster sizes, the lowest first, each written to in many places.
    fn disk(folder: &Path, layers: &[(&str, Option<&str>)], size: u64) -> Vec<Layer> {
        let mut opened = Vec::new();
        let mut below: Option<(String, &str)> = None;
        for (i, (format, cluster)) in layers.iter().enumerate() {
            let path = folder.join(i.to_string());
            let data = folder.join(format!("{i}.data"));
            let mut create = vec!["create", "-q", "-f", format];
            let options = cluster.map(|cluster| cluster.replace("=data", &format!("={}", text(&data))));
            create.extend(options.iter().flat_map(|options| ["-o", options]));
            create.extend(below.iter().flat_map(|(path, format)| ["-b", path, "-F", format]));
            // each is larger than the one below, and the top one ends within a cluster
            let length = (size - (layers.len() - 1 - i) as u64 * (3 << 20)).to_string();
            run("qemu-img", &[&create[..], &[text(&path), &length]].concat());
            let commands = (0..40).map(|n| {
                let (at, length) = ((n * 7919 + i as u64 * 104_729) % 5000 * 1024, 1 + n % 9 * 13);
                match n % 4 {
                    0 => format!("write -z {at} {length}k"),
                    _ => format!("write -P {} {at} {length}k", 1 + n + 50 * i as u64),
                }
            });
            let commands: Vec<_> = commands.collect();
            let commands: Vec<_> = commands.iter().flat_map(|command| ["-c", command]).collect();
            run("qemu-io", &[&["-f", format], &commands[..], &[text(&path)]].concat());
            let data = data.exists().then(|| file(&data));
            opened.insert(0, if *format == "raw" { Layer::Raw(file(&path)) } else { Layer::Qcow2(file(&path), data) });
            below = Some((text(&path).to_owned(), format));
        }
        opened
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_disk_of_any_layers_reads_as_qemu_reads_it() {
        let size = (14 << 20) + 1536;
        for layers in [
            &[("raw", None)][..],
            &[("qcow2", None)],
            &[("raw", None), ("qcow2", None)],
            &[("qcow2", None), ("qcow2", Some("cluster_size=4k"))],
            &[("raw", None), ("qcow2", Some("cluster_size=2M")), ("qcow2", Some("cluster_size=512"))],
            &[("qcow2", Some("extended_l2=on,cluster_size=128k")), ("qcow2", Some("lazy_refcounts=on"))],
            &[("qcow2", Some("compat=0.10")), ("qcow2", None), ("qcow2", None)],
            &[("qcow2", None), ("qcow2", Some("data_file=data")), ("qcow2", Some("data_file=data,extended_l2=on"))],
            &[("qcow2", Some("data_file=data,data_file_raw=on,cluster_size=4k"))],
        ] {
            let folder = tempfile::tempdir().unwrap();
            let disk = disk(folder.path(), layers, size);
            let (top, raw) = (folder.path().join((layers.len() - 1).to_string()), folder.path().join("content"));
            run("qemu-img", &["convert", "-f", layers.last().unwrap().0, "-O", "raw", text(&top), text(&raw)]);
            let (content, zeroes) = content(disk);
            assert_eq!(content.len() as u64, size);
            assert!(content == std::fs::read(&raw).unwrap(), "{layers:?}");
            // one that is to be read as it is has a place for all of them
            assert!(
                zeroes > 4 << 20 || layers[0].1.is_some_and(|options| options.contains("raw=on")),
                "{layers:?}: the end has no data, {zeroes} bytes are known as zero"
            );
        }
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn a_compressed_image_is_inflated() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("0");
        disk(folder.path(), &[("qcow2", None)], 14 << 20);
        for kind in ["zlib", "zstd"] {
            let packed = folder.path().join(kind);
            let option = format!("compression_type={kind}");
            run("qemu-img", &["convert", "-c", "-O", "qcow2", "-o", &option, text(&plain), text(&packed)]);
            let (content, _) = content(vec![Layer::Qcow2(file(&packed), None)]);
            let raw = folder.path().join("content");
            run("qemu-img", &["convert", "-O", "raw", text(&plain), text(&raw)]);
            assert!(content == std::fs::read(&raw).unwrap(), "{kind}");
        }
    }

    #[test]
    fn a_raw_file_ends_with_its_last_sector() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raw");
        std::fs::write(&path, [0x41; 1000]).unwrap();
        assert_eq!(content(vec![Layer::Raw(file(&path))]).0, [&[0x41; 1000][..], &[0; 24]].concat());
    }

    #[test]
    #[ignore = "needs a lab: root, QEMU"]
    fn an_image_that_is_not_understood_is_told_from_one_that_can_not_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let (path, data) = (folder.path().join("disk"), folder.path().join("data"));
        let option = format!("data_file={}", text(&data));
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &option, text(&path), "1M"]);
        assert!(matches!(View::open(vec![Layer::Qcow2(file(&path), None)]), Err(Error::Unsupported(_))));
        assert!(matches!(View::open(vec![Layer::Qcow2(file(folder.path()), None)]), Err(Error::Io(_))));
    }
}
