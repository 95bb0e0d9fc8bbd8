//! What refers to a manifest: by the API in all its pages, by the tag that stands in for it, and nowhere else.

use oncefs::blob::Referrer;
use oncefs::digest::Digest;
use serde_json::{Value, json};

use super::*;
use crate::support::debian_registry::DebianRegistry;
use crate::support::sample::{INDEX, write_layout};
use crate::support::scripted_registry::{Act, registry};

const OURS: &str = "application/vnd.example.ours.v1+json";
const OTHER: &str = "application/vnd.example.other.v1+json";

fn entry(name: &str, artifact_type: Option<&str>) -> Value {
    let digest = Digest::of(name.as_bytes()).to_string();
    let mut entry = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 7});
    if let Some(artifact_type) = artifact_type {
        entry["artifactType"] = json!(artifact_type);
        entry["annotations"] = json!({"name": name});
    }
    entry
}

fn index(entries: &[Value]) -> Bytes {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string().into()
}

fn names(found: &[Referrer]) -> Vec<&str> {
    found.iter().map(|one| one.annotations.get("name").map_or("", String::as_str)).collect()
}

fn tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

#[tokio::test]
async fn those_of_one_type_are_found_whether_the_registry_filters_or_not() {
    let subject = Digest::of(b"image");
    let all = index(&[entry("a", Some(OURS)), entry("b", Some(OTHER)), entry("c", None), entry("d", Some(OURS))]);
    let server = registry().with_referrers("team/app", &subject, &all).wants_token().run().await;
    let origin = server.origin("team/app");
    let found = client(config()).referrers(subject, Some(OURS), &origin).await.unwrap();
    assert_eq!(names(&found), ["a", "d"]);
    let want = Referrer {
        digest: Digest::of(b"a"),
        size: 7,
        artifact_type: OURS.to_owned(),
        annotations: [("name".to_owned(), "a".to_owned())].into(),
    };
    assert_eq!(found[0], want);
    let target = &server.seen("/referrers/")[0].target;
    assert_eq!(
        *target,
        format!("/v2/team/app/referrers/{subject}?artifactType=application%2Fvnd.example.ours.v1%2Bjson")
    );
    let found = client(config()).referrers(subject, None, &origin).await.unwrap();
    assert_eq!(names(&found), ["a", "b", "", "d"]);
    // Who filters need not say of each what it was filtered by.
    server.add_rule(1, "/referrers/", Act::Header("OCI-Filters-Applied", "other, artifactType".to_owned()));
    let found = client(config()).referrers(subject, Some(OURS), &origin).await.unwrap();
    assert_eq!(names(&found), ["a", "", "d"]);
    assert_eq!(server.seen("/manifests/").len(), 0, "the API is there");
}

#[tokio::test]
async fn all_pages_are_read_from_the_same_registry_and_their_number_is_bounded() {
    let subject = Digest::of(b"image");
    let first = index(&[entry("a", Some(OURS))]);
    let next = |page: &str| format!("<http://elsewhere.invalid/v2/other/x?artifactType=t&page={page}>; rel=\"next\"");
    let server = registry()
        .with_referrers("app", &subject, &first)
        .always("page=2", Act::Bytes(index(&[entry("b", Some(OURS))])))
        .once("/referrers/", Act::Header("Link", next("2")))
        .always("/referrers/", Act::Header("Link", next("3")))
        .run()
        .await;
    let found = client(config()).referrers(subject, None, &server.origin("app")).await.unwrap();
    assert_eq!(names(&found), ["a", "b"]);
    assert!(server.seen("page=2")[0].target.starts_with(&format!("/v2/app/referrers/{subject}?")));
    let found = client(config()).referrers(subject, None, &server.origin("app")).await.unwrap();
    assert_eq!(found.len(), 16, "a list without an end is read so far");
}

#[tokio::test]
async fn where_the_api_is_missing_the_tag_says_it() {
    let subject = Digest::of(b"image");
    let all = index(&[entry("a", Some(OURS)), entry("b", Some(OTHER))]);
    let server = registry().with_index("app", &tag(&subject), &all).run().await;
    let found = client(config()).referrers(subject, Some(OURS), &server.origin("app")).await.unwrap();
    assert_eq!(names(&found), ["a"]);
    server.add_rule(1, "/referrers/", Act::Status(405, vec![]));
    let found = client(config()).referrers(subject, None, &server.origin("app")).await.unwrap();
    assert_eq!(names(&found), ["a", "b"]);
    server.add_rule(1, "/referrers/", Act::Status(403, vec![]));
    let refused = client(config()).referrers(subject, None, &server.origin("app")).await.unwrap_err();
    assert!(refused.to_string().contains("refuses what refers to"), "{refused}");
}

#[tokio::test]
async fn a_tag_that_leads_to_an_image_says_nothing_and_a_list_that_is_none_is_an_error() {
    let image = Sample::of_sizes(&[10]);
    let subject = image.manifest_digest();
    let server = registry().with("app", &tag(&subject), &image).run().await;
    assert_eq!(client(config()).referrers(subject, None, &server.origin("app")).await.unwrap(), []);
    for text in ["<html>", "[]", r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#] {
        let server = registry().with_referrers("app", &subject, &Bytes::from_static(text.as_bytes())).run().await;
        let refused = client(config()).referrers(subject, None, &server.origin("app")).await.unwrap_err();
        assert!(refused.to_string().contains("gave a wrong answer for what refers to"), "{refused}");
    }
    let empty = Bytes::from_static(br#"{"schemaVersion":2,"manifests":null}"#);
    let server = registry().with_referrers("app", &subject, &empty).run().await;
    assert_eq!(client(config()).referrers(subject, None, &server.origin("app")).await.unwrap(), []);
}

#[tokio::test]
async fn debians_registry_has_no_such_api_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let image = Sample::of_sizes(&[1000]);
    write_layout(dir.path(), &[("one", &image)]);
    let server = DebianRegistry::start(None);
    server.push(dir.path(), "one", "app:1", None, &[]);
    let client = client(config());
    let got = resolve(&client, &server.image("app:1")).await.unwrap();
    let before = counts(&client).requests;
    assert_eq!(client.referrers(got.manifest_digest, None, &got.origin).await.unwrap(), []);
    assert_eq!(counts(&client).requests - before, 2, "the API and the tag");
}
