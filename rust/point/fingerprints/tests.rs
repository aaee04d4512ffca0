use std::collections::BTreeMap;

use super::*;
use crate::qcow2::Stream;

const LAST: u64 = 512;

/// A sequence of numbers that is the same on each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn hash(seed: u64) -> Content {
    Content::Hash(std::array::from_fn(|i| seed.to_le_bytes()[i % 8]))
}

fn state(content: Content) -> Expected {
    match content {
        Content::Zero => Expected::Zero,
        Content::Hash(hash) => Expected::Hash(hash),
    }
}

/// An index as bytes, with its hash and what it says of each cluster.
struct Model {
    bytes: Vec<u8>,
    digest: Digest,
    size: u64,
    clusters: BTreeMap<u64, Content>,
}

impl Model {
    fn random(random: &mut Random, size: u64) -> Model {
        let mut recorder = Recorder::begin(Vec::new(), size).unwrap();
        let mut clusters = BTreeMap::new();
        let end = size.div_ceil(CLUSTER);
        let mut at = random.below(4);
        while at < end {
            let count = (1 + random.below(9)).min(end - at);
            let zero = random.below(3) == 0;
            let single = if zero { count } else { 1 };
            for first in (at..at + count).step_by(single as usize) {
                let content = if zero { Content::Zero } else { hash(random.below(4)) };
                let length = (single * CLUSTER).min(size - first * CLUSTER);
                recorder.add(first * CLUSTER, content, length).unwrap();
                clusters.extend((first..first + single).map(|cluster| (cluster, content)));
            }
            at += count + if random.below(2) == 0 { 0 } else { random.below(6) };
        }
        let (bytes, digest) = recorder.finish().unwrap();
        Model { bytes, digest, size, clusters }
    }

    fn index(&self) -> Index<&[u8]> {
        Index::open(self.bytes.as_slice(), self.digest).unwrap()
    }
}

fn read_all(mut index: Index<&[u8]>) -> io::Result<BTreeMap<u64, Content>> {
    let mut clusters = BTreeMap::new();
    while let Some(entry) = index.next_entry()? {
        clusters.extend((entry.cluster..entry.end()).map(|cluster| (cluster, entry.content)));
    }
    assert_eq!(index.next_entry()?, None, "the end is the end");
    Ok(clusters)
}

#[test]
fn what_was_recorded_is_read() {
    for seed in 0..200 {
        let random = &mut Random(seed);
        let size = (1 + random.below(300)) * CLUSTER - if random.below(2) == 0 { 0 } else { LAST };
        let model = Model::random(random, size);
        assert_eq!(model.index().virtual_size(), size);
        assert_eq!(read_all(model.index()).unwrap(), model.clusters);
        model.index().finish().unwrap();
    }
}

#[test]
fn long_runs_are_written_in_parts() {
    let size = 20_000 * CLUSTER;
    let mut recorder = Recorder::begin(Vec::new(), size).unwrap();
    for cluster in 0..10_000 {
        recorder.add(cluster * CLUSTER, hash(cluster), CLUSTER).unwrap();
    }
    recorder.add(10_000 * CLUSTER, Content::Zero, 10_000 * CLUSTER).unwrap();
    let (bytes, digest) = recorder.finish().unwrap();
    let read = read_all(Index::open(bytes.as_slice(), digest).unwrap()).unwrap();
    assert_eq!(read.len(), 20_000);
    assert!((0..10_000).all(|cluster| read[&cluster] == hash(cluster)));
    assert!(bytes.len() < 10_000 * HASH + 64, "{}", bytes.len());
}

#[test]
fn an_index_takes_at_most_six_in_ten_thousand_of_the_data() {
    let clusters = 16_384;
    for gap in [false, true] {
        let mut recorder = Recorder::begin(Vec::new(), clusters * CLUSTER).unwrap();
        for cluster in (0..clusters).step_by(2) {
            recorder.add(cluster * CLUSTER, hash(cluster), CLUSTER).unwrap();
            if !gap {
                recorder.add((cluster + 1) * CLUSTER, Content::Zero, CLUSTER).unwrap();
            }
        }
        let (bytes, _) = recorder.finish().unwrap();
        let data = clusters / 2 * CLUSTER;
        assert!((bytes.len() as u64) * 10_000 <= 6 * data, "{} for {data}", bytes.len());
    }
}

#[test]
fn disorder_is_not_recorded() {
    let mut recorder = Recorder::begin(Vec::new(), 4 * CLUSTER + LAST).unwrap();
    recorder.add(CLUSTER, hash(1), CLUSTER).unwrap();
    for (offset, length) in [(0, CLUSTER), (CLUSTER, CLUSTER), (2 * CLUSTER + 1, CLUSTER), (2 * CLUSTER, 4 * CLUSTER)] {
        assert!(recorder.add(offset, Content::Zero, length).is_err(), "{length} at {offset}");
    }
    recorder.add(4 * CLUSTER, hash(2), LAST).unwrap();
    recorder.finish().unwrap();
}

#[test]
fn a_short_cluster_counts_as_filled_up_with_zeroes() {
    let mut whole = vec![0; CLUSTER as usize];
    whole[..700].fill(7);
    assert_eq!(Content::of(&whole), Content::of(&whole[..700]));
    assert_ne!(Content::of(&whole), Content::of(&whole[..699]));
    assert_eq!(Content::of(&[0; 700]), Content::Zero);
    let Content::Hash(hash) = Content::of(&whole) else { panic!("it is not zero") };
    assert_eq!(hash[..], blake3::hash(&whole).as_bytes()[..HASH]);
}

#[test]
fn a_changed_index_is_never_believed() {
    let model = Model::random(&mut Random(5), 60 * CLUSTER);
    for at in 0..model.bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = model.bytes.clone();
            bytes[at] ^= flip;
            let read = Index::open(bytes.as_slice(), model.digest).and_then(read_all);
            assert!(is_damage(&read.unwrap_err()), "byte {at}");
        }
        assert!(is_damage(&Index::open(&model.bytes[..at], model.digest).and_then(read_all).unwrap_err()));
    }
    let longer = [model.bytes.as_slice(), &[0]].concat();
    assert!(is_damage(&Index::open(longer.as_slice(), model.digest).and_then(read_all).unwrap_err()));
    // having failed at its end, an index does not end well the next time
    let mut index = Index::open(model.bytes.as_slice(), Digest::of(b"other")).unwrap();
    while let Ok(Some(_)) = index.next_entry() {}
    assert!(index.next_entry().is_err() && index.finish().is_err());
}

/// Bytes of any kind, for as many seconds as `NASBACKUP_FUZZ_SECONDS` says.
#[test]
fn no_index_makes_a_reader_panic_or_hang() {
    let seconds = std::env::var("NASBACKUP_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let random = &mut Random(seconds);
    while std::time::Instant::now() < until {
        let size = (1 + random.below(300)) * CLUSTER;
        let mut bytes = Model::random(random, size).bytes;
        for _ in 0..1 + random.below(8) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = [0, 0x7f, 0x80, 0xff][random.below(4) as usize],
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let part = bytes[at..].to_vec();
                    bytes.extend(part);
                }
            }
        }
        let expected = Digest::of(&bytes);
        let Ok(mut index) = Index::open(bytes.as_slice(), expected) else { continue };
        let (mut entries, mut end) = (0, 0);
        while let Ok(Some(entry)) = index.next_entry() {
            assert!(entry.count > 0 && entry.cluster >= end, "{entry:?}");
            end = entry.end();
            entries += 1;
        }
        assert!(entries <= bytes.len() && end <= index.virtual_size().div_ceil(CLUSTER));
        let Ok(index) = Index::open(bytes.as_slice(), expected) else { continue };
        let disk = index.virtual_size();
        let Ok(mut base) = Base::begin(vec![index], disk) else { continue };
        let mut at = 0;
        while at < disk
            && let Ok((_, length)) = base.next(at..disk)
        {
            assert!(length > 0);
            at += length;
        }
    }
}

/// What a chain shows at a cluster, by the definition.
fn shown(chain: &[Model], disk: u64, cluster: u64) -> Expected {
    let (start, end) = (cluster * CLUSTER, ((cluster + 1) * CLUSTER).min(disk));
    for model in chain {
        if start >= model.size {
            return Expected::Zero;
        }
        if ((cluster + 1) * CLUSTER).min(model.size) != end {
            return Expected::Unknown;
        }
        if let Some(content) = model.clusters.get(&cluster) {
            return state(*content);
        }
    }
    Expected::Zero
}

#[test]
fn a_base_shows_what_the_youngest_image_has() {
    for seed in 0..300 {
        let random = &mut Random(seed);
        let mut size = || (20 + random.below(4) * 20) * CLUSTER - [0, LAST, CLUSTER / 2][random.below(3) as usize];
        let (disk, sizes) = (size(), [size(), size(), size(), size()]);
        let same = seed % 3 == 0;
        let chain: Vec<_> = sizes.iter().map(|size| Model::random(random, if same { disk } else { *size })).collect();
        let mut base = Base::begin(chain.iter().map(Model::index).collect(), disk).unwrap();
        let mut at = 0;
        while at < disk {
            // asked for in pieces of any length, some left out
            let piece = at..(at + (1 + random.below(12)) * CLUSTER).min(disk);
            let mut next = piece.start;
            while next < piece.end {
                let (state, length) = base.next(next..piece.end).unwrap();
                for cluster in next / CLUSTER..(next + length).div_ceil(CLUSTER) {
                    assert_eq!(state, shown(&chain, disk, cluster), "seed {seed}, cluster {cluster}");
                }
                next += length;
            }
            assert_eq!(next, piece.end);
            at = piece.end + if random.below(3) == 0 { random.below(9) * CLUSTER } else { 0 };
        }
        base.finish().unwrap();
    }
}

#[test]
fn a_base_ends_well_only_if_all_its_indexes_are_what_was_recorded() {
    let (young, old) = (Model::random(&mut Random(1), 50 * CLUSTER), Model::random(&mut Random(2), 50 * CLUSTER));
    let other = Index::open(old.bytes.as_slice(), young.digest).unwrap();
    let base = Base::begin(vec![young.index(), other], 50 * CLUSTER).unwrap();
    assert!(is_damage(&base.finish().unwrap_err()));
    Base::begin(vec![young.index(), old.index()], 50 * CLUSTER).unwrap().finish().unwrap();
}

#[test]
fn a_state_is_what_it_surely_is() {
    for (state, content, is) in [
        (Expected::Zero, Content::Zero, true),
        (Expected::Zero, hash(1), false),
        (state(hash(1)), hash(1), true),
        (state(hash(1)), hash(2), false),
        (Expected::Unknown, Content::Zero, false),
        (Expected::Unknown, hash(1), false),
    ] {
        assert_eq!(state.is(content), is, "{state:?} {content:?}");
    }
}

/// Writes an image that provides `clusters`, data where they are not zero.
fn image(clusters: &BTreeMap<u64, Content>, size: u64) -> std::fs::File {
    let mut stream = Stream::begin(tempfile::tempfile().unwrap(), size, Some("below")).unwrap();
    for (cluster, content) in clusters {
        let offset = cluster * CLUSTER;
        let length = CLUSTER.min(size - offset);
        match content {
            Content::Zero => stream.zeroes(offset, length).unwrap(),
            Content::Hash(_) => stream.data(offset, &vec![1; length as usize]).unwrap(),
        }
    }
    stream.finish().unwrap()
}

fn merge(image: std::fs::File, chain: &[Model]) -> Result<BTreeMap<u64, Content>, crate::qcow2::Error> {
    let mut bytes = Vec::new();
    let digest = super::merge(image, chain.iter().map(Model::index).collect(), &mut bytes, &mut |_, _| Ok(()))?;
    Ok(read_all(Index::open(bytes.as_slice(), digest).unwrap()).unwrap())
}

#[test]
fn a_merged_index_has_what_the_image_provides() {
    for seed in 0..100 {
        let random = &mut Random(seed);
        let size = (20 + random.below(100)) * CLUSTER - [0, LAST][random.below(2) as usize];
        let chain: Vec<_> = (0..1 + random.below(5)).map(|_| Model::random(random, size)).collect();
        let mut all = BTreeMap::new();
        chain.iter().rev().for_each(|model| all.extend(model.clusters.clone()));
        // zeroes may have been left out where what stays below is zero too
        all.retain(|_, content| *content != Content::Zero || random.below(2) == 0);
        assert_eq!(merge(image(&all, size), &chain).unwrap(), all, "seed {seed}");
    }
}

#[test]
fn an_index_of_other_images_is_not_merged() {
    let size = 40 * CLUSTER;
    let model = Model::random(&mut Random(3), size);
    let chain = [model];
    let clusters = &chain[0].clusters;
    let lacking = (0..40).find(|cluster| !clusters.contains_key(cluster)).unwrap();
    let data = *clusters.iter().find(|(_, content)| **content != Content::Zero).unwrap().0;
    let with = |cluster, content| {
        let mut changed = clusters.clone();
        changed.insert(cluster, content);
        merge(image(&changed, size), &chain)
    };
    assert!(with(data, hash(9)).is_ok());
    assert!(with(lacking, hash(9)).is_err(), "of a cluster nothing is known");
    assert!(with(data, Content::Zero).is_err(), "a cluster lost its data");
    assert!(merge(image(clusters, size + CLUSTER), &chain).is_err(), "the disk was resized");
    let without = |cluster| {
        let mut changed = clusters.clone();
        changed.remove(&cluster);
        merge(image(&changed, size), &chain)
    };
    let last = *clusters.iter().rfind(|(_, content)| **content != Content::Zero).unwrap().0;
    assert!(without(data).is_err() && without(last).is_err(), "a cluster that would be read from below");
}

#[test]
fn the_name_follows_from_the_images() {
    assert_eq!(file_name("root.a b.qcow2"), "root.a b.fingerprints");
}
