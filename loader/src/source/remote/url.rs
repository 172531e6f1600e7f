//! One photo by its URL: redirects, retries, limits.

use std::{
    hash::{BuildHasher, RandomState},
    io::Read,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::DateTime;
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    header,
};
use lookbook_vision::ErrorCode;
use object_store::client::HttpRequestBody;
use percent_encoding::percent_decode_str;
use url::Url;

use super::{
    super::{Refusal, fetch::too_large},
    Policy, anonymous,
    client::{Client, NoResponse},
    code, recorded, refusal,
};

const MAX_REDIRECTS: usize = 5;
/// Before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A server may ask for more time than we would give it by ourselves; where it asks for more than that, the photo is
/// left to the next run.
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
        if !failure.may_pass || attempt >= policy.retries {
            let (code, reason) = failure.refusal;
            let tries = match attempt {
                0 => String::new(),
                _ => format!(" ({} attempts)", attempt + 1),
            };
            return Err((code, format!("{reason}{tries}")));
        }
        tokio::time::sleep(failure.retry_after.unwrap_or_else(|| pause(attempt))).await;
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
            status => {
                let value = response.headers().get(header::RETRY_AFTER);
                let value = value.and_then(|value| value.to_str().ok());
                return Err(refused(status, value.and_then(time_until)));
            }
        }
    }
    let last = recorded(&url);
    let reason = format!("more than {MAX_REDIRECTS} redirects, the last to {last}");
    Err(Failure::lasting(code::TOO_MANY_REDIRECTS, reason))
}

fn request(url: &Url) -> Result<Request<HttpRequestBody>, Failure> {
    let mut bare = anonymous(url);
    bare.set_fragment(None);
    let mut request = Request::get(bare.as_str())
        .header(
            header::USER_AGENT,
            concat!("lookbook/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::ACCEPT, "image/*, */*;q=0.5")
        .header(header::ACCEPT_ENCODING, "identity");
    if !url.username().is_empty() {
        let user: Vec<u8> = percent_decode_str(url.username()).collect();
        let password: Vec<u8> = percent_decode_str(url.password().unwrap_or_default()).collect();
        let pair = [&user[..], b":", &password].concat();
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
            format!("a redirect to what is no URL: {error}"),
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

fn refused(status: StatusCode, retry_after: Option<Duration>) -> Failure {
    let may_pass = matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504);
    let too_long = retry_after.filter(|pause| may_pass && *pause > MAX_RETRY_AFTER);
    let asks = too_long.map(|pause| format!(", to be asked again in {} seconds", pause.as_secs()));
    Failure {
        refusal: (
            format!("http_{}", status.as_u16()),
            format!("the server answered {status}{}", asks.unwrap_or_default()),
        ),
        may_pass: may_pass && too_long.is_none(),
        retry_after,
    }
}

/// What `Retry-After` means: seconds, or a date.
fn time_until(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = DateTime::parse_from_rfc2822(text).ok()?;
    let pause = SystemTime::from(then).duration_since(SystemTime::now());
    Some(pause.unwrap_or_default())
}

async fn body(response: Response<Incoming>, max_bytes: u64) -> Result<Vec<u8>, Failure> {
    let large = |bytes| {
        let (code, reason) = too_large(bytes, max_bytes);
        Failure::lasting(&code, reason)
    };
    let encoding = response.headers().get(header::CONTENT_ENCODING).cloned();
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
    let encoding = encoding.as_ref().map_or(&b""[..], |value| value.as_bytes());
    let decoded = decoded(bytes, &String::from_utf8_lossy(encoding), max_bytes);
    decoded.map_err(|(code, reason)| Failure::lasting(&code, reason))
}

/// A body without its `Content-Encoding`.
pub fn decoded(bytes: Vec<u8>, encoding: &str, max_bytes: u64) -> Result<Vec<u8>, Refusal> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => return Ok(bytes),
        "gzip" | "x-gzip" => {}
        other => {
            let reason = format!("it is sent in the encoding {other:?}; gzip is read");
            return Err((ErrorCode::ImageUnsupported.as_str().to_owned(), reason));
        }
    }
    let mut out = Vec::new();
    let read = MultiGzDecoder::new(&bytes[..])
        .take(max_bytes + 1)
        .read_to_end(&mut out);
    if let Err(error) = read {
        let reason = format!("it is sent as gzip, which is damaged: {error}");
        return Err((ErrorCode::ImageCorrupt.as_str().to_owned(), reason));
    }
    match out.len() as u64 > max_bytes {
        true => {
            let (code, reason) = too_large(out.len() as u64, max_bytes);
            Err((code, format!("at least {reason}")))
        }
        false => Ok(out),
    }
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
        let url = Url::parse("http://u:p%40x@example.org/").unwrap();
        let Ok(request) = super::request(&url) else {
            panic!()
        };
        // u:p@x
        assert_eq!(request.headers()["authorization"], "Basic dTpwQHg=");
    }

    #[test]
    fn a_server_names_seconds_or_a_date() {
        assert_eq!(time_until("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            time_until("Wed, 21 Oct 2015 07:28:00 GMT"),
            Some(Duration::ZERO)
        );
        let in_a_minute = DateTime::from(SystemTime::now() + Duration::from_secs(60));
        let in_a_minute: DateTime<chrono::Utc> = in_a_minute;
        let date = in_a_minute.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let pause = time_until(&date).unwrap();
        assert!(
            pause > Duration::from_secs(55) && pause <= Duration::from_secs(60),
            "{pause:?}"
        );
        assert_eq!(time_until("soon"), None);
    }

    #[test]
    fn a_server_that_asks_for_more_patience_than_there_is_is_left_to_the_next_run() {
        let of = |seconds| refused(StatusCode::TOO_MANY_REQUESTS, seconds);
        let soon = of(Some(MAX_RETRY_AFTER));
        assert!(soon.may_pass && soon.retry_after == Some(MAX_RETRY_AFTER));
        let late = of(Some(Duration::from_secs(3600)));
        assert!(!late.may_pass);
        let reason = late.refusal.1;
        assert!(reason.ends_with("again in 3600 seconds"), "{reason}");
        assert!(of(None).may_pass);
    }

    #[test]
    fn a_body_is_decoded_within_its_limit() {
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut zipped, &[7; 100]).unwrap();
        let zipped = zipped.finish().unwrap();
        let of = |encoding, max_bytes| decoded(zipped.clone(), encoding, max_bytes);
        assert_eq!(of("gzip", 100).unwrap(), [7; 100]);
        assert_eq!(of("gzip", 99).unwrap_err().0, "image_too_large");
        assert_eq!(of("identity", 10).unwrap(), zipped);
        assert_eq!(of("br", 100).unwrap_err().0, "image_unsupported");
    }
}
