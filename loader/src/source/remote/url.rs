//! One photo by its URL: redirects, retries, limits.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::BodyExt;
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    header,
};
use object_store::client::HttpRequestBody;
use url::Url;

use super::{
    super::{Refusal, fetch::too_large},
    Policy,
    client::{Client, NoResponse},
    code, refusal,
};
use crate::interrupt;

const MAX_REDIRECTS: usize = 5;
/// Before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A server may ask for more time than we would give it by ourselves.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why an attempt failed, and whether another one may help.
struct Failure {
    refusal: Refusal,
    may_pass: bool,
    retry_after: Option<Duration>,
}

impl Failure {
    fn lasting(code: &str, reason: impl Into<String>) -> Self {
        Self {
            refusal: (code.to_owned(), reason.into()),
            may_pass: false,
            retry_after: None,
        }
    }

    fn of(error: &NoResponse) -> Self {
        Self {
            refusal: refusal(error),
            may_pass: !matches!(error, NoResponse::Private(_) | NoResponse::Plain),
            retry_after: None,
        }
    }
}

pub async fn fetch(client: &Client, policy: &Policy, url: &Url) -> Result<Vec<u8>, Refusal> {
    let mut attempt = 0;
    loop {
        let tried = tokio::time::timeout(policy.timeout, follow(client, policy, url)).await;
        let failure = match tried {
            Ok(Ok(bytes)) => return Ok(bytes),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::of(&NoResponse::TimedOut(policy.timeout)),
        };
        if !failure.may_pass || attempt >= policy.retries || interrupt::is_requested() {
            let (code, reason) = failure.refusal;
            let tries = match attempt {
                0 => String::new(),
                _ => format!(" ({} attempts)", attempt + 1),
            };
            return Err((code, format!("{reason}{tries}")));
        }
        let pause = failure.retry_after.unwrap_or_else(|| pause(attempt));
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

/// Half of it is left to chance, so that readers whose requests failed together do not return together.
fn pause(attempt: u32) -> Duration {
    let full = FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(attempt))
        .min(MAX_PAUSE);
    let chance = (RandomState::new().hash_one(attempt) % 1_000) as f64 / 1_000.0;
    full.mul_f64(0.5 + chance / 2.0)
}

async fn follow(client: &Client, policy: &Policy, url: &Url) -> Result<Vec<u8>, Failure> {
    let mut url = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let request = request(&url)?;
        let response = client.request(request).await;
        let response = response.map_err(|error| Failure::of(&error))?;
        match response.status() {
            StatusCode::OK => return body(response, policy.max_bytes).await,
            status if status.is_redirection() => url = target(&url, &response)?,
            status => return Err(refused(status, &response)),
        }
    }
    let reason = format!("more than {MAX_REDIRECTS} redirects, the last to {url}");
    Err(Failure::lasting(code::TOO_MANY_REDIRECTS, reason))
}

fn request(url: &Url) -> Result<Request<HttpRequestBody>, Failure> {
    let mut bare = url.clone();
    bare.set_fragment(None);
    // Neither fails for a URL with a host, and http has no other.
    let _ = bare.set_password(None);
    let _ = bare.set_username("");
    let mut request = Request::get(bare.as_str())
        .header(
            header::USER_AGENT,
            concat!("lookbook/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::ACCEPT, "image/*, */*;q=0.5");
    if !url.username().is_empty() {
        let pair = format!("{}:{}", url.username(), url.password().unwrap_or_default());
        let pair = format!("Basic {}", BASE64_STANDARD.encode(pair));
        request = request.header(header::AUTHORIZATION, pair);
    }
    request
        .body(HttpRequestBody::empty())
        .map_err(|error| Failure::lasting(code::URL_INVALID, error.to_string()))
}

fn target(from: &Url, response: &Response<Incoming>) -> Result<Url, Failure> {
    let location = response.headers().get(header::LOCATION);
    let location = location.and_then(|location| location.to_str().ok());
    let Some(location) = location else {
        let code = format!("http_{}", response.status().as_u16());
        return Err(Failure::lasting(
            &code,
            "a redirect that does not say where to",
        ));
    };
    let to = from.join(location).map_err(|error| {
        Failure::lasting(
            code::URL_INVALID,
            format!("redirect to {location}: {error}"),
        )
    })?;
    match (from.scheme(), to.scheme()) {
        ("http", "http") | ("http" | "https", "https") => Ok(to),
        _ => Err(Failure::lasting(
            code::URL_INVALID,
            format!(
                "redirect from {} to {}, which is not followed",
                from.scheme(),
                to.scheme()
            ),
        )),
    }
}

fn refused(status: StatusCode, response: &Response<Incoming>) -> Failure {
    let may_pass = matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504);
    let seconds = response.headers().get(header::RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
    Failure {
        refusal: (
            format!("http_{}", status.as_u16()),
            format!("the server answered {status}"),
        ),
        may_pass,
        retry_after: seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER)),
    }
}

async fn body(response: Response<Incoming>, max_bytes: u64) -> Result<Vec<u8>, Failure> {
    let large = |bytes| {
        let (code, reason) = too_large(bytes, max_bytes);
        Failure::lasting(&code, reason)
    };
    let mut body = response.into_body();
    let announced = body.size_hint().lower();
    if announced > max_bytes {
        return Err(large(announced));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::of(&NoResponse::Broken(error.to_string())))?;
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() as u64 > max_bytes {
            let (code, reason) = too_large(bytes.len() as u64, max_bytes);
            return Err(Failure::lasting(&code, format!("at least {reason}")));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for attempt in [0, 1, 5, 40] {
            let full = FIRST_PAUSE
                .saturating_mul(2_u32.saturating_pow(attempt))
                .min(MAX_PAUSE);
            let pause = pause(attempt);
            assert!(pause >= full / 2 && pause <= full, "{attempt}: {pause:?}");
        }
    }

    #[test]
    fn a_password_goes_into_a_header_and_not_into_the_request_line() {
        let url = Url::parse("https://shop:s3cret@example.org/a%20b.jpg?w=2#x").unwrap();
        let Ok(request) = request(&url) else { panic!() };
        assert_eq!(
            request.uri().to_string(),
            "https://example.org/a%20b.jpg?w=2"
        );
        assert_eq!(request.headers()["authorization"], "Basic c2hvcDpzM2NyZXQ=");
    }
}
