//! Globs: what a pattern stands for, and which paths pass `--include` and `--exclude`.
//!
//! `*` and `?` stay within a folder, `**` crosses folders, `{a,b}` and `[ab]` choose, `{000..009}`
//! counts as WebDataset's names of shards do.

use anyhow::{Context, Result, bail};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Names that one range may stand for.
const MAX_RANGE: u64 = 1_000_000;

pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// The folder before the first part with a wild card, and the rest.
pub fn split_root(pattern: &str) -> (std::path::PathBuf, String) {
    let first_wild = pattern.find(['*', '?', '[', '{']).unwrap_or(0);
    match pattern[..first_wild].rfind('/') {
        Some(0) => ("/".into(), pattern[1..].to_owned()),
        Some(slash) => (pattern[..slash].into(), pattern[slash + 1..].to_owned()),
        None => (".".into(), pattern.to_owned()),
    }
}

/// `part-{08..11}.tar` as four names; other braces are left to the glob.
pub fn expand_ranges(pattern: &str) -> Result<Vec<String>> {
    let Some((before, first, last, after)) = first_range(pattern) else {
        return Ok(vec![pattern.to_owned()]);
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let (Some(from), Some(to)) = (number(first), number(last)) else {
        bail!("the range {{{first}..{last}}} of {pattern} has numbers that are too large");
    };
    if from > to || to - from >= MAX_RANGE {
        bail!(
            "the range {{{first}..{last}}} of {pattern} must count upwards, to {MAX_RANGE} names at most"
        );
    }
    let width = if first.starts_with('0') {
        first.len()
    } else {
        0
    };
    let mut expanded = Vec::new();
    for rest in expand_ranges(after)? {
        expanded.extend((from..=to).map(|n| format!("{before}{n:0width$}{rest}")));
    }
    expanded.sort();
    Ok(expanded)
}

fn first_range(pattern: &str) -> Option<(&str, &str, &str, &str)> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    pattern.match_indices('{').find_map(|(open, _)| {
        let (inside, after) = pattern[open + 1..].split_once('}')?;
        let (first, last) = inside.split_once("..")?;
        (is_number(first) && is_number(last)).then_some((&pattern[..open], first, last, after))
    })
}

/// Which paths are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// A path must match one of each.
    include: Vec<GlobSet>,
    exclude: GlobSet,
}

impl Filter {
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        Ok(Self {
            include: if include.is_empty() {
                Vec::new()
            } else {
                vec![set(include)?]
            },
            exclude: set(exclude)?,
        })
    }

    /// What both want; `other` excludes nothing.
    pub fn and(mut self, other: Self) -> Self {
        self.include.extend(other.include);
        self
    }

    /// `path` is relative to the folder or archive, with `/`.
    pub fn wants(&self, path: &str) -> bool {
        self.include.iter().all(|set| set.is_match(path)) && !self.exclude.is_match(path)
    }
}

fn set(globs: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        let built = GlobBuilder::new(glob).literal_separator(true).build();
        set.add(built.with_context(|| format!("the glob {glob:?} is not understood"))?);
    }
    Ok(set.build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_with_leading_zeros_and_other_braces_stay() {
        assert_eq!(
            expand_ranges("s-{08..11}.tar").unwrap(),
            ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]
        );
        assert_eq!(
            expand_ranges("{a,b}/{1..2}{0..1}").unwrap(),
            ["{a,b}/10", "{a,b}/11", "{a,b}/20", "{a,b}/21"]
        );
        for wrong in ["{5..1}", "{0..9999999}", "{0..99999999999999999999999}"] {
            assert!(expand_ranges(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_folder_before_the_first_wild_card_is_the_root() {
        for (pattern, root, rest) in [
            ("photos/**/*.jpg", "photos", "**/*.jpg"),
            ("/data/x[0-9]/a", "/data", "x[0-9]/a"),
            ("*.png", ".", "*.png"),
            ("/*.png", "/", "*.png"),
        ] {
            assert_eq!(split_root(pattern), (root.into(), rest.to_owned()));
        }
    }

    #[test]
    fn a_star_stays_in_its_folder_and_two_cross() {
        let of = |include: &[&str], exclude: &[&str]| {
            let own = |globs: &[&str]| globs.iter().map(|&g| g.to_owned()).collect::<Vec<_>>();
            Filter::new(&own(include), &own(exclude)).unwrap()
        };
        let filter = of(&["shoes/*.jpg", "**/new/**"], &["**/*draft*"]);
        for (path, wanted) in [
            ("shoes/a.jpg", true),
            ("shoes/x/a.jpg", false),
            ("x/new/y/a.png", true),
            ("shoes/draft.jpg", false),
        ] {
            assert_eq!(filter.wants(path), wanted, "{path}");
        }
        assert!(of(&[], &[]).wants("anything"));
        assert!(Filter::new(&["a[".to_owned()], &[]).is_err());
    }
}
