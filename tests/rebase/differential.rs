//! Random chains, rebased by this library and by `qemu-img`.

use std::fs;
use std::path::Path;

use nasbackup::qcow2::{self, ImageFailure, Rebase, Storage};

use crate::chains::{Chain, Kind, name, qemu_img, run};

/// Rebases to the end.
pub(crate) fn rebase<T: Storage>(target: T, chain: &Chain) -> Result<(), ImageFailure> {
    let (keep, name) = chain.keep();
    let rebase = Rebase::begin(target, chain.backing(), keep, name.as_deref())?;
    rebase.check(&mut |_| Ok(()))?.run(&mut |_| Ok(())).map(drop)
}

/// As many seeds as the variable says, or the default.
pub(crate) fn seeds(variable: &str, default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let first = number("NASBACKUP_FIRST_SEED").unwrap_or(0);
    first..first + number(variable).unwrap_or(default)
}

/// Does the guest see in `image` what is in the file `raw`?
pub(crate) fn compare(dir: &Path, raw: &Path, image: &str) -> Result<(), String> {
    let size = qcow2::inspect(&fs::File::open(dir.join(image)).unwrap()).map_err(|e| e.to_string())?.virtual_size;
    assert_eq!(size, fs::metadata(raw).unwrap().len(), "virtual size");
    run("qemu-img", dir, &["compare", "-f", "raw", "-F", "qcow2", raw.to_str().unwrap(), image]).map(drop)
}

/// Errors and leaks.
pub(crate) fn check(dir: &Path, image: &str) -> (u64, u64) {
    let args = ["check", "-f", "qcow2", "--output=json", image];
    let output = std::process::Command::new("qemu-img").args(args).current_dir(dir).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |name: &str| found[name].as_u64().unwrap_or(0);
    (number("corruptions") + number("check-errors"), number("leaks"))
}

fn differs(chain: &Chain) -> Result<(), String> {
    let dir = chain.dir.path();
    let raws: Vec<_> = (chain.target..chain.images).map(|image| chain.raw(image)).collect();
    let checked = check(dir, &name(chain.target));
    let bitmaps = qcow2::inspect(&chain.open(chain.target)).unwrap().bitmaps;
    let by_qemu = chain.copy();
    let others: Vec<_> = (0..chain.images).map(|image| fs::read(chain.path(image)).unwrap()).collect();

    rebase(chain.open(chain.target), chain).map_err(|failure| format!("rebase: {failure}"))?;
    if check(dir, &name(chain.target)) != (0, 0) {
        return Err(format!("{:?}, before {checked:?}", check(dir, &name(chain.target))));
    }
    for image in (0..chain.images).filter(|image| *image != chain.target) {
        if fs::read(chain.path(image)).unwrap() != others[image] {
            return Err(format!("image {image} was changed"));
        }
    }
    // what is between must not be needed any more
    for image in chain.onto.map_or(0, |onto| onto + 1)..chain.target {
        fs::remove_file(chain.path(image)).unwrap();
    }
    for (image, raw) in (chain.target..).zip(&raws) {
        compare(dir, raw, &name(image)).map_err(|error| format!("image {image}: {error}"))?;
    }
    assert_eq!(qcow2::inspect(&chain.open(chain.target)).unwrap().bitmaps, bitmaps);
    let backing = qcow2::backing(&chain.open(chain.target)).unwrap();
    let (_, expected) = chain.keep();
    assert_eq!(backing.as_ref().map(|backing| &backing.file), expected.as_ref());
    assert_eq!(backing.and_then(|backing| backing.format), expected.map(|_| "qcow2".to_owned()));

    let onto = chain.onto.map_or(String::new(), name);
    qemu_img(by_qemu.path(), &["rebase", "-f", "qcow2", "-b", &onto, "-F", "qcow2", &name(chain.target)]);
    let theirs = by_qemu.path().join(name(chain.target));
    let args = ["compare", "-f", "qcow2", "-F", "qcow2", &name(chain.target), theirs.to_str().unwrap()];
    run("qemu-img", dir, &args).map(drop)
}

#[test]
fn random_chains_read_the_same_as_before_and_as_by_qemu() {
    let mut failed = Vec::new();
    for seed in seeds("NASBACKUP_SOAK_CHAINS", 30) {
        let chain = Chain::make(seed, Kind::Any);
        if let Err(error) = differs(&chain) {
            eprintln!("{chain}\n  {error}\n");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?}");
}
