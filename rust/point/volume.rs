//! The volume behind a disk's source path, which names its file on the NAS.

/// The volume's name: the image of an `rbd:` path, the resource of a DRBD device, else the last component.
pub fn volume_of(path: &str) -> Option<&str> {
    let name = if let Some(rbd) = path.strip_prefix("rbd:") {
        let image = rbd.split(':').next().unwrap_or(rbd);
        image.rsplit('/').next()
    } else if let Some(drbd) = path.strip_prefix("/dev/drbd/by-res/") {
        let resource = drbd.split('/').next();
        resource.map(|r| r.strip_prefix("cs-").unwrap_or(r))
    } else {
        path.rsplit('/').next()
    };
    name.filter(|name| !name.is_empty())
}

/// The volume whose image has this file name.
pub fn volume_of_image(file: &str) -> Option<String> {
    let name = file.strip_suffix(".qcow2")?;
    ["root.", "datadisk."].iter().find_map(|kind| name.strip_prefix(kind)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{volume_of, volume_of_image};

    #[test]
    fn the_volume_is_found_in_every_kind_of_path() {
        for (path, volume) in [
            ("/mnt/5f9d/0a1b2c3d-0000-4000-8000-00000000000a", Some("0a1b2c3d-0000-4000-8000-00000000000a")),
            ("/mnt/a b/it's \"fünf\".qcow2", Some("it's \"fünf\".qcow2")),
            ("pool/11-22", Some("11-22")),
            ("rbd:pool/11-22:mon_host=192.0.2.1:auth_supported=cephx:id=a:key=b/c==", Some("11-22")),
            ("rbd:pool/11-22", Some("11-22")),
            ("/dev/drbd/by-res/cs-11-22/0", Some("11-22")),
            ("/dev/drbd/by-res/other/0", Some("other")),
            ("/dev/mapper/vg-lv", Some("vg-lv")),
            ("vol-1", Some("vol-1")),
            ("/mnt/folder/", None),
            ("", None),
            ("rbd:", None),
        ] {
            assert_eq!(volume_of(path), volume, "{path}");
        }
    }

    #[test]
    fn the_volume_is_found_in_the_name_of_its_image() {
        for (file, volume) in
            [("root.a b.qcow2", Some("a b")), ("datadisk..qcow2", Some("")), ("x.a.qcow2", None), ("root.a", None)]
        {
            assert_eq!(volume_of_image(file).as_deref(), volume, "{file}");
        }
    }
}
