//! Which photos are searched with and which among: from a CSV file, or from the folder of DeepFashion's
//! In-Shop benchmark.
//!
//! Invariant of a [`List`]: a file stands in it once.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::{self, Display, Formatter},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use lookbook_vision::BoundingBox;

use super::args::{Crop, RetrievalArgs};
use crate::source::{self, Entry};

/// A photo to search with or among.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub file: PathBuf,
    /// The item it shows; none: a distractor, which shows none of the others.
    pub item: Option<String>,
    pub is_query: bool,
    pub is_gallery: bool,
    /// The category of its garment, where the list says so.
    pub group: Option<String>,
    /// Where the garment is, where the list says so.
    pub bbox: Option<BoundingBox>,
}

/// A box as an error shows it.
pub struct Corners(pub BoundingBox);

impl Display for Corners {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let BoundingBox { x1, y1, x2, y2 } = self.0;
        write!(out, "{x1} {y1} {x2} {y2}")
    }
}

/// Photos by file.
#[derive(Debug, Default)]
pub struct List {
    pub items: Vec<Item>,
    by_file: HashMap<PathBuf, usize>,
}

impl List {
    /// What the command line names.
    pub fn of(args: &RetrievalArgs) -> Result<Self> {
        let mut list = match (&args.csv, &args.deepfashion_inshop) {
            (Some(file), _) => Self::of_csv(file, args.images.as_deref(), args.set.as_deref())?,
            (None, Some(folder)) => Self::of_deepfashion(folder, args)?,
            (None, None) => bail!("give --csv FILE or --deepfashion-inshop FOLDER"),
        };
        if let Some(gallery) = &args.gallery {
            list.add_gallery(gallery, args.images.as_deref())?;
        }
        let queries = list.items.iter().filter(|item| item.is_query).count();
        let gallery = list.items.iter().filter(|item| item.is_gallery).count();
        ensure!(
            queries > 0,
            "there are no photos with the role query{}",
            of_set(args)
        );
        ensure!(
            gallery > 0,
            "there are no photos with the role gallery{}",
            of_set(args)
        );
        Ok(list)
    }

    fn of_csv(file: &Path, images: Option<&Path>, set: Option<&str>) -> Result<Self> {
        let wrong = || format!("cannot use the list {}", file.display());
        let mut rows: Vec<(u64, Entry)> = source::lines_of_list(file).with_context(wrong)?;
        if let Some(set) = set {
            let of_rows = rows.iter().filter_map(|(_, row)| cell(row, "set"));
            let sets: BTreeSet<String> = of_rows.collect();
            ensure!(
                !sets.is_empty(),
                "{} has no set {set:?}: its column set is missing or empty",
                file.display()
            );
            rows.retain(|(_, row)| cell(row, "set").as_deref() == Some(set));
            ensure!(
                !rows.is_empty(),
                "{} has no set {set:?}; it has: {}",
                file.display(),
                Vec::from_iter(sets).join(", ")
            );
        }
        ensure!(!rows.is_empty(), "{} lists no photos", file.display());
        let root = match images {
            Some(root) => root.to_owned(),
            None => root_of(file, rows.iter().map(|(_, row)| row.path.as_str())),
        };
        let mut list = Self::default();
        for (line, row) in rows {
            let item = Item::of_row(&row, &root);
            item.and_then(|item| list.add(item))
                .with_context(|| format!("{} line {line}", file.display()))?;
        }
        Ok(list)
    }

    /// `list_eval_partition.txt`: a count, the line `image_name item_id evaluation_status`, then one photo a
    /// line; `list_bbox_inshop.txt`: a count, the line `image_name clothes_type pose_type x_1 y_1 x_2 y_2`,
    /// then one photo a line, in pixels. Image names begin with `img/`.
    fn of_deepfashion(folder: &Path, args: &RetrievalArgs) -> Result<Self> {
        let partition = first_of(folder, &["Eval", ".", "Anno"], "list_eval_partition.txt")?;
        let boxes = match args.crop {
            Crop::List => {
                let file = first_of(folder, &["Anno", ".", "Eval"], "list_bbox_inshop.txt")?;
                read_boxes(&file).with_context(|| format!("cannot use {}", file.display()))?
            }
            Crop::None | Crop::Detect => HashMap::new(),
        };
        let text = read(&partition)?;
        let rows: Vec<(usize, Vec<&str>)> = table_of(&text, "image_name item_id evaluation_status")
            .with_context(|| format!("cannot use {}", partition.display()))?
            .collect();
        let root = args.images.clone().unwrap_or_else(|| {
            let roots = [folder.join("Img"), folder.to_owned()];
            let names = rows.iter().filter_map(|(_, words)| words.first().copied());
            let having = first_having(&roots, names);
            having.unwrap_or(&roots[0]).to_owned()
        });
        let mut list = Self::default();
        for (line, words) in rows {
            let wrong = || format!("{} line {line}", partition.display());
            let &[name, item, status] = words.as_slice() else {
                bail!("{}: expected image_name item_id evaluation_status", wrong());
            };
            let (is_query, is_gallery) = match status {
                "train" => continue,
                "query" => (true, false),
                "gallery" => (false, true),
                other => bail!(
                    "{}: evaluation_status is {other:?}; expected train, query or gallery",
                    wrong()
                ),
            };
            let bbox = match args.crop {
                Crop::List => Some(*boxes.get(name).with_context(|| {
                    format!("{}: {name} has no box in list_bbox_inshop.txt", wrong())
                })?),
                Crop::None | Crop::Detect => None,
            };
            list.add(Item {
                file: root.join(name),
                item: Some(item.to_owned()),
                is_query,
                is_gallery,
                group: None,
                bbox,
            })
            .with_context(wrong)?;
        }
        Ok(list)
    }

    /// Adds photos to search among. Those that are in the list already keep their item: a query is searched
    /// for by the others, never by itself.
    fn add_gallery(&mut self, gallery: &Path, images: Option<&Path>) -> Result<()> {
        let files: Vec<PathBuf> = if gallery.is_dir() {
            source::photos_of_folder(gallery)?
        } else {
            let rows = source::lines_of_list(gallery)
                .with_context(|| format!("cannot use the list {}", gallery.display()))?;
            let root = match images {
                Some(root) => root.to_owned(),
                None => root_of(gallery, rows.iter().map(|(_, row)| row.path.as_str())),
            };
            rows.iter().map(|(_, row)| root.join(&row.path)).collect()
        };
        ensure!(!files.is_empty(), "{} has no photos", gallery.display());
        for file in files {
            match self.by_file.get(&same(&file)) {
                Some(&at) => self.items[at].is_gallery = true,
                None => self.add(Item {
                    file,
                    item: None,
                    is_query: false,
                    is_gallery: true,
                    group: None,
                    bbox: None,
                })?,
            }
        }
        Ok(())
    }

    /// A photo may be listed both as query and as gallery, of one item.
    fn add(&mut self, item: Item) -> Result<()> {
        let key = same(&item.file);
        match self.by_file.get(&key) {
            Some(&at) => {
                let known = &mut self.items[at];
                ensure!(
                    known.item == item.item,
                    "{} is listed for two items, {} and {}",
                    item.file.display(),
                    known.item.as_deref().unwrap_or("none"),
                    item.item.as_deref().unwrap_or("none")
                );
                known.is_query |= item.is_query;
                known.is_gallery |= item.is_gallery;
            }
            None => {
                self.by_file.insert(key, self.items.len());
                self.items.push(item);
            }
        }
        Ok(())
    }
}

impl Item {
    fn of_row(row: &Entry, root: &Path) -> Result<Self> {
        let item = cell(row, "item_id")
            .context("item_id is missing or empty; expected the item that the photo shows")?;
        let role = cell(row, "role").unwrap_or_default();
        let (is_query, is_gallery) = match role.as_str() {
            "query" => (true, false),
            "gallery" => (false, true),
            other => bail!("role is {other:?}; expected query or gallery"),
        };
        Ok(Self {
            file: root.join(&row.path),
            item: Some(item),
            is_query,
            is_gallery,
            group: cell(row, "group"),
            bbox: None,
        })
    }
}

/// What a row has in a column beside the path; nothing where that is empty.
fn cell(row: &Entry, column: &str) -> Option<String> {
    let cell = row.attributes.as_ref()?.get(column)?;
    cell.as_str().map(str::to_owned)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The lines of a file of DeepFashion below its count and its heading, with their numbers, in words.
fn table_of<'a>(
    text: &'a str,
    heading: &str,
) -> Result<impl Iterator<Item = (usize, Vec<&'a str>)>> {
    let words = |line: &'a str| line.split_whitespace().collect::<Vec<_>>();
    let mut lines = text.lines();
    let count = lines
        .next()
        .and_then(|line| line.trim().parse::<usize>().ok());
    let found = lines.next().map(words).unwrap_or_default().join(" ");
    let rows = lines.clone().filter(|line| !line.trim().is_empty()).count();
    match count {
        None => bail!("its first line is not the number of photos"),
        Some(_) if found != heading => bail!("its second line is {found:?}; expected {heading:?}"),
        Some(count) if count != rows => bail!("it says that {count} photos follow, and has {rows}"),
        Some(_) => Ok((3..)
            .zip(lines)
            .map(move |(number, line)| (number, words(line)))
            .filter(|(_, words)| !words.is_empty())),
    }
}

fn read_boxes(file: &Path) -> Result<HashMap<String, BoundingBox>> {
    let text = read(file)?;
    let heading = "image_name clothes_type pose_type x_1 y_1 x_2 y_2";
    table_of(&text, heading)?
        .map(|(line, words)| {
            let numbers = words.get(3..).unwrap_or_default().iter();
            let numbers: Vec<f32> = numbers.filter_map(|word| word.parse().ok()).collect();
            match (words.as_slice(), numbers.as_slice()) {
                ([name, ..], &[x1, y1, x2, y2]) => {
                    let bbox = BoundingBox { x1, y1, x2, y2 };
                    ensure!(
                        bbox.area() > 0.0 && bbox.area().is_finite(),
                        "line {line}: the box {} has no pixels; expected left, top, right, bottom",
                        Corners(bbox)
                    );
                    Ok(((*name).to_owned(), bbox))
                }
                _ => bail!("line {line}: expected {heading}"),
            }
        })
        .collect()
}

fn first_of(folder: &Path, places: &[&str], name: &str) -> Result<PathBuf> {
    let files: Vec<PathBuf> = places
        .iter()
        .map(|place| folder.join(place).join(name))
        .collect();
    match files.iter().find(|file| file.is_file()) {
        Some(file) => Ok(file.clone()),
        None => bail!(
            "{} has no {name}: give the folder of the In-Shop benchmark, with Anno, Eval and Img in it",
            folder.display()
        ),
    }
}

/// The nearest folder above the list under which the first of `paths` that is there is a file; else the
/// list's own.
fn root_of<'a>(list: &Path, paths: impl Iterator<Item = &'a str>) -> PathBuf {
    let list = std::path::absolute(list).unwrap_or_else(|_| list.to_owned());
    let above: Vec<&Path> = list.ancestors().skip(1).collect();
    let having = first_having(&above, paths).or(list.parent());
    having.unwrap_or(Path::new("")).to_owned()
}

/// The first of `folders` that has the first of the relative `paths` that any of them has: photos may be absent.
fn first_having<'f, 'a>(
    folders: &'f [impl AsRef<Path>],
    paths: impl Iterator<Item = &'a str>,
) -> Option<&'f Path> {
    let mut relative = paths.filter(|path| Path::new(path).is_relative());
    relative.find_map(|path| {
        let mut folders = folders.iter().map(AsRef::as_ref);
        folders.find(|folder| folder.join(path).is_file())
    })
}

/// One name for a file, however it is written.
fn same(file: &Path) -> PathBuf {
    fs::canonicalize(file).unwrap_or_else(|_| file.to_owned())
}

fn of_set(args: &RetrievalArgs) -> String {
    let set = args.set.as_ref();
    set.map(|set| format!(" in set {set:?}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        folder
    }

    const LIST: &str = "set,path,item_id,role\nshoes,a/1.jpg,x,query\nshoes,a/2.jpg,x,gallery\nhats,a/3.jpg,y,query\n";

    #[test]
    fn paths_are_looked_for_in_the_folders_above_the_list() {
        let folder = folder_with(&[("lists/list.csv", LIST), ("a/1.jpg", ""), ("a/2.jpg", "")]);
        let list =
            List::of_csv(&folder.path().join("lists/list.csv"), None, Some("shoes")).unwrap();
        assert_eq!(list.items.len(), 2);
        assert!(list.items.iter().all(|item| item.file.is_file()));
        assert!(list.items[0].is_query && !list.items[0].is_gallery);
        let error = List::of_csv(&folder.path().join("lists/list.csv"), None, Some("bags"));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("no set \"bags\"; it has: hats, shoes"),
            "{error}"
        );
    }

    #[test]
    fn absent_photos_do_not_hide_where_the_others_are() {
        let more = "path\nb/0.jpg\nb/4.jpg\n";
        let files = [
            ("lists/list.csv", LIST),
            ("lists/more.csv", more),
            ("a/2.jpg", ""),
            ("b/4.jpg", ""),
        ];
        let folder = folder_with(&files);
        let of = |name: &str| folder.path().join(name);
        let mut list = List::of_csv(&of("lists/list.csv"), None, Some("shoes")).unwrap();
        list.add_gallery(&of("lists/more.csv"), None).unwrap();
        let found: Vec<&Path> = list.items.iter().map(|item| item.file.as_path()).collect();
        assert_eq!(
            found,
            ["a/1.jpg", "a/2.jpg", "b/0.jpg", "b/4.jpg"].map(of),
            "{found:?}"
        );
        let mut list = List::default();
        let elsewhere = of("elsewhere");
        list.add_gallery(&of("lists/more.csv"), Some(&elsewhere))
            .unwrap();
        assert_eq!(list.items[0].file, elsewhere.join("b/0.jpg"));
    }

    #[test]
    fn an_absolute_path_says_nothing_of_the_others() {
        let folder = folder_with(&[("1.jpg", ""), ("lists/deep/list.csv", ""), ("2.jpg", "")]);
        let absolute = folder.path().join("1.jpg");
        let paths = [absolute.to_str().unwrap(), "2.jpg"];
        let root = root_of(
            &folder.path().join("lists/deep/list.csv"),
            paths.into_iter(),
        );
        assert_eq!(root, folder.path());
    }

    #[test]
    fn rows_are_counted_before_those_of_a_set_are_taken() {
        let rows = "hats,1.jpg,x,query\nshoes,2.jpg,y,judge\n";
        let folder = folder_with(&[("list.csv", &format!("set,path,item_id,role\n{rows}"))]);
        let error = List::of_csv(&folder.path().join("list.csv"), None, Some("shoes"));
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("list.csv line 3: role"), "{error}");
    }

    #[test]
    fn a_list_without_sets_is_told_from_one_without_this_set() {
        let folder = folder_with(&[("list.csv", "path,item_id,role\n1.jpg,x,query\n")]);
        let error = List::of_csv(&folder.path().join("list.csv"), None, Some("shoes"));
        let error = error.unwrap_err().to_string();
        assert!(
            error.ends_with("no set \"shoes\": its column set is missing or empty"),
            "{error}"
        );
    }

    #[test]
    fn a_further_gallery_adds_distractors_and_never_a_file_twice() {
        let files = [
            ("list.csv", LIST),
            ("a/1.jpg", ""),
            ("a/2.jpg", ""),
            ("a/3.jpg", ""),
            ("a/b/4.png", ""),
        ];
        let folder = folder_with(&files);
        let mut list = List::of_csv(&folder.path().join("list.csv"), None, Some("shoes")).unwrap();
        list.add_gallery(&folder.path().join("a"), None).unwrap();
        let of = |name: &str| {
            let mut items = list.items.iter().filter(|item| item.file.ends_with(name));
            let item = items.next().unwrap();
            assert!(items.next().is_none());
            (item.item.as_deref(), item.is_query, item.is_gallery)
        };
        assert_eq!(of("1.jpg"), (Some("x"), true, true));
        assert_eq!(of("2.jpg"), (Some("x"), false, true));
        assert_eq!(of("3.jpg"), (None, false, true));
        assert_eq!(of("4.png"), (None, false, true));
    }

    #[test]
    fn a_list_that_contradicts_itself_is_refused() {
        for (rows, part) in [
            ("1.jpg,x,judge", "role is \"judge\""),
            (
                "1.jpg,x,query\n1.jpg,y,gallery",
                "1.jpg is listed for two items, x and y",
            ),
            ("1.jpg,x", "line 2 has 2 columns, the header has 3"),
            (
                "1.jpg,x,query\n2.jpg, ,gallery",
                "line 3: item_id is missing or empty",
            ),
            (",x,query", "line 2: the path is empty"),
            (
                "https://shop/1.jpg,x,query",
                "line 2: https://shop/1.jpg is an address",
            ),
        ] {
            let folder = folder_with(&[("list.csv", &format!("path,item_id,role\n{rows}\n"))]);
            let error = List::of_csv(&folder.path().join("list.csv"), None, None).unwrap_err();
            let error = format!("{error:#}");
            assert!(
                error.contains(part) && error.contains("list.csv"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_list_is_read_as_a_load_reads_one() {
        let texts = [
            (
                "list.csv",
                &b"\xef\xbb\xbfpath;item_id;role\r\n1.jpg;x ;query\r\n\r\n 2.jpg;x; gallery\r\n"[..],
            ),
            (
                "list.tsv",
                b"role\tpath\titem_id\nquery\t1.jpg\tx\ngallery\t2.jpg\t x\n",
            ),
        ];
        for (name, text) in texts {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join(name);
            fs::write(&file, text).unwrap();
            let list = List::of_csv(&file, None, None).unwrap();
            let items = list
                .items
                .iter()
                .map(|item| (item.file.as_path(), item.item.as_deref()));
            let of = |name: &str| folder.path().join(name);
            let (first, second) = (of("1.jpg"), of("2.jpg"));
            assert_eq!(
                Vec::from_iter(items),
                [(first.as_path(), Some("x")), (second.as_path(), Some("x"))]
            );
        }
        for (text, part) in [
            (
                &b"Path,Item_ID,Role\n1.jpg,x,query\n"[..],
                "line 1: no column named path; the columns are Path, Item_ID, Role",
            ),
            (b"\xff\xfep\0a\0", "it is UTF-16: save it as UTF-8"),
            (b"path,role\n1.jpg,query\n", "line 2: item_id is missing"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("list.csv");
            fs::write(&file, text).unwrap();
            let error = format!("{:#}", List::of_csv(&file, None, None).unwrap_err());
            assert!(
                error.contains(part) && error.contains("list.csv"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_of_deepfashion_is_checked_against_its_count_and_heading() {
        let heading = "a b";
        let rows: Vec<_> = table_of("2\na  b\nx y\n\nz  w \n", heading)
            .unwrap()
            .collect();
        assert_eq!(rows, [(3, vec!["x", "y"]), (5, vec!["z", "w"])]);
        for (text, part) in [
            ("", "first line"),
            ("a b\nx y\n", "first line"),
            ("1\nb a\nx y\n", "expected \"a b\""),
            ("3\na b\nx y\n", "says that 3 photos follow, and has 1"),
        ] {
            let Err(error) = table_of(text, heading) else {
                panic!("{text:?} was taken");
            };
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_box_without_pixels_is_refused_by_its_line() {
        let heading = "image_name clothes_type pose_type x_1 y_1 x_2 y_2";
        for corners in ["5 5 5 9", "9 5 5 9", "5 5 nan 9", "5 5 inf 9"] {
            let text = format!("2\n{heading}\nimg/1.jpg 1 1 1 2 3 4\nimg/2.jpg 1 1 {corners}\n");
            let folder = folder_with(&[("boxes.txt", &text)]);
            let error = read_boxes(&folder.path().join("boxes.txt")).unwrap_err();
            let error = error.to_string().to_lowercase();
            assert!(
                error.starts_with(&format!("line 4: the box {corners} has no pixels")),
                "{error}"
            );
        }
    }
}
