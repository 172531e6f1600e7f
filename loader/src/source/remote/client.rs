//! One HTTP client for all that is fetched: URLs of catalogues and S3-compatible stores.
//!
//! Owns names and addresses, encryption, and the translation for the object-store crate. Follows no
//! redirect. Invariant: every connection goes to an address that the [`Guard`] let through.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use http_body_util::{BodyExt, Limited};
use hyper::{Request, Response, StatusCode, Uri, body::Incoming, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        self,
        connect::{HttpConnector as TcpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioTimer},
};
use object_store::{
    ClientConfigKey, ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
        HttpResponse, HttpResponseBody, HttpService,
    },
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use std::net::SocketAddr;
use tower_service::Service;

use super::{
    guard::{Guard, PrivateAddress},
    listing,
};

/// How long one address may take to answer a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an unused connection stays.
const IDLE: Duration = Duration::from_secs(30);

/// More of a store's error is not read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Where a cloud's machine gives its credentials.
pub const MACHINE_PATHS: &[&str] = &["/latest/api/token", "/latest/meta-data/"];

/// Speaks HTTP/1.1, over TLS 1.2 or 1.3 for `https`.
#[derive(Debug, Clone)]
pub struct Client {
    inner: legacy::Client<HttpsConnector<TcpConnector<Resolver>>, HttpRequestBody>,
    guard: Guard,
    timeout: Duration,
}

/// Why there is no response that is of use.
#[derive(Debug, thiserror::Error)]
pub enum NoResponse {
    #[error("{0}")]
    Private(PrivateAddress),
    #[error("{0}")]
    Unresolved(String),
    #[error("cannot connect: {0}")]
    Unconnected(String),
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("it is not encrypted, and AWS_ALLOW_HTTP is not set to true")]
    Plain,
    #[error("the bucket is in the region {0}: set AWS_REGION={0}")]
    Elsewhere(String),
    #[error("the server answered {status}{said}")]
    Refused {
        status: StatusCode,
        /// What the header of that name says.
        retry_after: Option<String>,
        said: String,
    },
}

/// A response that is no success.
pub fn refused<B>(response: &Response<B>, said: String) -> NoResponse {
    let retry_after = response.headers().get(header::RETRY_AFTER);
    NoResponse::Refused {
        status: response.status(),
        retry_after: retry_after
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
        said,
    }
}

impl Client {
    /// `timeout` is for the head of one response.
    pub fn new(guard: Guard, timeout: Duration) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("cannot set up TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = TcpConnector::new_with_resolver(Resolver(guard.clone()));
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT.min(timeout)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self {
            inner,
            guard,
            timeout,
        })
    }

    pub async fn request(
        &self,
        request: Request<HttpRequestBody>,
    ) -> Result<Response<Incoming>, NoResponse> {
        // The resolver never sees a host that is an address already.
        if let Some(address) = literal(request.uri()) {
            let host = request.uri().host().unwrap_or_default().to_owned();
            self.guard
                .judge(&host, [SocketAddr::new(address, 0)])
                .map_err(NoResponse::Private)?;
        }
        match tokio::time::timeout(self.timeout, self.inner.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(explain(&error, self.timeout)),
            Err(_) => Err(NoResponse::TimedOut(self.timeout)),
        }
    }
}

fn literal(uri: &Uri) -> Option<IpAddr> {
    let host = uri.host()?;
    let host = host.strip_prefix('[').unwrap_or(host);
    host.strip_suffix(']').unwrap_or(host).parse().ok()
}

fn explain(error: &legacy::Error, timeout: Duration) -> NoResponse {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(inner) = cause {
        if let Some(private) = inner.downcast_ref::<PrivateAddress>() {
            return NoResponse::Private(private.clone());
        }
        if let Some(unresolved) = inner.downcast_ref::<Unresolved>() {
            return NoResponse::Unresolved(unresolved.to_string());
        }
        if let Some(io) = inner.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::TimedOut
        {
            return NoResponse::TimedOut(timeout);
        }
        last = inner.to_string();
        cause = inner.source();
    }
    if error.is_connect() {
        NoResponse::Unconnected(last)
    } else {
        NoResponse::Broken(last)
    }
}

/// Gives the addresses of a name that may be connected to, once all have been judged.
#[derive(Debug, Clone)]
struct Resolver(Guard);

#[derive(Debug, thiserror::Error)]
#[error("there is no host {host}: {cause}")]
struct Unresolved {
    host: String,
    cause: std::io::Error,
}

type Resolved = Result<vec::IntoIter<SocketAddr>, Box<dyn std::error::Error + Send + Sync>>;

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Resolved> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let guard = self.0.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found = tokio::net::lookup_host((host, 0)).await;
            let found = found.map_err(|cause| Unresolved {
                host: host.to_owned(),
                cause,
            })?;
            Ok(guard.judge(host, found)?.into_iter())
        })
    }
}

/// Hands this client to the object-store crate.
#[derive(Debug)]
pub struct Connector(pub Client);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allows_plain = options.get_config_value(&ClientConfigKey::AllowHttp);
        Ok(HttpClient::new(Store {
            client: self.0.clone(),
            allows_plain: allows_plain.is_some_and(|value| value == "true"),
        }))
    }
}

#[derive(Debug)]
struct Store {
    client: Client,
    allows_plain: bool,
}

#[async_trait]
impl HttpService for Store {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if !self.allows_plain && request.uri().scheme_str() != Some("https") {
            return Err(HttpError::new(HttpErrorKind::Unknown, NoResponse::Plain));
        }
        // Those of a machine's credentials mean more to the crate.
        let is_of_machine = MACHINE_PATHS
            .iter()
            .any(|path| request.uri().path().starts_with(path));
        let is_list = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("list-type=2"));
        let response = self.client.request(request).await.map_err(of_store)?;
        let region = response.headers().get("x-amz-bucket-region");
        if let Some(region) = region.filter(|_| response.status() == StatusCode::MOVED_PERMANENTLY)
        {
            let region = String::from_utf8_lossy(region.as_bytes()).into_owned();
            return Err(of_store(NoResponse::Elsewhere(region)));
        }
        let (head, body) = response.into_parts();
        if (head.status.is_client_error() || head.status.is_server_error()) && !is_of_machine {
            let said = error_code(body).await;
            return Err(of_store(refused(&Response::from_parts(head, ()), said)));
        }
        let body = body.map_err(|error| of_store(NoResponse::Broken(error.to_string())));
        if is_list {
            let page = body.collect().await?.to_bytes();
            let page = listing::fitted(&String::from_utf8_lossy(&page));
            return Ok(HttpResponse::from_parts(head, page.into()));
        }
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }
}

/// The crate shall not try again by itself: it heeds no `Retry-After` and gives up in a second.
fn of_store(error: NoResponse) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, error)
}

/// The code in the body of a store's error, `SlowDown` say, as it follows a status.
async fn error_code(body: Incoming) -> String {
    let body = Limited::new(body, MAX_ERROR_BYTES).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body);
    let code = body
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"))
        .map(|(code, _)| code)
        .filter(|code| code.chars().all(|c| c.is_ascii_alphanumeric()));
    code.map_or_else(String::new, |code| format!(" ({code})"))
}
