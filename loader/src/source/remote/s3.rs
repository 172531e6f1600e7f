//! S3-compatible stores, by the object-store crate: credentials, region and endpoint come from the
//! usual `AWS_*` variables.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use object_store::{
    Attribute, BackoffConfig, ObjectStore, ObjectStoreExt, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};

use super::{
    super::{Refusal, code::NOT_FOUND, fetch::too_large},
    Policy,
    client::{Client, Connector, NoResponse},
    code, refusal,
    url::decoded,
};

const NO_CREDENTIALS: &str = "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN \
    where they are of a session), or AWS_SKIP_SIGNATURE=true for a bucket that everybody may read; without them and those of a \
    container or a web identity this machine was asked, as one of a cloud has some";

/// An object of a listing.
pub struct Listed {
    pub key: String,
    pub bytes: u64,
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

    fn store(&self, bucket: &str) -> object_store::Result<Arc<AmazonS3>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = open.get(bucket) {
            return Ok(store.clone());
        }
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: usize::try_from(self.policy.retries).unwrap_or(usize::MAX),
            retry_timeout: self.patience(),
        };
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_retry(retry)
            .with_http_connector(Connector(self.client.clone()))
            .build()?;
        let store = Arc::new(store);
        open.insert(bucket.to_owned(), store.clone());
        Ok(store)
    }

    /// For all attempts together.
    fn patience(&self) -> Duration {
        self.policy.timeout.saturating_mul(self.policy.retries + 1)
    }

    pub async fn fetch(&self, bucket: &str, key: &str) -> Result<Vec<u8>, Refusal> {
        match tokio::time::timeout(self.patience(), self.read(bucket, key)).await {
            Ok(read) => read,
            Err(_) => Err(refusal(&NoResponse::TimedOut(self.patience()))),
        }
    }

    async fn read(&self, bucket: &str, key: &str) -> Result<Vec<u8>, Refusal> {
        let store = self.store(bucket).map_err(|error| explain(&error))?;
        let path =
            Path::parse(key).map_err(|error| (code::URL_INVALID.to_owned(), error.to_string()))?;
        let object = store.get(&path).await.map_err(|error| explain(&error))?;
        let (size, max_bytes) = (object.meta.size, self.policy.max_bytes);
        let encoding = object.attributes.get(&Attribute::ContentEncoding);
        let encoding = encoding.map_or_else(String::new, |value| value.to_string());
        if size > max_bytes {
            return Err(too_large(size, max_bytes));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let mut parts = object.into_stream();
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part.map_err(|error| explain(&error))?);
            if bytes.len() as u64 > max_bytes {
                return Err(too_large(bytes.len() as u64, max_bytes));
            }
        }
        decoded(bytes, &encoding, max_bytes)
    }

    pub async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        give: &mut impl FnMut(Listed) -> bool,
    ) -> Result<()> {
        let wrong = || format!("cannot list s3://{bucket}/{prefix}");
        let store = self.store(bucket).with_context(wrong)?;
        let prefix = Path::parse(prefix).with_context(wrong)?;
        let mut objects = store.list(Some(&prefix));
        while let Some(object) = objects.next().await {
            let object = object.map_err(|error| {
                let is_name = matches!(error, object_store::Error::InvalidPath { .. });
                let advice = match is_name {
                    _ if lacks_credentials(&error) => &format!(": {NO_CREDENTIALS}"),
                    true => {
                        ": objects whose keys have empty parts (//), . or .. as a part or control characters cannot be listed; \
                         rename that one, or name prefixes beside it"
                    }
                    false => "",
                };
                anyhow::Error::from(error).context(format!("{}{advice}", wrong()))
            })?;
            let listed = Listed {
                key: object.location.as_ref().to_owned(),
                bytes: object.size,
            };
            if !give(listed) {
                break;
            }
        }
        Ok(())
    }
}

/// Whether the store was not even asked: credentials are looked for at a cloud's machine last.
fn lacks_credentials(error: &object_store::Error) -> bool {
    let said = error.to_string();
    let of_machine = ["/latest/api/token", "/latest/meta-data/"];
    of_machine.iter().any(|path| said.contains(path))
}

fn explain(error: &object_store::Error) -> Refusal {
    let (code, reason) = reason(error);
    match lacks_credentials(error) {
        true => (code, format!("{NO_CREDENTIALS}: {reason}")),
        false => (code, reason),
    }
}

fn reason(error: &object_store::Error) -> Refusal {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(no_response) = inner.downcast_ref::<NoResponse>() {
            return refusal(no_response);
        }
        cause = inner.source();
    }
    let code = match error {
        object_store::Error::NotFound { .. } => NOT_FOUND,
        object_store::Error::PermissionDenied { .. } => "http_403",
        object_store::Error::Unauthenticated { .. } => "http_401",
        _ => code::STORE_FAILED,
    };
    (code.to_owned(), error.to_string())
}
