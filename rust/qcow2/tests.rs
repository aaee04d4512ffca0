use super::*;
use crate::work::phase::Phase;
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Mutex;

use serde_json::Value;

fn tool(program: &str, dir: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

fn qemu_img(dir: &Path, args: &[&str]) -> String {
    tool("qemu-img", dir, args)
}

fn open(path: PathBuf) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn new(path: PathBuf) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}

fn made(dir: &Path, args: &[&str]) -> Info {
    let name = "made.qcow2";
    let create = [&["create", "-q", "-f", "qcow2", name], args].concat();
    // To make a LUKS key QEMU measures its own CPU time, and gives up on a machine whose clock is coarse or busy.
    let tries = if args.iter().any(|arg| arg.contains("luks")) { 10 } else { 0 };
    let succeeds = |_| Command::new("qemu-img").args(&create).current_dir(dir).status().unwrap().success();
    if !(0..tries).any(succeeds) {
        qemu_img(dir, &create);
    }
    inspect(&open(dir.join(name))).unwrap()
}

/// Notes what is begun to be read, and what is read without that.
#[derive(Default)]
struct Noted {
    begun: Vec<Range<u64>>,
    late: Vec<u64>,
}

struct Noting(File, Rc<RefCell<Noted>>);

impl Source for Noting {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let mut noted = self.1.borrow_mut();
        if !noted.begun.iter().any(|range| range.contains(&offset)) {
            noted.late.push(offset);
        }
        Source::read_at(&self.0, buffer, offset)
    }

    fn length(&self) -> std::io::Result<u64> {
        Source::length(&self.0)
    }

    fn begin_reading(&self, from: u64, length: u64) {
        self.1.borrow_mut().begun.push(from..from + length);
    }
}

#[test]
fn a_check_waits_for_no_l2_table_that_was_not_begun_before() {
    const TABLE: u64 = CLUSTER * CLUSTER / 8;
    let (file, noted) = (tempfile::tempfile().unwrap(), Rc::default());
    let mut stream = Stream::begin(file.try_clone().unwrap(), 150 * TABLE, None).unwrap();
    (0..150).for_each(|table| stream.data(table * TABLE, &[1; CLUSTER as usize]).unwrap());
    stream.finish().unwrap();
    let report = check(Noting(file, Rc::clone(&noted)), &mut |_, _| Ok(())).unwrap();
    assert_eq!(report, CheckReport::default());
    // the header, and a refcount block
    let late = &noted.borrow().late;
    assert!(late.iter().all(|offset| *offset < CLUSTER || *offset > 150 * CLUSTER), "{late:?}");
}

#[test]
#[ignore = "needs a lab: root, QEMU"]
fn what_qemu_makes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let plain = Info {
        version: 3,
        cluster_bits: 16,
        virtual_size: 1 << 20,
        backing: None,
        encrypted: false,
        dirty: false,
        corrupt: false,
        external_data: false,
        data_file: None,
        extended_l2: false,
        unknown_incompatible: 0,
        snapshots: 0,
        bitmaps: vec![],
        bitmaps_consistent: false,
    };
    assert_eq!(made(dir, &["1M"]), plain);
    assert_eq!(made(dir, &["-o", "compat=0.10", "1M"]), Info { version: 2, ..plain.clone() });
    assert_eq!(made(dir, &["-o", "cluster_size=512", "1M"]), Info { cluster_bits: 9, ..plain.clone() });
    assert_eq!(made(dir, &["-o", "cluster_size=2M", "1M"]), Info { cluster_bits: 21, ..plain.clone() });
    assert_eq!(made(dir, &["-o", "compression_type=zstd", "1M"]), plain);
    assert_eq!(made(dir, &["-o", "extended_l2=on", "1M"]), Info { extended_l2: true, ..plain.clone() });
    let external = Info { external_data: true, data_file: Some("made.raw".into()), ..plain.clone() };
    assert_eq!(made(dir, &["-o", "data_file=made.raw", "1M"]), external);
    let secret = "secret,id=s,data=geheim";
    let encrypted = ["--object", secret, "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "1M"];
    assert_eq!(made(dir, &encrypted), Info { encrypted: true, ..plain.clone() });

    qemu_img(dir, &["create", "-q", "-f", "qcow2", "base \u{e4}.qcow2", "1M"]);
    for version in ["0.10", "1.1"] {
        let args = ["-o", &format!("compat={version}"), "-b", "base \u{e4}.qcow2", "-F", "qcow2"];
        let backing = Backing { file: "base \u{e4}.qcow2".into(), format: Some("qcow2".into()) };
        assert_eq!(made(dir, &args).backing, Some(backing));
    }
}

#[test]
#[ignore = "needs a lab: root, QEMU"]
fn bitmaps_are_read_with_their_state() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "b.qcow2", "10M"]);
    let longest = "n".repeat(1023);
    qemu_img(dir, &["bitmap", "--add", "b.qcow2", "backup-1"]);
    qemu_img(dir, &["bitmap", "--add", "-g", "512", "b.qcow2", "na\u{ef}ve name"]);
    qemu_img(dir, &["bitmap", "--add", "--disable", "-g", "1M", "b.qcow2", &longest]);
    let info = inspect(&open(dir.join("b.qcow2"))).unwrap();
    let bitmap = |name: &str, auto, granularity_bits| Bitmap {
        name: name.into(),
        in_use: false,
        auto,
        granularity_bits,
        has_extra: false,
    };
    assert!(info.bitmaps_consistent);
    assert_eq!(
        info.bitmaps,
        [bitmap("backup-1", true, 16), bitmap("na\u{ef}ve name", true, 9), bitmap(&longest, false, 20)]
    );

    // a writer that ends without closing the image leaves the bitmap in use
    let crash = ["-c", "qemu-io -f qcow2 b.qcow2 -c 'write 0 64k' -c 'flush' -c abort; true"];
    tool("bash", dir, &crash);
    let info = inspect(&open(dir.join("b.qcow2"))).unwrap();
    assert!(info.bitmaps_consistent);
    assert_eq!(info.bitmaps.iter().map(|b| b.in_use).collect::<Vec<_>>(), [true, true, true]);
}

#[test]
#[ignore = "needs a lab: root, QEMU"]
fn bitmaps_that_a_writer_did_not_keep_up_are_no_bitmaps() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "b.qcow2", "10M"]);
    qemu_img(dir, &["bitmap", "--add", "b.qcow2", "backup-1"]);
    let file = open(dir.join("b.qcow2"));
    assert_eq!(inspect(&file).unwrap().bitmaps.len(), 1);
    file.write_all_at(&[0; 8], 88).unwrap();
    let info = inspect(&file).unwrap();
    assert!(!info.bitmaps_consistent && info.bitmaps.is_empty());
}

#[test]
#[ignore = "needs a lab: root, QEMU"]
fn hostile_headers_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "base.qcow2", "10M"]);
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "x.qcow2"]);
    qemu_img(dir, &["bitmap", "--add", "x.qcow2", "backup-1"]);
    let good = std::fs::read(dir.join("x.qcow2")).unwrap();
    let find = |what: &[u8]| good.windows(what.len()).position(|window| window == what).unwrap();
    let bitmaps = find(&0x2385_2875_u32.to_be_bytes()) + 8;
    let directory = u64::from_be_bytes(good[bitmaps + 16..bitmaps + 24].try_into().unwrap()) as usize;
    let format = find(&0xe279_2aca_u32.to_be_bytes());
    let changed = |at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(dir.join("y.qcow2"), image).unwrap();
        inspect(&open(dir.join("y.qcow2")))
    };
    assert!(changed(0, b"QFI\xfb").unwrap().bitmaps_consistent);
    let ones = [0xff; 8];
    for (what, at, bytes) in [
        ("cluster bits", 20, &[0, 0, 0, 8][..]),
        ("cluster bits", 20, &[0, 0, 0, 22]),
        ("size 0", 24, &[0; 8]),
        ("size", 24, &ones),
        ("header length odd", 100, &[0, 0, 0, 113]),
        ("header length short", 100, &[0, 0, 0, 96]),
        ("header length long", 100, &[0, 1, 0, 8]),
        ("name past the end", 8, &ones),
        ("name in the header", 8, &[0, 0, 0, 0, 0, 0, 0, 16]),
        ("name length", 16, &[0, 0, 4, 0]),
        ("name length 0", 16, &[0; 4]),
        ("format length", format + 4, &[0, 0, 0, 16]),
        ("extension length", format + 4, &[0xff; 4]),
        ("no bitmaps", bitmaps, &[0; 4]),
        ("many bitmaps", bitmaps, &[0, 1, 0, 0]),
        ("one bitmap more", bitmaps, &[0, 0, 0, 2]),
        ("directory size", bitmaps + 8, &ones),
        ("directory size", bitmaps + 15, &[31]),
        ("directory offset", bitmaps + 16, &ones),
        ("directory unaligned", bitmaps + 23, &[8]),
        ("directory in the header", bitmaps + 16, &[0; 8]),
        ("bitmap type", directory + 16, &[2]),
        ("granularity", directory + 17, &[64]),
        ("bitmap name length", directory + 18, &[0, 0]),
        ("bitmap name length", directory + 18, &[0xff, 0xff]),
        ("extra data", directory + 20, &[0xff; 4]),
    ] {
        assert!(matches!(changed(at, bytes), Err(Error::Corrupt(_))), "{what}");
    }
    assert!(matches!(changed(0, b"x"), Err(Error::NotQcow2)));
    assert!(matches!(changed(4, &[0, 0, 0, 4]), Err(Error::Unsupported(_))));
    assert_eq!(changed(72, &[0x80, 0, 0, 0, 0, 0, 0, 3]).unwrap().unknown_incompatible, 1 << 63);
    assert!(changed(79, &[3]).is_ok_and(|info| info.dirty && info.corrupt));
    assert_eq!(changed(directory + 24, b"\xff").unwrap().bitmaps[0].name, "\u{fffd}ackup-1");
    // the backing file is told even where the bitmaps can't be
    assert!(changed(bitmaps, &[0; 4]).is_err());
    assert_eq!(backing(&open(dir.join("y.qcow2"))).unwrap().unwrap().file, "base.qcow2");
    for (length, not_qcow2) in [(0, true), (3, true), (4, false), (71, false), (103, false), (112, false)] {
        std::fs::write(dir.join("y.qcow2"), &good[..length]).unwrap();
        let error = inspect(&open(dir.join("y.qcow2"))).unwrap_err();
        assert_eq!(matches!(error, Error::NotQcow2), not_qcow2, "{length}: {error}");
    }
}

/// xorshift: the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
#[ignore = "needs a lab: root, QEMU"]
fn no_change_of_bytes_or_length_does_harm() {
    const START: u64 = 256 << 10;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "base.qcow2", "10M"]);
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-b", "base.qcow2", "-F", "qcow2", "x"]);
    for n in 0..20 {
        qemu_img(dir, &["bitmap", "--add", "x", &format!("backup-{n}")]);
    }
    let good = std::fs::read(dir.join("x")).unwrap();
    let file = open(dir.join("x"));
    let start = START.min(good.len() as u64);
    let directory = {
        let at = good.windows(4).position(|w| w == 0x2385_2875_u32.to_be_bytes()).unwrap() + 24;
        u64::from_be_bytes(good[at..at + 8].try_into().unwrap())
    };
    let mut random = Random(0x6e61_7362_6163_6b75);
    let (mut refused, mut read) = (0, 0);
    for round in 0..20_000 {
        let flips = 1 + random.below(4);
        let mut changed = Vec::new();
        for _ in 0..flips {
            // most of the first clusters is not looked at: every second change goes where something is
            let at = match random.below(4) {
                0 => random.below(256),
                1 => (directory + random.below(20 * 40)).min(start - 1),
                _ => random.below(start),
            };
            file.write_all_at(&[random.below(256) as u8], at).unwrap();
            changed.push(at as usize);
        }
        if round % 4 == 0 {
            let length = if round % 8 == 0 { random.below(512) } else { random.below(start) };
            file.set_len(length).unwrap();
        }
        match inspect(&file) {
            Ok(info) => {
                assert!(info.virtual_size > 0 && info.bitmaps.len() <= 20);
                read += 1;
            }
            Err(Error::Io(error)) => panic!("{error}"),
            Err(_) => refused += 1,
        }
        if round % 4 == 0 {
            file.set_len(0).unwrap();
            file.write_all_at(&good, 0).unwrap();
        }
        for at in changed {
            file.write_all_at(&good[at..=at], at as u64).unwrap();
        }
    }
    assert!(refused > 1000 && read > 1000, "{refused} refused, {read} read");
    assert_eq!(inspect(&file).unwrap().bitmaps.len(), 20);
}

#[test]
#[ignore = "needs a lab: root, QEMU"]
fn what_is_made_is_what_qemu_expects() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for size in [512, 1 << 20, (512 << 20) - 512, 512 << 20, (512 << 20) + 512, 1 << 40, 64 << 40, 1 << 51] {
        let name = format!("{size}.qcow2");
        let file = new(dir.join(&name));
        create(&file, size, None).unwrap();
        assert_eq!(file.metadata().unwrap().len() % (64 << 10), 0);
        assert_eq!(inspect(&file).unwrap().virtual_size, size);
        let check: Value = serde_json::from_str(&qemu_img(dir, &["check", "--output=json", &name])).unwrap();
        for bad in ["check-errors", "leaks", "corruptions"] {
            assert!(check[bad].as_u64().unwrap_or(0) == 0, "{size}: {check}");
        }
        let info: Value = serde_json::from_str(&qemu_img(dir, &["info", "--output=json", &name])).unwrap();
        assert_eq!((&info["virtual-size"], &info["cluster-size"]), (&size.into(), &65536.into()));
        let data = &info["format-specific"]["data"];
        assert_eq!((&data["compat"], &data["refcount-bits"]), (&"1.1".into(), &16.into()));
        // the last bytes, which the last L1 entry maps
        let write = format!("write -P 7 {} 512", size - 512);
        let read = format!("read -P 7 {} 512", size - 512);
        tool("qemu-io", dir, &["-f", "qcow2", &name, "-c", &write, "-c", &read]);
        qemu_img(dir, &["check", "-q", &name]);
    }
    for bad in [0, 513, (1 << 51) + 512, u64::MAX] {
        assert!(matches!(create(&new(dir.join(bad.to_string())), bad, None), Err(Error::Unsupported(_))), "{bad}");
    }
}

#[test]
#[ignore = "needs a lab: root, QEMU"]
fn an_overlay_reads_its_backing_and_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("T2")).unwrap();
    let long = format!("../{}/{}/{}/x.qcow2", "d".repeat(250), "e".repeat(250), "f".repeat(250));
    let longest = format!("../{}{}", "./".repeat((1023 - long.len()) / 2), &long[3..]);
    let names =
        ["../T1/root.x.qcow2", "../T 1/it's \"quoted\" & <odd>*.qcow2", "../T\u{e4}/\u{65e5}\u{672c}.qcow2", &longest];
    for (n, name) in names.into_iter().enumerate() {
        let base = dir.join("T2").join(name);
        std::fs::create_dir_all(base.parent().unwrap()).unwrap();
        let base_file = new(base.clone());
        create(&base_file, 4 << 20, None).unwrap();
        let base = base.to_str().unwrap();
        tool("qemu-io", dir, &["-f", "qcow2", base, "-c", "write -P 1 0 2M"]);

        let top = format!("T2/{n}.qcow2");
        let file = new(dir.join(&top));
        create(&file, 4 << 20, Some(name)).unwrap();
        let backing = Backing { file: name.to_owned(), format: Some("qcow2".to_owned()) };
        assert_eq!(inspect(&file).unwrap().backing, Some(backing));
        let info: Value = serde_json::from_str(&qemu_img(dir, &["info", "--output=json", &top])).unwrap();
        assert_eq!((&info["backing-filename"], &info["backing-filename-format"]), (&name.into(), &"qcow2".into()));
        tool("qemu-io", dir, &["-f", "qcow2", &top, "-c", "write -P 2 1M 2M"]);
        let reads = ["read -P 1 0 1M", "read -P 2 1M 2M", "read -P 0 3M 1M"].map(|read| ["-c", read]).concat();
        tool("qemu-io", dir, &[&["-f", "qcow2", &top], &reads[..]].concat());
        qemu_img(dir, &["check", "-q", &top]);
    }
    assert!(longest.len() >= 1022);
    for bad in ["", &"x".repeat(1024), "a\0b"] {
        let file = new(dir.join(format!("bad{}", bad.len())));
        assert!(matches!(create(&file, 512, Some(bad)), Err(Error::Unsupported(_))));
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}

/// QEMU puts the tables first: they are whole, and what they name reads as zeroes.
#[test]
#[ignore = "needs a lab: root, QEMU"]
fn data_that_were_cut_off_while_an_image_was_read_are_not_taken_for_zeroes() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, base, top) = (dir.path(), dir.path().join("base"), dir.path().join("top"));
    let write = |image: &str| tool("qemu-io", dir, &["-f", "qcow2", "-c", "write -P 7 0 2M", image]);
    let make = || {
        qemu_img(dir, &["create", "-q", "-f", "qcow2", "base", "4M"]);
        write("base");
        qemu_img(dir, &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top"]);
    };
    let cut = || open(base.clone()).set_len(6 << 16).unwrap();
    let is_told = |error: Error| assert!(error.to_string().contains("was cut off"), "{error}");

    make();
    let rebase = Rebase::begin(open(top.clone()), vec![open(base.clone())], 1, None).unwrap();
    let mut absorb = rebase.check(&mut |_| Ok(())).unwrap();
    let mut is_cut = false;
    let failure = absorb.run(&mut |progress| {
        if progress.phase == Phase::Absorb && !std::mem::replace(&mut is_cut, true) {
            cut();
        }
        Ok(())
    });
    let failure = failure.unwrap_err();
    assert_eq!(failure.image, 1);
    is_told(failure.error);
    absorb.abandon().unwrap();
    assert_eq!(inspect(&open(top.clone())).unwrap().backing.map(|backing| backing.file).as_deref(), Some("base"));

    make();
    let (mut pieces, images) = Pieces::open(vec![open(top.clone()), open(base.clone())]).unwrap();
    let piece = pieces.next(0, 1 << 20).unwrap();
    pieces.check_whole().unwrap();
    cut();
    let mut buffer = vec![0; 1 << 20];
    images.read(&piece, 0..1 << 20, &mut buffer, &mut Inflated::default()).unwrap();
    let failure = pieces.check_whole().unwrap_err();
    assert_eq!(failure.image, 2);
    is_told(failure.error);

    make();
    let layers = || vec![Layer::Qcow2(open(top.clone()), None), Layer::Qcow2(open(base.clone()), None)];
    let view = View::open(layers()).unwrap();
    view.check_whole().unwrap();
    let in_use = View::open_in_use(layers()).unwrap();
    let raw = View::open(vec![Layer::Raw(open(base.clone()))]).unwrap();
    cut();
    is_told(view.check_whole().unwrap_err());
    is_told(raw.check_whole().unwrap_err());
    // of one that a guest writes to nobody knows how long it is
    in_use.check_whole().unwrap();
}

/// Writes the first half, in sectors, of one of the writes, and then nothing any more.
struct Torn {
    file: File,
    /// The lengths of the writes.
    writes: Mutex<Vec<usize>>,
    at: usize,
}

impl Source for &Torn {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        Source::read_at(&self.file, buffer, offset)
    }

    fn length(&self) -> std::io::Result<u64> {
        Source::length(&self.file)
    }
}

impl Storage for &Torn {
    fn write_at(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
        let mut writes = self.writes.lock().unwrap();
        writes.push(data.len());
        match (writes.len() - 1).cmp(&self.at) {
            std::cmp::Ordering::Less => Storage::write_at(&self.file, data, offset),
            std::cmp::Ordering::Equal => {
                let torn = (offset + data.len() as u64 / 2) / 512 * 512;
                let length = usize::try_from(torn.saturating_sub(offset)).unwrap();
                Storage::write_at(&self.file, &data[..length], offset)?;
                Err(rustix::io::Errno::NOSPC.into())
            }
            std::cmp::Ordering::Greater => Err(rustix::io::Errno::IO.into()),
        }
    }

    fn set_length(&self, length: u64) -> std::io::Result<()> {
        Storage::set_length(&self.file, length)
    }

    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn clone_from(&self, _: u64, _: &File, _: u64, _: u64) -> std::io::Result<()> {
        Err(rustix::io::Errno::OPNOTSUPP.into())
    }

    fn copy_from(&self, _: u64, _: &File, _: u64, _: u64) -> std::io::Result<u64> {
        Err(rustix::io::Errno::XDEV.into())
    }
}

/// New L2 tables go to single clusters that are free, then to a long run, then to the end.
#[test]
fn tables_that_are_written_together_may_be_torn_and_lie_anywhere() {
    const TABLE: u64 = CLUSTER * CLUSTER / 8;
    const TABLES: u64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let (base, top, copy) = (dir.path().join("base"), dir.path().join("top"), dir.path().join("copy"));
    let size = TABLES * TABLE - CLUSTER / 2;
    let place = |table: u64| table * TABLE + TABLE / 2;
    let mut stream = Stream::begin(new(base.clone()), size, None).unwrap();
    (0..TABLES).for_each(|table| stream.data(place(table), &[table as u8 + 1; CLUSTER as usize]).unwrap());
    stream.finish().unwrap();
    let mut stream = Stream::begin(new(top.clone()), size, Some("base")).unwrap();
    (0..140).for_each(|at| stream.data(at * CLUSTER, &[0xff; CLUSTER as usize]).unwrap());
    let file = stream.finish().unwrap();
    // counted and named by nothing: every other cluster, then a run longer than what is written at once
    let mut image = image::Image::open(file, 64 << 10).unwrap();
    let table = image.l2_table(0).unwrap().unwrap();
    let freed = (0..130).filter(|at| *at < 100 && at % 2 == 1 || *at >= 110);
    freed.for_each(|at| Storage::write_at(&image.storage, &[0; 8], table + at * 8).unwrap());
    assert_eq!(check(image.storage, &mut |_, _| Ok(())).unwrap(), CheckReport { leaked: 70, ..CheckReport::default() });

    let rebase = |torn: &Torn| {
        Rebase::begin(torn, vec![open(base.clone())], 1, None)
            .and_then(|rebase| rebase.check(&mut |_| Ok(()))?.run(&mut |_| Ok(())))
            .map(drop)
    };
    let sound = |alone: bool| {
        let files = [&copy, &base].into_iter().take(if alone { 1 } else { 2 });
        let layers = files.map(|path| Layer::Qcow2(open(path.clone()), None)).collect();
        let mut view = View::open(layers).unwrap();
        let mut read = vec![0; CLUSTER as usize];
        for table in 0..TABLES {
            view.read(place(table), &mut read).unwrap();
            assert!(read.iter().all(|byte| u64::from(*byte) == table + 1), "table {table}");
        }
        let report = check(open(copy.clone()), &mut |_, _| Ok(())).unwrap();
        assert_eq!(report, CheckReport { leaked: if alone { 0 } else { report.leaked }, ..CheckReport::default() });
    };
    let torn = |at| {
        std::fs::copy(&top, &copy).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&copy).unwrap();
        Torn { file, writes: Mutex::default(), at }
    };
    let whole = torn(usize::MAX);
    rebase(&whole).unwrap();
    sound(true);
    let writes = whole.writes.into_inner().unwrap();
    let tables = writes.iter().filter(|length| **length > CLUSTER as usize && length.is_multiple_of(CLUSTER as usize));
    assert_eq!(tables.copied().max(), Some(1 << 20), "{writes:?}");
    for at in (0..writes.len()).filter(|at| writes[*at] > CLUSTER as usize || at + 4 > writes.len()) {
        let torn = torn(at);
        rebase(&torn).unwrap_err();
        sound(false);
        rebase(&Torn { at: usize::MAX, writes: Mutex::default(), ..torn }).unwrap();
        sound(true);
    }
}
