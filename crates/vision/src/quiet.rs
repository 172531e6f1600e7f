//! Catching the panics of foreign codecs without their noise.
//!
//! Image codecs are fed hostile data and some panic on it. Such a panic is an ordinary error here;
//! its message and backtrace must not reach a user's terminal or a server log. The process's panic
//! hook is wrapped once and passes everything on except panics inside [`catch`].

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

static WRAP: Once = Once::new();

/// Runs `work`; when it panicked, what it said.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    WRAP.call_once(|| {
        let outer = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !INSIDE.get() {
                outer(info);
            }
        }));
    });
    // What `work` captures is dropped with it or only read, so a half-done state is never seen.
    let before = INSIDE.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(before);
    result.map_err(|said| {
        let text = said.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| said.downcast_ref::<&str>().copied());
        text.unwrap_or_default().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::catch;

    #[test]
    fn a_panic_becomes_what_it_said_and_a_result_stays() {
        assert_eq!(catch(|| 7), Ok(7));
        let said = catch(|| -> u8 { panic!("a codec gave up") });
        assert_eq!(said, Err("a codec gave up".to_owned()));
    }
}
