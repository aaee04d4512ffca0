//! A picture of a guest's screen, as PNG.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use png::{BitDepth, ColorType, Encoder};

use crate::error::{Code, Error, Result};
use crate::limits;
use crate::random;
use crate::work::deadline::bounded_for_host;

const STEP: &str = "write the screenshot";
/// Bytes of the largest picture that is taken.
pub(super) const LARGEST: usize = 64 << 20;
/// What a PNG begins with.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Writes a picture of QEMU's as PNG, beside what lies at the path, which it replaces: nothing that is there is followed or written to.
pub(super) fn write(path: &Path, picture: &[u8]) -> Result<()> {
    let png = png(picture).map_err(|cause| Error::new(Code::Libvirt, STEP, cause))?;
    let (path, new) = (path.to_owned(), path.with_file_name(format!(".nasbackup-{}", random::hex(STEP)?)));
    bounded_for_host(STEP, limits::STORAGE_STEP, move || {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        let mut file = made.map_err(|e| Error::io(STEP, &new, e))?;
        let written = file.write_all(&png).and_then(|()| fs::rename(&new, &path));
        written.map_err(|e| Error::io(STEP, &path, e)).inspect_err(|_| {
            if let Err(error) = fs::remove_file(&new) {
                log::warn!("unable to remove '{}': {error}", new.display());
            }
        })
    })
}

/// The picture as PNG, of a binary PPM (ppm(5)) unless it is one already.
fn png(picture: &[u8]) -> Result<Vec<u8>, String> {
    if picture.starts_with(PNG) {
        return Ok(picture.to_vec());
    }
    let (width, height, pixels) = ppm(picture).ok_or("QEMU's picture is neither PNG nor PPM")?;
    let mut png = Vec::new();
    let mut encoder = Encoder::new(&mut png, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(pixels));
    written.map(|()| png).map_err(|error| error.to_string())
}

/// Width, height, and three bytes of each pixel.
fn ppm(picture: &[u8]) -> Option<(u32, u32, &[u8])> {
    let mut rest = picture.strip_prefix(b"P6")?;
    let mut number = || {
        let begin = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
        let end = begin + rest[begin..].iter().position(u8::is_ascii_whitespace)?;
        let number = str::from_utf8(&rest[begin..end]).ok()?.parse::<u32>().ok()?;
        // one whitespace ends it
        rest = &rest[end + 1..];
        Some(number)
    };
    let (width, height, most) = (number()?, number()?, number()?);
    let length = usize::try_from(u64::from(width).checked_mul(height.into())?.checked_mul(3)?).ok()?;
    (most == 255 && length > 0).then_some(())?;
    Some((width, height, rest.get(..length)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_ppm_becomes_a_png_of_the_same_pixels() {
        let pixels = [1, 2, 3, 4, 5, 6];
        let made = png(&[b"P6\n2 1\n255\n", &pixels[..]].concat()).unwrap();
        assert!(made.starts_with(PNG));
        let mut reader = png::Decoder::new(std::io::Cursor::new(&made)).read_info().unwrap();
        let mut found = [0; 6];
        let info = reader.next_frame(&mut found).unwrap();
        assert_eq!((info.width, info.height, found), (2, 1, pixels));
        assert_eq!(png(&made).unwrap(), made, "what is one already");
    }

    #[test]
    fn a_picture_replaces_what_lies_in_its_place_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let [other, link, file] = ["other", "link", "file"].map(|name| dir.path().join(name));
        std::fs::write(&other, "of somebody").unwrap();
        std::os::unix::fs::symlink(&other, &link).unwrap();
        std::fs::hard_link(&other, &file).unwrap();
        for path in [&link, &file] {
            write(path, b"P6 1 1 255 abc").unwrap();
            let found = path.symlink_metadata().unwrap();
            assert_eq!((found.is_file(), found.mode() & 0o777), (true, 0o600), "{path:?}");
            assert!(std::fs::read(path).unwrap().starts_with(PNG));
        }
        assert_eq!(std::fs::read(&other).unwrap(), b"of somebody");
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        write(&dir.path().join("folder"), b"P6 1 1 255 abc").unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4, "nothing half made is left");
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        for text in [
            "",
            "P6",
            "P6\n2 1\n255\n12345",
            "P6 0 1 255 ",
            "P6 1 1 65535 123456",
            "P3 1 1 255 1 2 3",
            "P6 4294967295 4294967295 255 x",
        ] {
            png(text.as_bytes()).unwrap_err();
        }
    }
}
