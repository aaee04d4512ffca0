//! Giving an image another backing file, so that its header can be read at each moment.
//!
//! The first cluster holds the header, its extensions up to an end mark, and behind them, anywhere, the backing file's
//! name, whose offset and length stand in the first sector. Sectors may reach the disk in any order, one sector does so
//! whole. So a new name is written to a place that nothing refers to, synced, and then one write within the first
//! sector makes it the name.

use std::ops::Range;

use super::Error;
use super::header::{EXTENSION_BACKING_FORMAT, Layout, MAX_BACKING_NAME};

const SECTOR: usize = 512;
/// Offset and length of the name.
const NAME_FIELDS: usize = 8;
const END_MARK: [u8; 8] = [0; 8];
const FORMAT: &[u8; 8] = b"qcow2\0\0\0";

/// A write into the first cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) offset: usize,
    pub(super) data: Vec<u8>,
    /// It changes what the header says: all before it has to be durable before, and it before all that follows.
    pub(super) takes_effect: bool,
}

/// The writes that give the image whose first cluster is `cluster` the backing file `name`, of format qcow2, or none.
/// `UNSUPPORTED_IMAGE` when there is no room.
pub(super) fn plan(cluster: &[u8], layout: &Layout, name: Option<&[u8]>) -> Result<Vec<Write>, Error> {
    if name.is_some_and(|name| name.is_empty() || name.len() > MAX_BACKING_NAME || name.contains(&0)) {
        return no_room("its new backing file's name is empty, too long or has a zero byte");
    }
    let mut plan = NamingPlan {
        cluster: cluster.to_vec(),
        end: layout.extensions_end,
        name: layout.name.clone(),
        writes: Vec::new(),
    };
    if !layout.has_end_mark {
        plan.mark_end()?;
    }
    match name {
        None => plan.point(0, 0, 0..0)?,
        Some(name) => {
            if !layout.has_backing_format {
                plan.add_format()?;
            }
            plan.set_name(name)?;
        }
    }
    Ok(plan.writes)
}

struct NamingPlan {
    /// As it will be after the writes.
    cluster: Vec<u8>,
    /// Where the extensions end, their end mark included.
    end: usize,
    name: Option<Range<usize>>,
    writes: Vec<Write>,
}

impl NamingPlan {
    /// The extensions get an end mark where the name begins, which ended them until now; the name moves on.
    fn mark_end(&mut self) -> Result<(), Error> {
        let Some(old) = self.name.clone() else { return Ok(()) };
        let mark = self.end..self.end + END_MARK.len();
        self.end = mark.end;
        let name = self.cluster[old.clone()].to_vec();
        let moved = self.write_name(&name, &[old, mark.clone()])?;
        self.cluster[mark.clone()].copy_from_slice(&END_MARK);
        self.point(moved.start, moved.len(), mark)
    }

    /// An extension that names the format takes the end mark's place, which moves on: first what it covers so far,
    /// then the 8 bytes that make it an extension.
    fn add_format(&mut self) -> Result<(), Error> {
        let start = self.end - END_MARK.len();
        let room = start..start + 3 * 8;
        if room.end > self.cluster.len() {
            return no_room("its header has no room for the backing file's format");
        }
        if let Some(old) = self.name.clone()
            && old.start < room.end
        {
            self.end = room.end;
            let name = self.cluster[old.clone()].to_vec();
            let moved = self.write_name(&name, &[old])?;
            self.point(moved.start, moved.len(), 0..0)?;
        }
        self.end = room.end;
        self.write(start + 8, &[&FORMAT[..], &END_MARK].concat());
        let kind = [EXTENSION_BACKING_FORMAT.to_be_bytes(), 5_u32.to_be_bytes()].concat();
        self.write(start, &kind);
        if let Some(last) = self.writes.last_mut() {
            last.takes_effect = true;
        }
        Ok(())
    }

    fn set_name(&mut self, name: &[u8]) -> Result<(), Error> {
        let old: Vec<_> = self.name.clone().into_iter().collect();
        if let Ok(place) = self.write_name(name, &old) {
            return self.point(place.start, place.len(), 0..0);
        }
        // no room for both: then both have to be in the one sector
        let start = old.first().map_or(self.end, |old| old.start);
        let place = start..start + name.len();
        if place.end > SECTOR.min(self.cluster.len()) {
            return no_room("its header has no room for the backing file's new name");
        }
        self.cluster[place.clone()].copy_from_slice(name);
        self.point(place.start, place.len(), place)
    }

    /// Writes a name to a place behind the extensions, clear of what is in use.
    fn write_name(&mut self, name: &[u8], used: &[Range<usize>]) -> Result<Range<usize>, Error> {
        let starts = std::iter::once(self.end).chain(used.iter().map(|used| used.end.max(self.end)));
        let place = starts.map(|start| start..start + name.len()).find(|place| {
            place.end <= self.cluster.len()
                && used.iter().all(|used| place.end <= used.start || used.end <= place.start)
        });
        let Some(place) = place else {
            return no_room("its header has no room for two names of backing files");
        };
        self.write(place.start, name);
        Ok(place)
    }

    /// Makes these bytes the name, together with what was changed in `with`: one write, within the first sector.
    fn point(&mut self, offset: usize, length: usize, with: Range<usize>) -> Result<(), Error> {
        if with.end > SECTOR {
            return no_room("its header's extensions do not end in the first sector");
        }
        let Ok(size) = u32::try_from(length) else { return no_room("its backing file's name is too long") };
        self.cluster[NAME_FIELDS..NAME_FIELDS + 8].copy_from_slice(&(offset as u64).to_be_bytes());
        self.cluster[NAME_FIELDS + 8..NAME_FIELDS + 12].copy_from_slice(&size.to_be_bytes());
        let data = self.cluster[NAME_FIELDS..with.end.max(NAME_FIELDS + 12)].to_vec();
        self.writes.push(Write { offset: NAME_FIELDS, data, takes_effect: true });
        self.name = Some(offset..offset + length).filter(|_| offset != 0);
        Ok(())
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        self.cluster[offset..offset + data.len()].copy_from_slice(data);
        self.writes.push(Write { offset, data: data.to_vec(), takes_effect: false });
    }
}

fn no_room<T>(why: &str) -> Result<T, Error> {
    Err(Error::Unsupported(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::header::{Backing, Header, MAGIC};
    use std::io::Write as _;

    const FEATURES: u32 = 0x6803_f857;

    /// A first cluster with these extensions, perhaps an end mark, and the name right behind.
    fn cluster(version: u32, size: usize, extensions: &[(u32, &[u8])], has_end: bool, name: &str) -> Vec<u8> {
        let length = if version == 2 { 72 } else { 112 };
        let mut bytes = vec![0; length];
        for (kind, data) in extensions {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(*data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.resize(bytes.len() + if has_end { 8 } else { 0 }, 0);
        let place = bytes.len();
        bytes.extend(name.as_bytes());
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_be_bytes());
        put(4, &version.to_be_bytes());
        put(8, &(place as u64).to_be_bytes());
        put(16, &u32::try_from(name.len()).unwrap().to_be_bytes());
        put(20, &size.ilog2().to_be_bytes());
        put(24, &(1_u64 << 20).to_be_bytes());
        if version == 3 {
            put(96, &4_u32.to_be_bytes());
            put(100, &112_u32.to_be_bytes());
        }
        bytes.resize(size, 0);
        bytes
    }

    fn read(cluster: &[u8]) -> Header {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(cluster).unwrap();
        Header::read(&file).unwrap()
    }

    /// Plans, and looks at the header after each write: it says what it said, or what it is to say.
    fn renamed(mut cluster: Vec<u8>, name: Option<&str>) -> Result<Vec<u8>, Error> {
        let header = read(&cluster);
        let writes = plan(&cluster, &header.layout, name.map(str::as_bytes))?;
        let old = header.backing.unwrap();
        let new = name.map(|name| Backing { file: name.into(), format: Some("qcow2".into()) });
        let with_format = Backing { file: old.file.clone(), format: Some("qcow2".into()) };
        for write in &writes {
            if write.takes_effect {
                let end = write.offset + write.data.len();
                assert!(
                    end <= SECTOR || write.data.len() == 8 && write.offset % 8 == 0,
                    "not in one sector: {write:?}"
                );
            }
            let before = read(&cluster).backing;
            cluster[write.offset..write.offset + write.data.len()].copy_from_slice(&write.data);
            let after = read(&cluster).backing;
            assert!(write.takes_effect || before == after, "{write:?}");
            assert!(after == new || [Some(&old), Some(&with_format)].contains(&after.as_ref()), "{after:?}");
        }
        assert_eq!(read(&cluster).backing, new);
        Ok(cluster)
    }

    #[test]
    fn every_layout_is_readable_at_each_write() {
        let format: (u32, &[u8]) = (EXTENSION_BACKING_FORMAT, b"qcow2");
        let features = vec![7; 384];
        let long = "n".repeat(150);
        for version in [2, 3] {
            for size in [512, 1024, 65536] {
                for has_end in [true, false] {
                    for extensions in [&[][..], &[format], &[format, (FEATURES, &features)], &[(FEATURES, &features)]] {
                        if size == 512 && extensions.len() + usize::from(extensions.iter().any(|e| e.0 == FEATURES)) > 1
                        {
                            continue;
                        }
                        for old in ["a", "../T1/root.x.qcow2", &long] {
                            for new in [None, Some("b"), Some("../T22/datadisk.y.qcow2"), Some(&*long)] {
                                let first = cluster(version, size, extensions, has_end, old);
                                let what = format!("v{version} {size} {has_end} {} {old} {new:?}", extensions.len());
                                match renamed(first, new) {
                                    // and back again, without room being used up
                                    Ok(mut renamed_once) if new.is_some() => {
                                        for name in [old, "c", old, "dd", old] {
                                            renamed_once = renamed(renamed_once, Some(name)).expect(&what);
                                        }
                                    }
                                    Ok(_) => {}
                                    Err(error) => assert!(size <= 1024 || !has_end, "{what}: {error}"),
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn names_that_can_not_be_are_refused() {
        let first = cluster(3, 65536, &[], true, "a");
        for name in ["", "a\0b", &"x".repeat(1024)] {
            assert!(matches!(renamed(first.clone(), Some(name)), Err(Error::Unsupported(_))));
        }
        let full = cluster(3, 1024, &[(FEATURES, &[0; 700])], true, &"o".repeat(190));
        assert!(matches!(renamed(full, Some(&"n".repeat(190))), Err(Error::Unsupported(_))));
    }
}
