//! Photos that are not on this machine: `http://`, `https://` and `s3://`.
//!
//! The loader's one asynchronous corner: a thread drives the sockets, and readers wait for what they
//! asked for. Invariants: a photo is read to its limit at most; no attempt takes longer than the
//! timeout; only what may pass is tried again, a limited number of times and ever later.

mod attempts;
mod client;
mod guard;
mod listing;
mod s3;
mod url;

use std::{
    path::Path,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use client::{Client, NoResponse};
use guard::Guard;
pub use guard::Network;
use s3::Stores;
use tokio::{runtime, sync::Notify};

use super::{
    Entry, Item, Opener, Part, Place, Refusal, Reject,
    fetch::too_large,
    names::{is_hidden, is_photo_name, sku_of},
    producer::produced,
};
use crate::{args::SourceArgs, interrupt};

/// How soon a fetch notices that the user asked to stop.
const WAKE: Duration = Duration::from_millis(100);

/// Codes of rejects of photos that had to be fetched; `http_STATUS` beside them.
pub mod code {
    pub const URL_INVALID: &str = "url_invalid";
    pub const PRIVATE_ADDRESS: &str = "private_address";
    pub const HOST_UNKNOWN: &str = "host_unknown";
    pub const TIMED_OUT: &str = "timed_out";
    pub const CONNECTION_FAILED: &str = "connection_failed";
    pub const TOO_MANY_REDIRECTS: &str = "too_many_redirects";
    pub const STORE_FAILED: &str = "store_failed";
}

/// How patient to be, and with what.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Of one attempt.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
    pub max_bytes: u64,
}

/// Everything that fetching needs.
#[derive(Debug)]
pub struct Remote {
    handle: runtime::Handle,
    end: Arc<Notify>,
    client: Client,
    stores: Stores,
    policy: Policy,
}

impl Remote {
    pub fn new(args: &SourceArgs, max_bytes: u64) -> Result<Self> {
        let policy = Policy {
            timeout: Duration::from_secs(args.timeout),
            retries: args.retries,
            max_bytes,
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot set up network access")?;
        let handle = runtime.handle().clone();
        let end = Arc::new(Notify::new());
        let until = end.clone();
        thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || runtime.block_on(until.notified()))
            .context("cannot start a thread for the network")?;
        let guard = Guard::new(&args.allow_private_addresses);
        let client = Client::new(guard.clone(), policy.timeout)?;
        let of_stores = Client::new(guard.with_metadata(), policy.timeout)?;
        Ok(Self {
            stores: Stores::new(of_stores, &policy),
            handle,
            end,
            client,
            policy,
        })
    }

    /// The bytes at an address; waits for them.
    pub fn fetch(&self, address: &Address) -> Result<Vec<u8>, Refusal> {
        let fetched = async {
            match address {
                Address::Url(url) => url::fetch(&self.client, &self.policy, url).await,
                Address::Object { bucket, key } => self.stores.fetch(bucket, key).await,
            }
        };
        let fetched = self.handle.block_on(unless_interrupted(fetched));
        fetched.unwrap_or_else(|| {
            let reason = "interrupted".to_owned();
            Err((code::CONNECTION_FAILED.to_owned(), reason))
        })
    }

    /// Every object of a bucket under a prefix, in order, given to `give` until it has enough.
    pub fn list(
        &self,
        bucket: &str,
        prefix: &str,
        mut give: impl FnMut(s3::Listed) -> bool,
    ) -> Result<()> {
        self.handle
            .block_on(self.stores.list(bucket, prefix, &mut give))
    }
}

/// `None` where the user asked to stop before that.
async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    loop {
        match tokio::time::timeout(WAKE, work.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_) if interrupt::is_requested() => return None,
            Err(_) => {}
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.end.notify_one();
    }
}

/// A place on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Url(::url::Url),
    Object { bucket: String, key: String },
}

impl Address {
    /// `None` for a text that is a path. An error for one that means to be an address.
    pub fn of_text(text: &str) -> Option<Result<Self, String>> {
        if text.starts_with("//") && !Path::new(text).exists() {
            return Some(Err(
                "is a URL without a scheme: write https: before it".to_owned()
            ));
        }
        if text
            .get(..5)
            .is_some_and(|start| start.eq_ignore_ascii_case("data:"))
        {
            return Some(Err(
                "holds the photo itself, which is not read: give a path or a URL".to_owned(),
            ));
        }
        let (scheme, rest) = text.split_once("://")?;
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Some(match ::url::Url::parse(text) {
                Ok(url) => Ok(Self::Url(url)),
                Err(error) => Err(format!("is no URL: {error}")),
            }),
            "s3" => Some(match rest.split_once('/') {
                Some((bucket, key)) if !bucket.is_empty() => Ok(Self::Object {
                    bucket: bucket.to_owned(),
                    key: key.to_owned(),
                }),
                _ if !rest.is_empty() => Ok(Self::Object {
                    bucket: rest.to_owned(),
                    key: String::new(),
                }),
                _ => Err("names no bucket: it looks like s3://bucket/prefix".to_owned()),
            }),
            scheme if !scheme.is_empty() && scheme.chars().all(is_scheme) => Some(Err(format!(
                "is a URL of a kind that is not read ({scheme}): http, https and s3 are"
            ))),
            _ => None,
        }
    }
}

/// Without user and password.
fn anonymous(url: &::url::Url) -> ::url::Url {
    let mut url = url.clone();
    // Neither fails for a URL with a host, and http has no other.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url
}

/// For records: without what may be a secret, user, password and the values of a query (a signature).
fn recorded(url: &::url::Url) -> ::url::Url {
    let mut url = anonymous(url);
    if url.query().is_some() {
        url.set_query(Some("..."));
    }
    url
}

/// A source as the records of runs name it.
pub fn recorded_name(text: &str) -> String {
    match Address::of_text(text) {
        Some(Ok(Address::Url(url))) if recorded(&url) != url => recorded(&url).to_string(),
        _ => text.to_owned(),
    }
}

/// What a photo is called that a text names: as written, but for user and password.
pub fn name_of(text: &str) -> String {
    match Address::of_text(text) {
        Some(Ok(Address::Url(url))) if anonymous(&url) != url => anonymous(&url).to_string(),
        _ => text.to_owned(),
    }
}

/// A URL is one photo, a store's prefix is a folder: its photos are named relative to it.
pub fn part(address: Address, opener: &Opener<'_>) -> Result<Part> {
    let (bucket, key) = match &address {
        Address::Object { bucket, key } if !is_photo_name(key) => (bucket.clone(), key.clone()),
        Address::Object { bucket, key } => {
            return Ok(single(format!("s3://{bucket}/{key}"), address.clone()));
        }
        Address::Url(url) => return Ok(single(anonymous(url).to_string(), address.clone())),
    };
    let prefix = key.trim_matches('/').to_owned();
    let (fetcher, filter) = (opener.fetcher.clone(), opener.filter()?);
    let (ignored, max_bytes) = (opener.ignored.clone(), opener.max_bytes);
    Ok(Part {
        items: produced(move |sink| {
            fetcher.remote()?.list(&bucket, &prefix, |listed| {
                let s3::Listed { key, bytes, is_fit } = listed;
                let path = key.strip_prefix(&prefix).unwrap_or(&key);
                let path = path.trim_start_matches('/').to_owned();
                let is_dots = |part: &str| !is_fit && matches!(part, "." | "..");
                if path
                    .split('/')
                    .any(|part| is_hidden(part) && !is_dots(part))
                {
                    return true;
                }
                if !is_photo_name(&path) {
                    ignored.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                if !filter.wants(&path) {
                    return true;
                }
                let found = if !is_fit {
                    Err(Reject::new(path, code::URL_INVALID, s3::UNFIT))
                } else if bytes > max_bytes {
                    let (code, reason) = too_large(bytes, max_bytes);
                    Err(Reject::new(path, &code, reason))
                } else {
                    let bucket = bucket.clone();
                    Ok(item(path, Address::Object { bucket, key }))
                };
                sink.give(found).is_ok()
            })
        }),
        total: None,
        is_list: false,
        is_remote: true,
    })
}

fn single(path: String, address: Address) -> Part {
    Part {
        items: Box::new(std::iter::once(Ok(Ok(item(path, address))))),
        total: Some(1),
        is_list: false,
        is_remote: true,
    }
}

fn item(path: String, address: Address) -> Item {
    Item {
        entry: Entry {
            sku: Some(sku_of(&path).to_owned()),
            path,
            sells: None,
            attributes: None,
        },
        place: Place::Remote(address),
    }
}

/// What a photo that could not be fetched is told.
fn refusal(error: &NoResponse) -> Refusal {
    let code = match error {
        NoResponse::Refused { status, .. } => &format!("http_{}", status.as_u16()),
        NoResponse::Private(_) => code::PRIVATE_ADDRESS,
        NoResponse::Unresolved(_) => code::HOST_UNKNOWN,
        NoResponse::TimedOut(_) => code::TIMED_OUT,
        NoResponse::Elsewhere(_) => code::STORE_FAILED,
        NoResponse::Unconnected(_) | NoResponse::Broken(_) | NoResponse::Plain => {
            code::CONNECTION_FAILED
        }
    };
    (code.to_owned(), error.to_string())
}
