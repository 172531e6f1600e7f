//! S3-compatible stores, by the object-store crate: credentials, region and endpoint come from the
//! usual `AWS_*` variables.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Result, anyhow};
use futures_util::StreamExt;
use hyper::StatusCode;
use object_store::{
    Attribute, ObjectStoreExt, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore},
};

use super::{
    super::{Refusal, code::NOT_FOUND, fetch::too_large},
    Policy,
    attempts::{Failure, repeated},
    client::{Client, Connector, MACHINE_PATHS, NoResponse},
    code, listing,
    url::decoded,
};

const NO_CREDENTIALS: &str = "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN \
    where they are of a session), or AWS_SKIP_SIGNATURE=true for a bucket that everybody may read; without them and those of a \
    container or a web identity this machine was asked, as one of a cloud has some";

/// Why an object of a listing cannot be read.
pub const UNFIT: &str = "its key has an empty part (//), a slash at an end, . or .. as a part, or a control character, which is \
    not read: copy it to another key";

/// An object of a listing.
pub struct Listed {
    pub key: String,
    pub bytes: u64,
    /// Its key is one that can be asked for.
    pub is_fit: bool,
}

/// One store per bucket, opened when it is needed.
#[derive(Debug)]
pub struct Stores {
    client: Client,
    policy: Policy,
    open: Mutex<HashMap<String, Arc<AmazonS3>>>,
}

impl Stores {
    pub fn new(client: Client, policy: &Policy) -> Self {
        Self {
            client,
            policy: policy.clone(),
            open: Mutex::default(),
        }
    }

    fn store(&self, bucket: &str) -> Result<Arc<AmazonS3>, Failure> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = open.get(bucket) {
            return Ok(store.clone());
        }
        // Attempts are ours: the crate heeds no Retry-After.
        let retry = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_retry(retry)
            .with_http_connector(Connector(self.client.clone()))
            .build()
            .map_err(|error| failure(&error))?;
        let store = Arc::new(store);
        open.insert(bucket.to_owned(), store.clone());
        Ok(store)
    }

    pub async fn fetch(&self, bucket: &str, key: &str) -> Result<Vec<u8>, Refusal> {
        repeated(&self.policy, || self.read(bucket, key)).await
    }

    async fn read(&self, bucket: &str, key: &str) -> Result<Vec<u8>, Failure> {
        let store = self.store(bucket)?;
        let path = listing::path_of(key);
        let path = path.ok_or_else(|| Failure::lasting(code::URL_INVALID, UNFIT))?;
        let object = store.get(&path).await.map_err(|error| failure(&error))?;
        let (size, max_bytes) = (object.meta.size, self.policy.max_bytes);
        let encoding = object.attributes.get(&Attribute::ContentEncoding);
        let encoding = encoding.map_or_else(String::new, |value| value.to_string());
        if size > max_bytes {
            return Err(too_large(size, max_bytes).into());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let mut parts = object.into_stream();
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part.map_err(|error| failure(&error))?);
            if bytes.len() as u64 > max_bytes {
                return Err(too_large(bytes.len() as u64, max_bytes).into());
            }
        }
        Ok(decoded(bytes, &encoding, max_bytes)?)
    }

    pub async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        give: &mut impl FnMut(Listed) -> bool,
    ) -> Result<()> {
        let folder = match prefix {
            "" => None,
            prefix => Some(format!("{prefix}/")),
        };
        let mut token = None;
        loop {
            let page = || self.page(bucket, folder.as_deref(), token.clone());
            let page = repeated(&self.policy, page).await;
            let page = page
                .map_err(|(_, reason)| anyhow!("cannot list s3://{bucket}/{prefix}: {reason}"))?;
            let wants_more = page.result.objects.into_iter().all(|object| {
                let unfit = listing::unfit_key(&object.location);
                // What programs put there to show a folder.
                let is_folder = unfit.as_deref().is_some_and(|key| key.ends_with('/'));
                is_folder
                    || give(Listed {
                        bytes: object.size,
                        is_fit: unfit.is_none(),
                        key: unfit.unwrap_or_else(|| object.location.as_ref().to_owned()),
                    })
            });
            match page.page_token {
                Some(next) if wants_more => token = Some(next),
                _ => return Ok(()),
            }
        }
    }

    async fn page(
        &self,
        bucket: &str,
        folder: Option<&str>,
        page_token: Option<String>,
    ) -> Result<PaginatedListResult, Failure> {
        let options = PaginatedListOptions {
            page_token,
            ..PaginatedListOptions::default()
        };
        let page = self.store(bucket)?;
        let page = page.list_paginated(folder, options).await;
        page.map_err(|error| failure(&error))
    }
}

/// Whether the store was not even asked: credentials are looked for at a cloud's machine last.
fn lacks_credentials(error: &object_store::Error) -> bool {
    let said = error.to_string();
    MACHINE_PATHS.iter().any(|path| said.contains(path))
}

fn failure(error: &object_store::Error) -> Failure {
    let failure = match no_response(error) {
        Some(refused @ NoResponse::Refused { status, .. }) if *status == StatusCode::NOT_FOUND => {
            Failure::lasting(NOT_FOUND, refused.to_string())
        }
        Some(no_response) => Failure::of(no_response),
        None => Failure::lasting(code::STORE_FAILED, error.to_string()),
    };
    match lacks_credentials(error) {
        true => failure.explained(NO_CREDENTIALS),
        false => failure,
    }
}

fn no_response(error: &object_store::Error) -> Option<&NoResponse> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(no_response) = inner.downcast_ref() {
            return Some(no_response);
        }
        cause = inner.source();
    }
    None
}
