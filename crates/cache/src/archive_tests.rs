//! Archives: what goes through one, and what is refused on the way.

use super::*;
use crate::config::{CacheConfig, Mode};
use crate::key::KeyBuilder;
use proptest::prelude::*;
use serde_json::json;

fn cache(dir: &std::path::Path) -> Cache {
    Cache::open(CacheConfig::at(dir))
}

fn put(cache: &Cache, source: &str, arch: &str) -> Key {
    let preimage = KeyBuilder::kernel(source, &["-o"], arch, "1")
        .spec(source)
        .part("template", source)
        .finish();
    let metadata = Metadata {
        source: source.to_owned(),
        compile_micros: 7,
        provenance: "nvrtc 13.0".into(),
        ..Metadata::default()
    };
    cache.put(&preimage, &metadata, b"payload");
    preimage.key().unwrap()
}

/// An archive of members as they are given.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_entry_type(EntryType::Regular);
        // written into the header as it stands: the builder itself would refuse `..`
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Every file under a folder.
fn files(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match file.file_type().unwrap().is_dir() {
            true => found.extend(files(&file.path())),
            false => found.push(file.path()),
        }
    }
    found
}

fn codes(report: &ImportReport) -> Vec<&'static str> {
    report.refused.iter().map(|(_, r)| r.code()).collect()
}

#[test]
fn entries_and_documents_arrive_as_they_were() {
    let temp = tempfile::tempdir().unwrap();
    let from = cache(&temp.path().join("from"));
    let keys = [put(&from, "a", "sm_89"), put(&from, "b", "sm_90a")];
    let one = |_| json!({ "shapes": { "x": 1, "y": 2 } });
    from.learned().update(&[5; 32], one).unwrap();
    let mut first = Vec::new();
    let report = from.export(&mut first, &[]).unwrap();
    assert_eq!((report.entries, report.documents), (2, 1));
    let mut again = Vec::new();
    from.export(&mut again, &[]).unwrap();
    assert_eq!(first, again, "equal contents give equal files");

    let to = cache(&temp.path().join("to"));
    let own = |_| json!({ "shapes": { "x": 9 } });
    to.learned().update(&[5; 32], own).unwrap();
    let report = to.import(&first[..]).unwrap();
    assert_eq!((report.entries, report.documents), (2, 1));
    assert!(report.refused.is_empty() && report.broken.is_none());
    for key in keys {
        let (a, b) = (from.inspect(&key).unwrap(), to.inspect(&key).unwrap());
        assert_eq!((a.preimage, a.metadata), (b.preimage, b.metadata));
    }
    let joined = json!({ "shapes": { "x": 9, "y": 2 } });
    assert_eq!(to.learned().read(&[5; 32]), Some(joined));

    let report = to.import(&first[..]).unwrap();
    assert_eq!((report.entries, report.present), (0, 2));
}

#[test]
fn an_architecture_can_be_chosen_and_damage_is_left_out() {
    let temp = tempfile::tempdir().unwrap();
    let from = cache(&temp.path().join("from"));
    let (a, b) = (put(&from, "a", "sm_89"), put(&from, "b", "sm_89"));
    put(&from, "c", "sm_90a");
    std::fs::write(from.main.as_ref().unwrap().path_of(&b), b"junk").unwrap();
    let mut out = Vec::new();
    let report = from.export(&mut out, &["sm_89".into()]).unwrap();
    assert_eq!((report.entries, report.skipped.len()), (1, 1));
    let to = cache(&temp.path().join("to"));
    to.import(&out[..]).unwrap();
    assert_eq!(to.list().unwrap().len(), 1);
    assert!(to.inspect(&a).is_ok());
}

#[test]
fn foreign_and_damaged_members_are_refused_one_by_one() {
    let temp = tempfile::tempdir().unwrap();
    let from = cache(&temp.path().join("from"));
    let (a, b) = (put(&from, "a", "sm_89"), put(&from, "b", "sm_89"));
    let bytes = |key: &Key| std::fs::read(from.main.as_ref().unwrap().path_of(key)).unwrap();
    let name = |key: &Key| format!("{KERNELS}/{}/{}", key.shard(), key.hex());
    let mut flipped = bytes(&a);
    *flipped.last_mut().unwrap() ^= 1;
    let document = format!("{}/{}.json", learned::FOLDER, "0".repeat(64));
    let made = archive(&[
        ("../../escaped", b"x"),
        ("/tmp/escaped", b"x"),
        (&format!("{KERNELS}/../{}", a.hex()), &bytes(&a)),
        (&format!("kernels-v1/{}/{}", a.shard(), a.hex()), &bytes(&a)),
        (&format!("{KERNELS}/zz/{}", a.hex()), &bytes(&a)),
        ("README", b"hello"),
        (&name(&a), &flipped),
        (&name(&a), &bytes(&b)),
        (&name(&a), b""),
        (&document, b"bespoke-learned 1 0\n{}"),
        (&name(&b), &bytes(&b)),
    ]);
    let home = temp.path().join("home");
    let to = cache(&home.join("to"));
    let report = to.import(&made[..]).unwrap();
    assert_eq!(
        codes(&report),
        [
            "name", "name", "name", "name", "name", "name", "entry", "key", "entry", "document"
        ]
    );
    assert_eq!((report.entries, report.broken), (1, None));
    let written: Vec<PathBuf> = files(&home);
    let lock = |path: &&PathBuf| path.extension().is_none_or(|e| e != "lock");
    assert_eq!(
        written.iter().filter(lock).collect::<Vec<_>>(),
        [&to.main.as_ref().unwrap().path_of(&b)]
    );
    assert!(!temp.path().join("escaped").exists());
}

#[test]
fn links_and_extensions_are_no_files() {
    let temp = tempfile::tempdir().unwrap();
    let mut builder = Builder::new(Vec::new());
    let mut link = Header::new_gnu();
    link.set_entry_type(EntryType::Symlink);
    link.set_size(0);
    builder
        .append_link(&mut link, "kernels-v2", "/etc")
        .unwrap();
    // a name too long for the header gets an extension member of its own
    let long = "long/".repeat(60);
    let mut header = Header::new_gnu();
    header.set_size(1);
    builder.append_data(&mut header, long, &b"x"[..]).unwrap();
    let made = builder.into_inner().unwrap();
    let to = cache(&temp.path().join("to"));
    let report = to.import(&made[..]).unwrap();
    assert_eq!(codes(&report), ["kind", "kind", "name"]);
    assert!(to.list().unwrap().is_empty());
}

#[test]
fn a_cut_archive_gives_what_was_whole() {
    let temp = tempfile::tempdir().unwrap();
    let from = cache(&temp.path().join("from"));
    put(&from, "a", "sm_89");
    put(&from, "b", "sm_89");
    let mut out = Vec::new();
    from.export(&mut out, &[]).unwrap();
    let to = cache(&temp.path().join("to"));
    // within the second member, which begins in the middle of the two before the closing blocks
    let report = to.import(&out[..(out.len() - 1024) / 2 + 700]).unwrap();
    assert_eq!(report.entries, 1, "{report:?}");
    assert!(!report.refused.is_empty() || report.broken.is_some());
    let report = to.import(&b"this is no archive"[..]).unwrap();
    assert!(report.broken.is_some() || report.entries == 0);
}

#[test]
fn a_member_that_claims_to_be_huge_is_not_read() {
    let temp = tempfile::tempdir().unwrap();
    let from = cache(&temp.path().join("from"));
    let key = put(&from, "a", "sm_89");
    let name = format!("{KERNELS}/{}/{}", key.shard(), key.hex());
    let mut header = Header::new_gnu();
    header.set_path(&name).unwrap();
    header.set_entry_type(EntryType::Regular);
    header.set_size(1 << 40);
    header.set_cksum();
    let report = cache(&temp.path().join("to"))
        .import(&header.as_bytes()[..])
        .unwrap();
    assert_eq!(codes(&report), ["too-large"]);
    assert!(report.broken.is_some());
}

#[test]
fn a_read_only_cache_takes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("c");
    cache(&dir);
    let ro = Cache::open(CacheConfig {
        mode: Mode::Ro,
        ..CacheConfig::at(&dir)
    });
    assert!(matches!(
        ro.import(&[][..]),
        Err(ArchiveError::Cache(CacheError::ReadOnly(_)))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_archive_is_too_strange(at in 0usize..2048, byte in any::<u8>(), cut in 0usize..4096) {
        let temp = tempfile::tempdir().unwrap();
        let from = cache(&temp.path().join("from"));
        put(&from, "a", "sm_89");
        let mut out = Vec::new();
        from.export(&mut out, &[]).unwrap();
        let at = at.min(out.len() - 1);
        let whole = out[at] == byte && cut >= out.len();
        out[at] = byte;
        out.truncate(cut);
        let to = cache(&temp.path().join("to"));
        let report = to.import(&out[..]).unwrap();
        for entry in to.list().unwrap() {
            prop_assert!(to.inspect(&entry.key).is_ok());
        }
        prop_assert!(report.entries <= 1 && (report.entries == 1 || !whole));
    }
}
