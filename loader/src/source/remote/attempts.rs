//! What is tried again: what failures may pass, how often and how much later.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, SystemTime},
};

use chrono::DateTime;
use hyper::StatusCode;

use super::{super::Refusal, Policy, client::NoResponse, refusal};

/// Before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A server may ask for more time than we would give it by ourselves; where it asks for more than that, the photo is
/// left to the next run.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why an attempt failed, and whether another one may help.
pub struct Failure {
    refusal: Refusal,
    may_pass: bool,
    retry_after: Option<Duration>,
}

impl Failure {
    pub fn lasting(code: &str, reason: impl Into<String>) -> Self {
        Self {
            refusal: (code.to_owned(), reason.into()),
            may_pass: false,
            retry_after: None,
        }
    }

    /// With an advice before its reason.
    pub fn explained(mut self, advice: &str) -> Self {
        self.refusal.1 = format!("{advice}: {}", self.refusal.1);
        self
    }

    pub fn of(error: &NoResponse) -> Self {
        let (code, reason) = refusal(error);
        let (may_pass, retry_after) = match error {
            NoResponse::Private(_) | NoResponse::Plain | NoResponse::Elsewhere(_) => (false, None),
            NoResponse::Refused {
                status,
                retry_after,
                ..
            } => (
                is_passing(*status),
                retry_after.as_deref().and_then(time_until),
            ),
            _ => (true, None),
        };
        match retry_after.filter(|pause| may_pass && *pause > MAX_RETRY_AFTER) {
            Some(pause) => {
                let asks = format!("{reason}, to be asked again in {} seconds", pause.as_secs());
                Self::lasting(&code, asks)
            }
            None => Self {
                refusal: (code, reason),
                may_pass,
                retry_after,
            },
        }
    }
}

impl From<Refusal> for Failure {
    fn from((code, reason): Refusal) -> Self {
        Self::lasting(&code, reason)
    }
}

/// The result of `attempt` once it succeeds, of its last failure otherwise; none takes longer than it may.
pub async fn repeated<T, A: Future<Output = Result<T, Failure>>>(
    policy: &Policy,
    attempt: impl Fn() -> A,
) -> Result<T, Refusal> {
    let mut failed = 0;
    loop {
        let tried = tokio::time::timeout(policy.timeout, attempt()).await;
        let failure = match tried {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::of(&NoResponse::TimedOut(policy.timeout)),
        };
        if !failure.may_pass || failed >= policy.retries {
            let (code, reason) = failure.refusal;
            let tries = match failed {
                0 => String::new(),
                _ => format!(" ({} attempts)", failed + 1),
            };
            return Err((code, format!("{reason}{tries}")));
        }
        tokio::time::sleep(failure.retry_after.unwrap_or_else(|| pause(failed))).await;
        failed += 1;
    }
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Half of it is left to chance, so that readers whose requests failed together do not return together.
fn pause(failed: u32) -> Duration {
    let full = FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(failed))
        .min(MAX_PAUSE);
    let chance = (RandomState::new().hash_one(failed) % 1_000) as f64 / 1_000.0;
    full.mul_f64(0.5 + chance / 2.0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for failed in [0, 1, 5, 40] {
            let full = FIRST_PAUSE
                .saturating_mul(2_u32.saturating_pow(failed))
                .min(MAX_PAUSE);
            let pause = pause(failed);
            assert!(pause >= full / 2 && pause <= full, "{failed}: {pause:?}");
        }
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
        let of = |seconds: Option<u64>| {
            Failure::of(&NoResponse::Refused {
                status: StatusCode::TOO_MANY_REQUESTS,
                retry_after: seconds.map(|seconds| seconds.to_string()),
                said: String::new(),
            })
        };
        let soon = of(Some(MAX_RETRY_AFTER.as_secs()));
        assert!(soon.may_pass && soon.retry_after == Some(MAX_RETRY_AFTER));
        let late = of(Some(3600));
        assert!(!late.may_pass);
        let reason = late.refusal.1;
        assert!(reason.ends_with("again in 3600 seconds"), "{reason}");
        assert!(of(None).may_pass);
    }
}
