//! Walking a chain from page to page.
//!
//! Owns how a walk knows that links are damaged: they lead to a page of another chain, or run in a circle. A sound chain
//! names no page twice, whatever happens meanwhile, because a page that is used again has another name.

use crate::error::{Error, Result};
use crate::page::{self, PageRef};
use crate::store::PageBytes;

/// Where a walk is. Circles are found by Brent's method: every 2ⁿ-th page is compared with those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The page to be read now.
    pub name: PageRef,
    head: PageRef,
    mark: PageRef,
    /// Steps since the mark, and how many there are until the next.
    taken: u64,
    limit: u64,
}

impl Step {
    /// Begins with the head of a chain.
    pub fn from(head: PageRef) -> Step {
        Step::within(head, head)
    }

    /// Begins in the middle.
    pub fn within(head: PageRef, name: PageRef) -> Step {
        Step {
            name,
            head,
            mark: name,
            taken: 0,
            limit: 1,
        }
    }

    /// The step behind `page`, which was reached by this one. `None`: the chain ends here.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: the page is of another chain, or was walked to before.
    pub fn next(self, page: &PageBytes) -> Result<Option<Step>> {
        page::expect_owner(page, self.name.block, self.head)?;
        self.along(page::next(page))
    }

    /// The same, whatever the page says of its owner.
    pub fn along(self, next: Option<PageRef>) -> Result<Option<Step>> {
        let Some(name) = next else { return Ok(None) };
        if name == self.mark {
            return Err(Error::Corrupt {
                block: self.name.block,
                offset: 8,
                what: "the next page",
                found: u64::from(name.block.0),
                expected: "a chain with an end",
            });
        }
        let is_due = self.taken + 1 == self.limit;
        Ok(Some(Step {
            name,
            head: self.head,
            mark: if is_due { name } else { self.mark },
            taken: if is_due { 0 } else { self.taken + 1 },
            limit: if is_due { self.limit * 2 } else { self.limit },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BlockId;

    fn name(block: u64) -> PageRef {
        PageRef {
            block: BlockId(block as u32),
            incarnation: 1,
        }
    }

    #[test]
    fn every_circle_is_found_soon_and_no_chain_is_taken_for_one() {
        for length in 1..70 {
            for back in 0..=length {
                let mut at = Step::from(name(0));
                let mut steps = 0;
                let found = loop {
                    let next = match at.name.block.0 + 1 {
                        after if u64::from(after) < length => Some(name(u64::from(after))),
                        _ if back < length => Some(name(back)),
                        _ => None,
                    };
                    steps += 1;
                    match at.along(next) {
                        Ok(Some(next)) => at = next,
                        end => break end.is_err(),
                    }
                };
                assert_eq!(found, back < length, "{length} pages, back to {back}");
                assert!(steps <= 4 * length, "{steps} steps for {length} pages");
            }
        }
    }
}
