//! Sending things to a registry: blobs, manifests, and what stands in for the referrers API where a registry has none
//! (distribution-spec, "Pushing", "Referrers Tag Schema").
//!
//! Everything here may be done twice without harm, so what fails halfway is done again from its beginning.

use bytes::Bytes;
use reqwest::header::{HeaderName, LOCATION};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};

use crate::blob::{Origin, Referrer};
use crate::digest::Digest;
use crate::registry::ask::{Access, Ask, Change};
use crate::registry::client::{Answer, Client, Tries};
use crate::registry::error::RegistryError;
use crate::registry::manifest::{ACCEPT, INDEX, MANIFEST, MANIFEST_BYTES_MAX};
use crate::registry::reference::{Repository, Tag};
use crate::registry::referrers::fallback_tag;
use crate::registry::transport::Weight;
use crate::registry::{Registry, remote_of};

/// A repository that is pushed to.
pub(super) struct Push<'a> {
    pub(super) client: &'a Client,
    pub(super) repository: &'a Repository,
}

/// How often the list under a tag is written again because another one has written it meanwhile.
const RACES_MAX: usize = 5;
/// What everybody who writes such a list takes as a sign that its registry does it by itself.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

// === impl Registry ===

impl Registry {
    /// Whether it is a registry, which can be pushed to.
    ///
    /// # Errors
    /// Says what it is.
    pub fn takes_pushes(&self, origin: &Origin) -> Result<(), RegistryError> {
        self.shared.pushed_to(origin).map(drop)
    }

    /// Has the registry hold these bytes as a blob. Says whether they had to be sent.
    ///
    /// # Errors
    /// Says which registry refused or failed, and what to do about it.
    pub async fn push_blob(&self, bytes: &Bytes, origin: &Origin) -> Result<bool, RegistryError> {
        let (client, repository) = self.shared.pushed_to(origin)?;
        Push { client: &client, repository: &repository }.blob(Digest::of(bytes), bytes).await
    }

    /// Has a repository hold a blob of another one, without a byte of it being sent from here.
    ///
    /// # Errors
    /// As pushing a blob; and where that cannot be done.
    pub async fn mount_blob(&self, blob: Digest, from: &Origin, to: &Origin) -> Result<(), RegistryError> {
        let (client, repository) = self.shared.pushed_to(to)?;
        let from = remote_of(from)?.ok_or_else(|| RegistryError::NotPushed(from.clone()))?;
        Push { client: &client, repository: &repository }.mount(blob, &from).await
    }

    /// Puts a manifest whose blobs are there, under a name.
    ///
    /// # Errors
    /// As pushing a blob.
    pub async fn push_manifest(&self, name: &str, manifest: Bytes, origin: &Origin) -> Result<(), RegistryError> {
        let (client, repository) = self.shared.pushed_to(origin)?;
        Push { client: &client, repository: &repository }.manifest(name, manifest).await.map(drop)
    }

    /// Whether somebody has pushed something under this tag.
    ///
    /// # Errors
    /// As pushing a blob.
    pub async fn is_tagged(&self, tag: &Tag, origin: &Origin) -> Result<bool, RegistryError> {
        let (client, repository) = self.shared.pushed_to(origin)?;
        Push { client: &client, repository: &repository }.has_manifest(tag.as_str()).await
    }

    /// Puts a manifest whose blobs are there and which is about `subject`, so that it is found from there.
    ///
    /// # Errors
    /// As pushing a blob.
    pub async fn push_referrer(
        &self,
        subject: Digest,
        referrer: &Referrer,
        manifest: Bytes,
        origin: &Origin,
    ) -> Result<(), RegistryError> {
        let (client, repository) = self.shared.pushed_to(origin)?;
        Push { client: &client, repository: &repository }.referrer(subject, referrer, manifest).await
    }

    /// Takes away what is about `subject`. False if the registry deletes nothing: then it is only not found any more.
    ///
    /// # Errors
    /// As pushing a blob.
    pub async fn remove_referrer(
        &self,
        subject: Digest,
        referrer: Digest,
        origin: &Origin,
    ) -> Result<bool, RegistryError> {
        let (client, repository) = self.shared.pushed_to(origin)?;
        Push { client: &client, repository: &repository }.remove(subject, referrer).await
    }
}

// === impl Push ===

impl Push<'_> {
    /// Has the registry hold the blob. Says whether it was sent: it may be there already.
    pub(super) async fn blob(&self, digest: Digest, bytes: &Bytes) -> Result<bool, RegistryError> {
        let mut tries = Tries::new(self.client);
        loop {
            match self.blob_once(digest, bytes).await {
                Ok(was_sent) => return Ok(was_sent),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    async fn blob_once(&self, digest: Digest, bytes: &Bytes) -> Result<bool, RegistryError> {
        let what = format!("blob {digest} of {}", self.repository);
        let look = Ask { only_head: true, ..self.ask(format!("blobs/{digest}"), &what) };
        match self.client.once(&look).await {
            Ok(_) => return Ok(false),
            Err(RegistryError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let begin = self.change("blobs/uploads/".to_owned(), &what, Method::POST, BYTES, Bytes::new());
        let begun = self.client.once(&begin).await?;
        let mut at = self.location(&begun, &what)?;
        at.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut send = self.change("blobs/uploads/".to_owned(), &what, Method::PUT, BYTES, bytes.clone());
        send.change.iter_mut().for_each(|change| change.at = Some(at.clone()));
        self.client.once(&send).await.map(|_| true)
    }

    /// Where the registry wants the upload to go on.
    fn location(&self, begun: &Answer, what: &str) -> Result<Url, RegistryError> {
        let location = begun.reply.header(LOCATION).and_then(|location| begun.reply.body.url().join(location).ok());
        location.ok_or_else(|| RegistryError::Protocol {
            host: self.repository.host().to_owned(),
            what: what.to_owned(),
            cause: "it does not say where to upload to".to_owned(),
        })
    }

    /// Has the repository hold a blob that another one of the same registry has.
    pub(super) async fn mount(&self, digest: Digest, from: &Repository) -> Result<(), RegistryError> {
        let what = format!("blob {digest} of {}", self.repository);
        let look = Ask { only_head: true, ..self.ask(format!("blobs/{digest}"), &what) };
        match self.client.get(&look).await {
            Ok(_) => return Ok(()),
            Err(RegistryError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        if from.host() == self.repository.host() {
            let path = format!("blobs/uploads/?mount={digest}&from={}", from.path());
            let mount = self.change(path, &what, Method::POST, BYTES, Bytes::new());
            if self.client.get(&mount).await?.reply.status == StatusCode::CREATED {
                return Ok(());
            }
        }
        Err(RegistryError::NotMounted { blob: digest, from: from.to_string(), to: self.repository.to_string() })
    }

    /// Asked with the right to push: a repository that nobody has made yet is none that may be read.
    pub(super) async fn has_manifest(&self, name: &str) -> Result<bool, RegistryError> {
        let what = format!("manifest {name} of {}", self.repository);
        let look = Ask { only_head: true, accept: Some(ACCEPT), ..self.ask(format!("manifests/{name}"), &what) };
        match self.client.get(&look).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a manifest under a tag or its digest. Says whether the registry lists it among its subject's referrers by itself.
    pub(super) async fn manifest(&self, name: &str, bytes: Bytes) -> Result<bool, RegistryError> {
        let what = format!("manifest {name} of {}", self.repository);
        let put = self.change(format!("manifests/{name}"), &what, Method::PUT, MANIFEST, bytes);
        let answer = self.client.get(&put).await?;
        Ok(answer.reply.header(SUBJECT).is_some())
    }

    /// Puts a manifest that is about `subject`, and sees to it that it is found from there.
    pub(super) async fn referrer(
        &self,
        subject: Digest,
        referrer: &Referrer,
        bytes: Bytes,
    ) -> Result<(), RegistryError> {
        if self.manifest(&referrer.digest.to_string(), bytes).await? {
            return Ok(());
        }
        let entry = json!({
            "mediaType": MANIFEST,
            "digest": referrer.digest.to_string(),
            "size": referrer.size,
            "artifactType": referrer.artifact_type,
            "annotations": referrer.annotations,
        });
        self.change_list(subject, &referrer.digest, Some(&entry)).await
    }

    /// Takes a manifest away. Says whether the registry has deleted it; some never do, but nobody finds it any more.
    pub(super) async fn remove(&self, subject: Digest, referrer: Digest) -> Result<bool, RegistryError> {
        self.change_list(subject, &referrer, None).await?;
        let what = format!("manifest {referrer} of {}", self.repository);
        let delete = self.change(format!("manifests/{referrer}"), &what, Method::DELETE, BYTES, Bytes::new());
        match self.client.get(&delete).await {
            Ok(_) | Err(RegistryError::NotFound { .. }) => Ok(true),
            Err(RegistryError::Status { status: 405, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Has the list under the subject's tag name the referrer, or not name it. Registries cannot be told "only if nobody else
    /// has changed it", so it is looked at again, and written again if another one's writing undid ours.
    async fn change_list(
        &self,
        subject: Digest,
        referrer: &Digest,
        entry: Option<&Value>,
    ) -> Result<(), RegistryError> {
        let tag = fallback_tag(&subject);
        let tries = Tries::new(self.client);
        for _ in 0..RACES_MAX {
            let mut list = self.list(&tag).await?;
            let is_listed = list.iter().any(|listed| names(listed, referrer));
            if is_listed == entry.is_some() {
                return Ok(());
            }
            list.retain(|listed| !names(listed, referrer));
            list.extend(entry.cloned());
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": list});
            let what = format!("the list of what refers to {subject} in {}", self.repository);
            let bytes = index.to_string().into();
            let put = self.change(format!("manifests/{tag}"), &what, Method::PUT, INDEX, bytes);
            self.client.get(&put).await?;
            tries.pause().await;
        }
        let cause = "others change the list of what refers to the image all the time".to_owned();
        let what = format!("manifest {referrer}");
        Err(RegistryError::Protocol { host: self.repository.host().to_owned(), what, cause })
    }

    /// What the tag lists, as it is: what others have written there stays.
    async fn list(&self, tag: &str) -> Result<Vec<Value>, RegistryError> {
        let ask = Ask { accept: Some(INDEX), ..self.ask(format!("manifests/{tag}"), tag) };
        let small = match self.client.small(&ask, MANIFEST_BYTES_MAX).await {
            Ok(small) => small,
            Err(RegistryError::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut index: Value = serde_json::from_slice(&small.bytes).unwrap_or_default();
        match index.get_mut("manifests").map(Value::take) {
            Some(Value::Array(list)) => Ok(list),
            _ => Ok(Vec::new()),
        }
    }

    fn ask(&self, path: String, what: &str) -> Ask {
        Ask {
            repository: self.repository.clone(),
            path,
            what: what.to_owned(),
            accept: None,
            range: None,
            only_head: false,
            weight: Weight::Light,
            access: Access::Push,
            change: None,
        }
    }

    fn change(&self, path: String, what: &str, method: Method, media_type: &'static str, body: Bytes) -> Ask {
        Ask { change: Some(Change { method, media_type, body, at: None }), ..self.ask(path, what) }
    }
}

const BYTES: &str = "application/octet-stream";

fn names(listed: &Value, referrer: &Digest) -> bool {
    listed.get("digest").and_then(Value::as_str).is_some_and(|digest| digest == referrer.to_string())
}
