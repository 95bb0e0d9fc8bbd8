//! Pushing: what is there already, where uploads go, as whom, and how what refers to something is found again.

use oncefs::blob::Referrer;
use oncefs::digest::Digest;

use super::*;
use crate::support::debian_registry::{Account, DebianRegistry};
use crate::support::scripted_registry::{Act, registry};

const OURS: &str = "application/vnd.example.ours.v1+json";

fn blob() -> Bytes {
    Bytes::from_static(b"\x00\xffsome bytes")
}

/// An artifact about `subject`, and how it is listed.
fn artifact(subject: Digest, name: &str) -> (Referrer, Bytes) {
    let empty = Digest::of(b"{}");
    let bytes = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"{OURS}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{empty}","size":2}},"layers":[],"subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{subject}","size":7}},"annotations":{{"name":"{name}"}}}}"#
    );
    let bytes = Bytes::from(bytes);
    let annotations = [("name".to_owned(), name.to_owned())].into();
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    (Referrer { digest, size, artifact_type: OURS.to_owned(), annotations }, bytes)
}

fn uploads(location: &str) -> Act {
    Act::Status(202, vec![("Location", location.to_owned())])
}

#[tokio::test]
async fn a_blob_goes_where_the_registry_says_and_one_that_is_there_goes_nowhere() {
    let other = Bytes::from_static(b"there already");
    let server = registry()
        .with_blob("app", &other)
        .wants_token()
        .once("blobs/uploads/", uploads("/v2/app/blobs/uploads/77?state=x"))
        .once("blobs/uploads/77", Act::Status(201, vec![]))
        .run()
        .await;
    let client = client(config());
    assert!(!client.push_blob(&other, &server.origin("app")).await.unwrap());
    assert_eq!(server.seen("uploads").len(), 0);
    assert!(client.push_blob(&blob(), &server.origin("app")).await.unwrap());
    let seen = server.seen("uploads");
    assert_eq!((seen[0].method.as_str(), seen[0].body.as_str()), ("POST", ""));
    let digest = Digest::of(&blob()).to_string().replace(':', "%3A");
    assert_eq!(seen[1].target, format!("/v2/app/blobs/uploads/77?state=x&digest={digest}"));
    assert_eq!(
        (seen[1].method.as_str(), seen[1].body.as_bytes()),
        ("PUT", String::from_utf8_lossy(&blob()).as_bytes())
    );
    assert!(seen.iter().all(|seen| seen.headers.contains_key("authorization")));
}

#[tokio::test]
async fn an_upload_that_breaks_is_begun_again_and_one_to_plain_http_elsewhere_is_not_made() {
    let server = registry()
        .once("blobs/uploads/", uploads("/v2/app/blobs/uploads/1"))
        .once("uploads/1", Act::Status(503, vec![]))
        .once("blobs/uploads/", uploads("/v2/app/blobs/uploads/2"))
        .once("uploads/2", Act::Status(201, vec![]))
        .once("blobs/uploads/", uploads("http://elsewhere.invalid/upload"))
        .run()
        .await;
    let client = client(config());
    assert!(client.push_blob(&blob(), &server.origin("app")).await.unwrap());
    let refused = client.push_blob(&blob(), &server.origin("app")).await.unwrap_err().to_string();
    assert!(refused.contains("plain HTTP, where it may not"), "{refused}");
}

#[tokio::test]
async fn a_registry_that_lists_referrers_itself_is_left_to_it() {
    let subject = Digest::of(b"image");
    let (referrer, bytes) = artifact(subject, "a");
    let itself = Act::Status(201, vec![("OCI-Subject", subject.to_string())]);
    let server = registry().always("/manifests/", itself).run().await;
    client(config()).push_referrer(subject, &referrer, bytes.clone(), &server.origin("app")).await.unwrap();
    let seen = server.seen("");
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!((seen[0].method.as_str(), seen[0].body.as_bytes()), ("PUT", bytes.as_ref()));
    assert_eq!(seen[0].target, format!("/v2/app/manifests/{}", referrer.digest));
    assert_eq!(seen[0].headers["content-type"], "application/vnd.oci.image.manifest.v1+json");
}

#[tokio::test]
async fn in_debians_registry_the_tag_lists_what_was_pushed_until_it_is_removed() {
    let account = Account { user: "someone", password: "hunter2" };
    let server = DebianRegistry::start(Some(&account));
    let (dir, origin) = (tempfile::tempdir().unwrap(), Origin(format!("docker://{}/team/app", server.address)));
    let subject = Digest::of(b"image");
    let anonymous = client(config());
    let refused = anonymous.push_blob(&blob(), &origin).await.unwrap_err().to_string();
    assert!(refused.contains("refuses") && refused.contains("docker login"), "{refused}");

    let auth = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "someone:hunter2");
    let file = dir.path().join("config.json");
    let login = serde_json::json!({"auths": {server.address.to_string(): {"auth": auth}}});
    std::fs::write(&file, login.to_string()).unwrap();
    let client = client(Config { docker_config: vec![file], ..config() });
    for bytes in [blob(), Bytes::from_static(b"{}")] {
        assert!(client.push_blob(&bytes, &origin).await.unwrap());
        assert!(!client.push_blob(&bytes, &origin).await.unwrap(), "it is there");
    }
    let ((a, a_bytes), (b, b_bytes)) = (artifact(subject, "a"), artifact(subject, "b"));
    for (referrer, bytes) in [(&a, &a_bytes), (&b, &b_bytes), (&a, &a_bytes)] {
        client.push_referrer(subject, referrer, bytes.clone(), &origin).await.unwrap();
    }
    let found = client.referrers(subject, Some(OURS), &origin).await.unwrap();
    assert_eq!(found, [a.clone(), b.clone()]);
    assert_eq!(client.manifest(a.digest, &origin).await.unwrap(), a_bytes);
    assert!(client.remove_referrer(subject, a.digest, &origin).await.unwrap());
    assert_eq!(client.referrers(subject, None, &origin).await.unwrap(), [b]);
    let gone = client.manifest(a.digest, &origin).await.unwrap_err().to_string();
    assert!(gone.contains("does not have"), "{gone}");
}
