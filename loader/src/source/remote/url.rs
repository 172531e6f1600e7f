//! One photo by its URL: redirects, limits.

use std::io::Read;

use base64::{Engine, prelude::BASE64_STANDARD};
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
    attempts::{Failure, repeated},
    client::{Client, NoResponse, refused},
    code, recorded,
};

const MAX_REDIRECTS: usize = 5;

pub async fn fetch(client: &Client, policy: &Policy, url: &Url) -> Result<Vec<u8>, Refusal> {
    repeated(policy, || follow(client, policy, url)).await
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
            _ => return Err(Failure::of(&refused(&response, String::new()))),
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

async fn body(response: Response<Incoming>, max_bytes: u64) -> Result<Vec<u8>, Failure> {
    let encoding = response.headers().get(header::CONTENT_ENCODING).cloned();
    let mut body = response.into_body();
    let announced = body.size_hint().lower();
    if announced > max_bytes {
        return Err(too_large(announced, max_bytes).into());
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
    let encoding = String::from_utf8_lossy(encoding);
    Ok(decoded(bytes, &encoding, max_bytes)?)
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
