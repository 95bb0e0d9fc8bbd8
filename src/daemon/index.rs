//! Calls about the indexes that are published beside images.

use std::path::Path;
use std::sync::Arc;

use super::failure;
use super::node::{News, Node, blocking, named};
use crate::control::{Failure, FailureKind, IndexAction, IndexCall, IndexLayer, IndexReport, IndexSummary};
use crate::digest::Digest;
use crate::image::{Asker, Image, PublishedIndex};
use crate::index::published::signature::SigningKey;
use crate::registry::{Reference, Remote};

/// A key in PEM has some 120 bytes.
const KEY_BYTES_MAX: u64 = 64 << 10;

impl Node {
    /// Pushes, lists, verifies or removes what is published of an image's index.
    pub async fn index(&self, call: &IndexCall, news: &News) -> Result<IndexSummary, Failure> {
        // What is scanned for it is kept, as what is pulled is.
        let asker = match &call.action {
            IndexAction::List | IndexAction::Remove { .. } => Asker::Onlooker,
            IndexAction::Push { .. } | IndexAction::Convert { .. } | IndexAction::Verify => Asker::User,
        };
        let image = self.resolve(&call.image, call.platform.as_deref(), asker).await?;
        let indexes = match &call.action {
            IndexAction::Push { sign } => vec![self.push_index(&image, sign.as_deref(), news).await?],
            IndexAction::Convert { to, sign, force } => {
                let to = self.new_name(&image, to, *force).await?;
                return self.convert(&image, &to, sign.as_deref(), news).await;
            }
            IndexAction::List => self.published(&image).await?.iter().map(report).collect(),
            IndexAction::Verify => self.verify_indexes(&image, news).await?,
            IndexAction::Remove { digest } => self.remove_indexes(&image, *digest).await?,
        };
        Ok(summary(&image, indexes))
    }

    async fn convert(
        &self,
        image: &Arc<Image>,
        to: &Remote,
        sign: Option<&Path>,
        news: &News,
    ) -> Result<IndexSummary, Failure> {
        let key = match sign {
            Some(path) => Some(signing_key(path).await?),
            None => None,
        };
        self.scanned(image, news).await?;
        let converted = self.images().convert(image, to, key.as_ref()).await;
        let (manifest_digest, pushed) = converted.map_err(|error| failure::of_publish(&error))?;
        Ok(IndexSummary { reference: to.to_string(), manifest_digest, ..summary(image, vec![report(&pushed.index)]) })
    }

    /// What a converted image will be called, if it may be.
    async fn new_name(&self, image: &Image, to: &str, force: bool) -> Result<Remote, Failure> {
        let Reference::Remote(remote) = named(to, None)?.0 else {
            let message = format!("{to} is on this machine's disk; only a registry can be pushed to");
            return Err(Failure::new(FailureKind::Usage, message));
        };
        let may = self.images().may_convert(image, &remote, force).await;
        may.map(|()| remote).map_err(|error| failure::of_publish(&error))
    }

    async fn push_index(&self, image: &Arc<Image>, sign: Option<&Path>, news: &News) -> Result<IndexReport, Failure> {
        self.images().may_publish(image).map_err(|error| failure::of_publish(&error))?;
        let key = match sign {
            Some(path) => Some(signing_key(path).await?),
            None => None,
        };
        self.scanned(image, news).await?;
        let pushed = self.images().publish(image, key.as_ref()).await;
        Ok(report(&pushed.map_err(|error| failure::of_publish(&error))?.index))
    }

    async fn published(&self, image: &Image) -> Result<Vec<PublishedIndex>, Failure> {
        self.images().published(image).await.map_err(|error| failure::of_publish(&error))
    }

    async fn verify_indexes(&self, image: &Arc<Image>, news: &News) -> Result<Vec<IndexReport>, Failure> {
        let published = self.published(image).await?;
        if published.is_empty() {
            return Err(none_of(image));
        }
        self.scanned(image, news).await?;
        let mut reports = Vec::new();
        for index in published {
            let problems = self.images().verify_published(image, &index).await;
            let problems = problems.map_err(|error| failure::of_publish(&error))?;
            reports.push(IndexReport { problems, ..report(&index) });
        }
        Ok(reports)
    }

    async fn remove_indexes(&self, image: &Image, only: Option<Digest>) -> Result<Vec<IndexReport>, Failure> {
        let published = self.published(image).await?;
        let mut removed = Vec::new();
        for index in published.iter().filter(|index| only.is_none_or(|only| index.digest == only)) {
            let is_deleted = self.images().unpublish(image, index.digest).await;
            let is_deleted = is_deleted.map_err(|error| failure::of_publish(&error))?;
            let left = "nobody finds it any more, but its registry does not delete manifests".to_owned();
            let problems = if is_deleted { Vec::new() } else { vec![left] };
            removed.push(IndexReport { problems, ..report(index) });
        }
        if removed.is_empty() { Err(none_of(image)) } else { Ok(removed) }
    }

    /// Scans what was not.
    async fn scanned(&self, image: &Arc<Image>, news: &News) -> Result<(), Failure> {
        self.with_news(image, news, self.images().layers(image)).await.map(drop)
    }
}

fn summary(image: &Image, indexes: Vec<IndexReport>) -> IndexSummary {
    IndexSummary {
        reference: image.reference.clone(),
        platform: image.platform.clone(),
        manifest_digest: image.manifest_digest,
        image_bytes: image.size(),
        indexes,
    }
}

fn report(index: &PublishedIndex) -> IndexReport {
    let layers = index.indexes.iter().map(|listed| IndexLayer { layer: listed.layer, size: listed.size });
    IndexReport {
        digest: index.digest,
        layers: layers.collect(),
        profile_bytes: index.profile.map(|profile| profile.size),
        signed_by: index.signer.as_ref().map(ToString::to_string),
        unknown_key: index.claimed_key.filter(|_| index.signer.is_none()),
        problems: Vec::new(),
    }
}

fn none_of(image: &Image) -> Failure {
    let message = format!(
        "{} has no such index beside it; 'oncefs index ls' says which there are, 'oncefs index push' makes one",
        image.reference
    );
    Failure::new(FailureKind::NotFound, message)
}

async fn signing_key(path: &Path) -> Result<SigningKey, Failure> {
    let read = path.to_owned();
    let pem = blocking(move || {
        use std::io::Read as _;
        let mut pem = String::new();
        std::fs::File::open(&read)?.take(KEY_BYTES_MAX).read_to_string(&mut pem).map(|_| pem)
    });
    let wrong = |cause: &dyn std::fmt::Display| {
        Failure::new(FailureKind::Usage, format!("the key {} cannot be used: {cause}", path.display()))
    };
    let pem = pem.await?.map_err(|error| wrong(&error))?;
    SigningKey::of_pem(&pem).map_err(|error| wrong(&error))
}
