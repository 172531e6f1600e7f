//! COCO's JSON of annotated boxes, and of detections.
//!
//! Invariant: every annotation of a [`Dataset`] belongs to one of its photos and categories, and its box
//! is finite; categories differ in name; photos stand in the order of their ids, as `pycocotools` takes them.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::average_precision::{Rectangle, Truth};

/// What some editors begin a file in UTF-8 with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Deserialize)]
struct Document {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: i64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: i64,
    category_id: i64,
    bbox: Option<Rectangle>,
    iscrowd: Option<Flag>,
}

/// As COCO writes it, or as its users do.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected 0, 1, true, false or null")]
enum Flag {
    Number(f64),
    Bool(bool),
}

impl Flag {
    fn is_set(&self) -> bool {
        match *self {
            Self::Number(number) => number != 0.0,
            Self::Bool(is_set) => is_set,
        }
    }
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    name: String,
}

/// Annotated photos.
#[derive(Debug)]
pub struct Dataset {
    pub photos: Vec<AnnotatedPhoto>,
    /// Ids and names; [`Truth::category`] counts them.
    pub categories: Vec<(i64, String)>,
}

/// A photo with its boxes.
#[derive(Debug)]
pub struct AnnotatedPhoto {
    pub id: i64,
    pub file: PathBuf,
    pub truth: Vec<Truth>,
}

/// A detection in COCO's form of results, for other programs to judge.
#[derive(Debug, Serialize)]
pub struct Detected {
    pub image_id: i64,
    pub category_id: i64,
    pub bbox: Rectangle,
    pub score: f64,
}

impl Dataset {
    /// Reads `file`, whose photos lie relative to `folder`. A category named in `names` takes that name, with all of
    /// the same, or is left out where that is empty.
    pub fn read(file: &Path, folder: &Path, names: &[(String, String)]) -> Result<Self> {
        let wrong = || format!("cannot use {}", file.display());
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
        let mut reader = serde_json::Deserializer::from_slice(text);
        let document: Document = serde_path_to_error::deserialize(&mut reader)
            .map_err(anyhow::Error::from)
            .and_then(|document| Ok(reader.end().map(|()| document)?))
            .context("it is not COCO's JSON of annotated boxes (images, annotations, categories)")
            .with_context(wrong)?;
        document.into_dataset(folder, names).with_context(wrong)
    }
}

impl Document {
    fn into_dataset(self, folder: &Path, names: &[(String, String)]) -> Result<Dataset> {
        let categories = named(self.categories, names)?;
        let mut photos: Vec<AnnotatedPhoto> = self
            .images
            .into_iter()
            .map(|image| AnnotatedPhoto {
                id: image.id,
                file: folder.join(image.file_name),
                truth: Vec::new(),
            })
            .collect();
        photos.sort_by_key(|photo| photo.id);
        if let Some(twins) = photos.windows(2).find(|pair| pair[0].id == pair[1].id) {
            bail!("two of its images have the id {}", twins[0].id);
        }
        for (at, annotation) in self.annotations.into_iter().enumerate() {
            let Annotation {
                image_id,
                category_id,
                bbox,
                iscrowd,
            } = annotation;
            let is_crowd = iscrowd.is_some_and(|flag| flag.is_set());
            let photo = photos.binary_search_by_key(&image_id, |photo| photo.id);
            let (Ok(photo), Some(&category)) = (photo, categories.places.get(&category_id)) else {
                bail!(
                    "annotation {at} belongs to image {image_id} and category {category_id}, one of which it does not list"
                );
            };
            let Some(bbox) = bbox else {
                // A crowd's mask alone: no box can be compared with it.
                if is_crowd {
                    continue;
                }
                bail!(
                    "annotation {at}, of image {image_id}, has no bbox; expected left, top, width, height"
                );
            };
            if !(bbox.iter().all(|value| value.is_finite()) && bbox[2] >= 0.0 && bbox[3] >= 0.0) {
                bail!("annotation {at} has the box {bbox:?}; expected left, top, width, height");
            }
            let Some(category) = category else {
                continue;
            };
            photos[photo].truth.push(Truth {
                category,
                bbox,
                is_crowd,
            });
        }
        Ok(Dataset {
            photos,
            categories: categories.named,
        })
    }
}

struct Categories {
    /// Ids and names of those that count.
    named: Vec<(i64, String)>,
    /// Which of them each id of the file is, if any.
    places: HashMap<i64, Option<usize>>,
}

fn named(all: Vec<Category>, names: &[(String, String)]) -> Result<Categories> {
    let mut own = HashSet::new();
    if let Some(twin) = all.iter().find(|category| !own.insert(&category.name)) {
        bail!("two of its categories have the name {:?}", twin.name);
    }
    if let Some((name, _)) = names.iter().find(|(name, _)| !own.contains(name)) {
        bail!("no category is named {name:?}, which --map gives a name");
    }
    let mut categories = Categories {
        named: Vec::new(),
        places: HashMap::new(),
    };
    for Category { id, name } in all {
        let mapped = names.iter().find(|(own, _)| *own == name);
        let name = mapped.map_or(name, |(_, label)| label.clone());
        let named = &mut categories.named;
        let known = named.iter().position(|(_, known)| *known == name);
        let place = (!name.is_empty()).then(|| known.unwrap_or(named.len()));
        if place == Some(named.len()) {
            named.push((id, name));
        }
        if categories.places.insert(id, place).is_some() {
            bail!("two of its categories have the same id");
        }
    }
    Ok(categories)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Dataset> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("boxes.json");
        fs::write(&file, json)?;
        Dataset::read(&file, Path::new("/photos"), &[])
    }

    #[test]
    fn photos_stand_in_the_order_of_their_ids_with_their_boxes() {
        let dataset = read(
            r#"{"info": {"year": 1}, "images": [{"id": 9, "file_name": "b.jpg", "width": 3}, {"id": 2, "file_name": "a/a.jpg"}],
                "categories": [{"id": 7, "name": "upper"}, {"id": 3, "name": "lower"}],
                "annotations": [{"id": 1, "image_id": 9, "category_id": 3, "bbox": [1, 2, 3, 4.5], "area": 13.5},
                                {"id": 2, "image_id": 9, "category_id": 7, "bbox": [0, 0, 1, 1], "iscrowd": 1}]}"#,
        )
        .unwrap();
        let files: Vec<&Path> = dataset
            .photos
            .iter()
            .map(|photo| photo.file.as_path())
            .collect();
        assert_eq!(
            files,
            [Path::new("/photos/a/a.jpg"), Path::new("/photos/b.jpg")]
        );
        assert_eq!(dataset.photos[0].truth, []);
        let [first, second] = dataset.photos[1].truth.as_slice() else {
            panic!("two boxes");
        };
        assert_eq!(
            (first.category, first.bbox, first.is_crowd),
            (1, [1.0, 2.0, 3.0, 4.5], false)
        );
        assert_eq!((second.category, second.is_crowd), (0, true));
    }

    #[test]
    fn crowds_are_told_however_they_are_written() {
        let with = |annotation: &str| {
            let annotation = format!(r#"{{"image_id": 1, "category_id": 2, {annotation}}}"#);
            read(&format!(
                r#"{{"images": [{{"id": 1, "file_name": "a"}}], "categories": [{{"id": 2, "name": "x"}}], "annotations": [{annotation}]}}"#
            ))
        };
        let bbox = r#""bbox": [0, 0, 1, 1]"#;
        for (flag, is_crowd) in [
            ("null", false),
            ("0", false),
            ("0.0", false),
            ("false", false),
            ("1", true),
            ("1.0", true),
            ("true", true),
        ] {
            let dataset = with(&format!(r#"{bbox}, "iscrowd": {flag}"#)).unwrap();
            assert_eq!(dataset.photos[0].truth[0].is_crowd, is_crowd, "{flag}");
        }
        for no_box in [
            r#""iscrowd": 1"#,
            r#""iscrowd": 1, "segmentation": {"counts": [1]}"#,
            r#""iscrowd": true, "bbox": null"#,
        ] {
            assert_eq!(with(no_box).unwrap().photos[0].truth, [], "{no_box}");
        }
        let refused = |annotation: &str| format!("{:#}", with(annotation).unwrap_err());
        let without = refused(r#""iscrowd": 0"#);
        assert!(without.contains("annotation 0"), "{without}");
        let text = refused(&format!(r#"{bbox}, "iscrowd": "0""#));
        assert!(
            text.contains("annotations[0].iscrowd: expected 0, 1"),
            "{text}"
        );
        let empty = refused(r#""bbox": []"#);
        assert!(empty.contains("annotations[0].bbox"), "{empty}");
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        for (json, part) in [
            ("[]", "it is not COCO's JSON"),
            (
                r#"{"images": [], "annotations": []}"#,
                "missing field `categories`",
            ),
            (
                r#"{"images": [{"id": 1, "file_name": "a"}], "categories": [], "annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]}]}"#,
                "annotation 0 belongs to image 1 and category 2",
            ),
            (
                r#"{"images": [{"id": 1, "file_name": "a"}], "categories": [{"id": 2, "name": "x"}], "annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, -1, 1]}]}"#,
                "annotation 0 has the box [0.0, 0.0, -1.0, 1.0]",
            ),
            (
                r#"{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "categories": [], "annotations": []}"#,
                "two of its images have the id 1",
            ),
            (
                r#"{"images": [], "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}], "annotations": []}"#,
                "two of its categories have the name \"x\"",
            ),
        ] {
            let error = format!("{:#}", read(json).unwrap_err());
            assert!(
                error.contains(part) && error.contains("boxes.json"),
                "{error}"
            );
        }
    }
}
