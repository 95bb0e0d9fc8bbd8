//! Manifests that are used, and each kind that is refused.

use serde_json::{Value, json};

use super::*;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn digest_of(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

fn descriptor(media_type: &str, content: &str) -> Value {
    json!({"mediaType": media_type, "digest": digest_of(content), "size": content.len()})
}

fn manifest(layers: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, "c"), "layers": layers})
}

fn config(diff_ids: &[&str]) -> ImageConfig {
    let ids: Vec<String> = diff_ids.iter().map(|text| digest_of(text)).collect();
    let text = json!({"os": "linux", "architecture": "arm64", "rootfs": {"type": "layers", "diff_ids": ids}});
    ImageConfig::parse(text.to_string().as_bytes()).unwrap()
}

fn parse(value: &Value, header: Option<&str>) -> Result<Document, ManifestError> {
    Document::parse(value.to_string().as_bytes(), header)
}

fn parsed(value: &Value) -> Manifest {
    match parse(value, None).unwrap() {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => panic!("{value} is a manifest"),
    }
}

fn layers_of(value: &Value) -> Result<Vec<Layered>, ManifestError> {
    parsed(value).layers(&config(&["tar"]))
}

fn index(entries: &[Value]) -> Index {
    let value = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    match parse(&value, None).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("{value} is an index"),
    }
}

fn entry(content: &str, platform: Value) -> Value {
    let mut entry = descriptor(OCI_MANIFEST, content);
    entry["platform"] = platform;
    entry
}

fn chosen(index: &Index, want: &str) -> Result<String, Vec<String>> {
    let entries: Vec<&Entry> = index.entries.iter().collect();
    choose(&entries, &want.parse().unwrap()).map(|entry| entry.wanted.digest.to_string())
}

#[test]
fn a_manifest_gives_its_layers_with_their_diff_ids() {
    let mut layer = descriptor(OCI_GZIP, "blob");
    layer["annotations"] = json!({"a": "b"});
    let got = layers_of(&manifest(&[layer])).unwrap();
    let want = Layered {
        digest: LayerDigest(Digest::of(b"blob")),
        diff_id: DiffId(Digest::of(b"tar")),
        size: 4,
        media_type: OCI_GZIP.to_owned(),
        annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
    };
    assert_eq!(got, [want]);
}

#[test]
fn dockers_own_words_are_understood() {
    let layer = descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", "blob");
    let value = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
                       "config": descriptor(DOCKER_CONFIG, "c"), "layers": [layer]});
    assert_eq!(layers_of(&value).unwrap().len(), 1);
    let list = json!({"schemaVersion": 2, "mediaType": DOCKER_INDEX, "manifests": []});
    assert!(matches!(parse(&list, Some(DOCKER_INDEX)), Ok(Document::Index(_))));
}

#[test]
fn a_manifest_without_a_type_is_known_by_header_or_fields() {
    let mut value = manifest(&[]);
    value.as_object_mut().unwrap().remove("mediaType");
    assert!(matches!(parse(&value, Some("application/json; charset=utf-8")), Ok(Document::Manifest(_))));
    assert!(matches!(parse(&value, Some(OCI_MANIFEST)), Ok(Document::Manifest(_))));
    assert_eq!(parse(&value, Some(OCI_INDEX)).unwrap_err(), ManifestError::Ambiguous);
}

#[test]
fn what_two_programs_could_read_differently_is_refused() {
    let mut both = manifest(&[]);
    both["manifests"] = json!([]);
    assert_eq!(parse(&both, None).unwrap_err(), ManifestError::Ambiguous);
    let mut lying = manifest(&[]);
    lying["mediaType"] = OCI_INDEX.into();
    assert_eq!(parse(&lying, None).unwrap_err(), ManifestError::Ambiguous);
    let refused = parse(&manifest(&[]), Some(OCI_INDEX)).unwrap_err();
    assert_eq!(refused, ManifestError::TwoTypes { body: OCI_MANIFEST.into(), header: OCI_INDEX.into() });
}

#[test]
fn schema_1_is_refused_by_name() {
    let old = json!({"schemaVersion": 1, "name": "a", "fsLayers": [], "history": []});
    assert_eq!(parse(&old, None).unwrap_err(), ManifestError::Schema1);
    let signed = json!({"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"});
    assert_eq!(parse(&signed, None).unwrap_err(), ManifestError::Schema1);
}

#[test]
fn what_is_no_image_is_refused() {
    let mut chart = manifest(&[]);
    chart["config"] = descriptor("application/vnd.cncf.helm.config.v1+json", "c");
    assert_eq!(
        parse(&chart, None).unwrap_err(),
        ManifestError::Artifact("application/vnd.cncf.helm.config.v1+json".into())
    );
    assert!(matches!(parse(&json!({"mediaType": "text/x"}), None), Err(ManifestError::MediaType(_))));
    assert!(matches!(parse(&json!({}), None), Err(ManifestError::MediaType(_))));
    let Err(ManifestError::Json { line, column, .. }) = Document::parse(b"{\n \"schemaVersion\": tru}", None) else {
        panic!("that is no JSON");
    };
    assert_eq!((line, column), (2, 22));
}

#[test]
fn layers_that_are_no_tar_are_refused_by_kind() {
    let cases = [
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("application/vnd.oci.image.layer.nydus.blob.v1", "nydus"),
        ("application/vnd.erofs.layer.v1", "EROFS"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "foreign"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
        ("application/x-lzip", "unknown media type"),
    ];
    for (media_type, kind) in cases {
        let refused = layers_of(&manifest(&[descriptor(media_type, "blob")])).unwrap_err().to_string();
        assert!(refused.contains(kind) && refused.contains(&digest_of("blob")), "{refused}");
    }
    for (key, kind) in [
        ("containerd.io/snapshot/nydus-blob", "nydus"),
        ("containerd.io/snapshot/overlaybd/blob-digest", "overlaybd"),
        ("containerd.io/snapshot/overlaybd/turbo-oci/target-digest", "overlaybd"),
    ] {
        let mut layer = descriptor(OCI_GZIP, "blob");
        layer["annotations"] = json!({key: "x"});
        let refused = layers_of(&manifest(&[layer])).unwrap_err().to_string();
        assert!(refused.contains(kind), "{refused}");
    }
}

#[test]
fn there_are_as_many_diff_ids_as_layers_and_not_too_many() {
    let layer = || descriptor(OCI_GZIP, "blob");
    let two = parsed(&manifest(&[layer(), layer()]));
    assert_eq!(two.layers(&config(&["tar"])).unwrap_err(), ManifestError::DiffIds { layers: 2, diff_ids: 1 });
    let many: Vec<Value> = (0..=LAYERS_MAX).map(|_| layer()).collect();
    assert_eq!(parse(&manifest(&many), None).unwrap_err(), ManifestError::Layers(LAYERS_MAX + 1));
    assert!(parse(&manifest(&many[..LAYERS_MAX]), None).is_ok());
}

#[test]
fn a_digest_that_is_none_is_refused_before_it_is_used() {
    let mut layer = descriptor(OCI_GZIP, "blob");
    layer["digest"] = "sha256:../../../etc/passwd".into();
    let refused = parse(&manifest(&[layer]), None).map(|document| match document {
        Document::Manifest(manifest) => manifest.layers(&config(&["tar"])).map(drop),
        Document::Index(_) => Ok(()),
    });
    assert!(matches!(refused, Err(_) | Ok(Err(_))), "{refused:?}");
    let refused = ImageConfig::parse(br#"{"rootfs": {"diff_ids": ["md5:x"]}}"#).unwrap_err();
    assert!(matches!(refused, ManifestError::Digest { .. }), "{refused}");
}

#[test]
fn the_entry_for_the_platform_is_chosen() {
    let index = index(&[
        entry("attestation", json!({"os": "unknown", "architecture": "unknown"})),
        entry("nydus", json!({"os": "linux", "architecture": "amd64", "os.features": [NYDUS_FEATURE]})),
        entry("amd64", json!({"os": "linux", "architecture": "amd64"})),
        entry("again", json!({"os": "linux", "architecture": "amd64"})),
        entry("v6", json!({"os": "linux", "architecture": "arm", "variant": "v6"})),
        entry("v7", json!({"os": "linux", "architecture": "arm", "variant": "v7"})),
        entry("arm64", json!({"os": "linux", "architecture": "arm64", "variant": "v8"})),
    ]);
    for (want, content) in
        [("linux/amd64", "amd64"), ("linux/arm", "v7"), ("linux/arm/v6", "v6"), ("linux/arm64", "arm64")]
    {
        assert_eq!(chosen(&index, want), Ok(digest_of(content)), "{want}");
    }
    let have = ["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64"].map(str::to_owned);
    assert_eq!(chosen(&index, "linux/s390x"), Err(have.to_vec()));
}

#[test]
fn an_entry_that_names_no_platform_is_the_last_resort() {
    let bare = index(&[descriptor(OCI_INDEX, "nested"), entry("arm", json!({"os": "linux", "architecture": "arm64"}))]);
    assert_eq!(chosen(&bare, "linux/arm64"), Ok(digest_of("arm")));
    assert_eq!(chosen(&bare, "linux/amd64"), Ok(digest_of("nested")));
    let other = index(&[descriptor("application/spdx+json", "sbom")]);
    assert_eq!(chosen(&other, "linux/amd64"), Err(vec![]));
}
