//! Layouts as directories and as archives: the same tests for both, then what is particular to tars.

use std::os::unix::fs::symlink;
use std::process::Command;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A directory that may have an archive beside it.
struct OnDisk {
    path: PathBuf,
    _above: TempDir,
}

impl OnDisk {
    fn empty() -> Self {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("layout");
        fs::create_dir(&path).unwrap();
        Self { path, _above: above }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// A layout on disk with one image per name.
fn layout(names: &[Option<&str>]) -> OnDisk {
    let dir = OnDisk::empty();
    fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let entries: Vec<_> = names.iter().enumerate().map(|(n, name)| entry(&content(n), *name)).collect();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
    fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
    for n in 0..names.len() {
        fs::write(blob_path(dir.path(), &content(n)), content(n)).unwrap();
    }
    dir
}

fn content(n: usize) -> Vec<u8> {
    (0..1500).map(|at| (at * 7 + n * 31) as u8).collect()
}

fn entry(content: &[u8], name: Option<&str>) -> serde_json::Value {
    let mut entry = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::of(content).to_string(),
        "size": content.len(),
    });
    if let Some(name) = name {
        entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
    }
    entry
}

fn blob_path(layout: &Path, content: &[u8]) -> PathBuf {
    layout.join("blobs/sha256").join(Digest::of(content).hex())
}

/// Debian's tar packs the directory with these options.
fn packed(dir: &Path, options: &[&str]) -> PathBuf {
    let file = dir.with_extension("tar");
    let done = Command::new("tar").args(options).arg("-cf").arg(&file).arg("-C").arg(dir).arg(".").status();
    assert!(done.expect("the program tar is needed").success());
    file
}

fn both(dir: &OnDisk) -> [Layout; 2] {
    let archive = packed(dir.path(), &[]);
    [Layout::open_directory(dir.path()).unwrap(), Layout::open_archive(&archive).unwrap()]
}

fn refusal(of: Result<Layout, RegistryError>) -> String {
    crate::errors::with_causes(&of.unwrap_err())
}

#[test]
fn an_image_is_found_by_its_tag() {
    let dir = layout(&[Some("one"), Some("docker.io/library/two:2")]);
    for layout in both(&dir) {
        let index = layout.index(Some("docker.io/library/two:2")).unwrap();
        assert_eq!(index.entries.len(), 1);
        assert_eq!(index.entries[0].wanted.digest, Digest::of(&content(1)));
        let missing = layout.index(Some("three")).unwrap_err().to_string();
        assert!(missing.contains("no image named \"three\"; there are: docker.io/library/two:2, one"), "{missing}");
        let which = layout.index(None).unwrap_err().to_string();
        assert!(which.contains("several images") && which.contains("docker.io/library/two:2, one"), "{which}");
    }
}

#[test]
fn a_layout_of_one_image_needs_no_tag() {
    for names in [&[None][..], &[Some("one")], &[Some("one"), Some("one")]] {
        for layout in both(&layout(names)) {
            assert_eq!(layout.index(None).unwrap().entries.len(), names.len());
        }
    }
}

#[tokio::test]
async fn a_blob_is_read_whole_and_in_parts() {
    for layout in both(&layout(&[None, None, None])) {
        for n in 0..3 {
            let blob = layout.blob(&Digest::of(&content(n))).unwrap();
            assert_eq!(blob.size(), 1500);
            assert_eq!(blob.range(100..1500).await.unwrap(), content(n)[100..]);
            assert!(blob.range(0..1501).await.is_err());
            let pieces: Vec<_> = blob.stream().map(|piece| piece.unwrap()).collect().await;
            assert_eq!(pieces.concat(), content(n));
        }
        let missing = layout.blob(&Digest::of(b"other")).unwrap_err().to_string();
        assert!(missing.contains("is missing"), "{missing}");
    }
}

#[test]
fn what_is_no_layout_says_so() {
    let dir = layout(&[None]);
    fs::remove_file(dir.path().join("index.json")).unwrap();
    for layout in both(&dir) {
        let missing = layout.index(None).unwrap_err().to_string();
        assert!(missing.ends_with("is no OCI image layout: it has no index.json"), "{missing}");
    }
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(refusal(Layout::open_directory(dir.path())).contains("version is not 1.0.0"));
    fs::remove_file(dir.path().join("oci-layout")).unwrap();
    assert!(refusal(Layout::open_directory(dir.path())).ends_with("it has no oci-layout"));
    assert!(refusal(Layout::open_archive(&packed(dir.path(), &[]))).ends_with("it has no oci-layout"));
    assert!(refusal(Layout::open_directory(Path::new("/nonexistent"))).contains("No such file"));
    assert!(refusal(Layout::open_archive(Path::new("/nonexistent.tar"))).contains("No such file"));
    assert!(refusal(Layout::open_archive(dir.path())).contains("not a regular file"));
}

#[test]
fn a_fifo_in_a_blobs_place_does_not_make_anybody_wait() {
    let dir = layout(&[None]);
    let blob = blob_path(dir.path(), &content(0));
    fs::remove_file(&blob).unwrap();
    assert!(Command::new("mkfifo").arg(&blob).status().unwrap().success());
    let layout = Layout::open_directory(dir.path()).unwrap();
    let refused = layout.blob(&Digest::of(&content(0))).unwrap_err();
    assert!(crate::errors::with_causes(&refused).contains("not a regular file"));
}

#[test]
fn blobs_that_are_links_are_followed_in_a_directory_as_build_systems_make_them() {
    let dir = layout(&[None]);
    let (blob, elsewhere) = (blob_path(dir.path(), &content(0)), dir.path().join("elsewhere"));
    fs::rename(&blob, &elsewhere).unwrap();
    symlink(&elsewhere, &blob).unwrap();
    assert_eq!(Layout::open_directory(dir.path()).unwrap().blob(&Digest::of(&content(0))).unwrap().len(), 1500);
}

#[test]
fn every_kind_of_tar_is_read() {
    let dir = layout(&[Some("one")]);
    for options in [&["--format=ustar"][..], &["--format=gnu"], &["--format=pax"], &["--format=v7"]] {
        let layout = Layout::open_archive(&packed(dir.path(), options)).unwrap();
        let blob = layout.blob(&Digest::of(&content(0))).unwrap();
        assert_eq!(blob.read(0, 1500).unwrap(), content(0), "{options:?}");
    }
    // A name of more than 100 bytes before the layout's own makes GNU's and PAX's long names appear.
    for format in ["--format=gnu", "--format=pax"] {
        let long = dir.path().join("l".repeat(120));
        fs::write(&long, b"x").unwrap();
        assert!(Layout::open_archive(&packed(dir.path(), &[format])).is_ok(), "{format}");
    }
}

#[test]
fn a_name_in_a_long_names_header_is_the_members_name() {
    let dir = layout(&[None]);
    // POSIX tar with a PAX header for every member, names too.
    let options = ["--format=pax", "--pax-option=path:=index.json", "--no-recursion"];
    let archive = dir.path().with_extension("pax.tar");
    let mut tar = Command::new("tar");
    tar.args(options).arg("-cf").arg(&archive).arg("-C").arg(dir.path()).arg("oci-layout");
    assert!(tar.status().unwrap().success());
    let file = File::open(&archive).unwrap();
    let members = Members::read(&file, &archive).unwrap();
    assert!(members.named("index.json").is_some() && members.named("oci-layout").is_none());
}

#[test]
fn a_compressed_archive_is_refused_by_kind() {
    let dir = layout(&[None]);
    for (option, kind) in [("--gzip", "gzip"), ("--zstd", "zstd")] {
        let refused = refusal(Layout::open_archive(&packed(dir.path(), &[option])));
        assert!(refused.contains(&format!("compressed with {kind}")), "{refused}");
    }
    fs::write(dir.path().join("short.tar"), b"\x1f\x8b\x08").unwrap();
    assert!(refusal(Layout::open_archive(&dir.path().join("short.tar"))).contains("gzip"));
}

#[test]
fn an_archive_of_dockers_own_form_is_refused_with_the_way_out() {
    let dir = OnDisk::empty();
    fs::write(dir.path().join("manifest.json"), "[]").unwrap();
    let refused = refusal(Layout::open_archive(&packed(dir.path(), &[])));
    assert!(refused.contains("skopeo copy docker-archive:FILE"), "{refused}");
}

#[test]
fn an_archive_cut_short_is_refused() {
    let dir = layout(&[None]);
    let whole = fs::read(packed(dir.path(), &[])).unwrap();
    let cut = dir.path().join("cut.tar");
    let usable = |len: usize| {
        fs::write(&cut, &whole[..len]).unwrap();
        let layout = Layout::open_archive(&cut)?;
        layout.index(None)?;
        layout.blob(&Digest::of(&content(0)))
    };
    // Two empty blocks and the filling up to 10 KiB may be missing, the last member's filling too.
    let members_end = whole.len() - whole.iter().rev().take_while(|byte| **byte == 0).count();
    assert!(usable(members_end.next_multiple_of(512)).is_ok());
    for len in (0..members_end).step_by(100) {
        let refused = usable(len).unwrap_err().to_string();
        assert!(
            refused.contains("cut short") || refused.contains("has no") || refused.contains("is missing"),
            "{refused}"
        );
    }
}

#[test]
fn an_archive_that_was_replaced_is_noticed() {
    let dir = layout(&[None]);
    let archive = packed(dir.path(), &[]);
    let open = Layout::open_archive(&archive).unwrap();
    assert!(open.is_current());
    fs::remove_file(&archive).unwrap();
    assert!(!open.is_current());
    fs::write(&archive, b"other").unwrap();
    assert!(!open.is_current());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Damage anywhere gives an error or a layout, never a panic; and places always lie inside the file.
    #[test]
    fn a_damaged_archive_is_never_a_panic(at in 0usize..10240, byte: u8, len in 0usize..10240) {
        let dir = layout(&[Some("one")]);
        let mut bytes = fs::read(packed(dir.path(), &[])).unwrap();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        bytes.truncate(len.max(512));
        let file = dir.path().join("damaged.tar");
        fs::write(&file, &bytes).unwrap();
        if let Ok(layout) = Layout::open_archive(&file)
            && let Ok(blob) = layout.blob(&Digest::of(&content(0)))
        {
            prop_assert!(blob.read(0, blob.len()).is_ok());
        }
    }
}
