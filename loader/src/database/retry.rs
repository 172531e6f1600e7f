//! Other transactions that are in the way: what to do again, and when.

use std::{thread, time::Duration};

use postgres::{Error, error::SqlState};

/// How often a transaction is tried.
pub const TRIES: u32 = 5;
/// After the first try; after each further one so much longer.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether the same transaction may succeed when another one is over.
pub fn is_in_the_way(error: &Error) -> bool {
    let passing = [
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::LOCK_NOT_AVAILABLE,
    ];
    error.code().is_some_and(|code| passing.contains(code))
}

/// Lets the other one end.
pub fn pause(attempt: u32) {
    thread::sleep(PAUSE * attempt);
}

/// Tries a whole transaction until none is in its way.
pub fn again<T>(mut transaction: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for attempt in 1..TRIES {
        match transaction() {
            Err(error) if is_in_the_way(&error) => pause(attempt),
            ended => return ended,
        }
    }
    transaction()
}
