//! The contact sheet: one HTML file with each query, its boxes and the neighbours of each garment.
//!
//! Knows pictures and text, no database. Invariant: the file needs no other file and no network, and
//! whatever a sku or a path holds is shown as text.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{ExtendedColorType, ImageEncoder, RgbImage, codecs::jpeg::JpegEncoder, imageops};

const JPEG_QUALITY: u8 = 82;

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>lookbook search</title>
<style>
:root { color-scheme: light dark; --text: #1c1c1e; --dim: #62626a; --page: #fafafa; --card: #ffffff; --line: #d9d9de; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ececf0; --dim: #a2a2ac; --page: #161618; --card: #222226; --line: #3b3b42; }
}
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: var(--text); background: var(--page); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 0 0 .8rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 0 0 .5rem; border-left: .5rem solid; padding-left: .6rem; }
section { margin-top: 1.6rem; padding-top: 1.6rem; border-top: 1px solid var(--line); }
.sheet { display: grid; grid-template-columns: minmax(12rem, 18rem) 1fr; gap: 1.6rem; align-items: start; }
@media (max-width: 50rem) { .sheet { grid-template-columns: 1fr; } }
.query { position: relative; }
.query img { display: block; width: 100%; border-radius: 6px; }
.box { position: absolute; border: 3px solid; box-sizing: border-box; }
.label { position: absolute; max-width: 100%; overflow: hidden; box-sizing: border-box; padding: 0 .5ch; font: 12px/16px ui-monospace, monospace; color: #000; white-space: nowrap; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.6rem, 1fr)); gap: .6rem; margin-bottom: 1.4rem; }
figure { margin: 0; padding: .5rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figure img, .missing { display: block; width: 100%; height: 8.5rem; object-fit: contain; }
.missing { display: grid; place-items: center; text-align: center; color: var(--dim); border: 1px dashed var(--line); border-radius: 6px; box-sizing: border-box; font-size: 12px; }
figcaption { margin-top: .4rem; font-size: 13px; overflow-wrap: anywhere; }
figcaption small { display: block; color: var(--dim); font-size: 11px; }
.own { border-style: dashed; }
p { margin: 0; color: var(--dim); }
</style>
<main>
<h1>Nearest in the catalogue</h1>
<p>Nearest first. At a distance of 0 two pictures are the same, at about 1.4 they have nothing in common.</p>
"#;

/// Of a query at most, in rem: by its width, which the boxes follow.
const QUERY_HEIGHT: f64 = 32.0;

/// A rectangle on the query, in shares of its width and height.
#[derive(Debug)]
pub struct Place {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

/// A query photo with its garments.
#[derive(Debug)]
pub struct Query {
    pub name: String,
    pub picture: RgbImage,
    pub sections: Vec<Section>,
}

/// A garment of the query with its neighbours.
#[derive(Debug)]
pub struct Section {
    pub title: String,
    pub colour: [u8; 3],
    pub place: Option<Place>,
    pub crop: RgbImage,
    pub neighbours: Vec<Card>,
}

/// A neighbour.
#[derive(Debug)]
pub struct Card {
    pub sku: String,
    pub label: String,
    pub distance: f64,
    pub path: String,
    /// Why there is no picture, where there is none.
    pub picture: Result<RgbImage, String>,
}

/// The whole file.
pub fn html(queries: &[Query]) -> String {
    let mut page = String::from(HEAD);
    queries.iter().for_each(|query| add_query(&mut page, query));
    page.push_str("</main>\n</html>\n");
    page
}

fn add_query(page: &mut String, query: &Query) {
    let mut add = |part: String| page.push_str(&part);
    add(format!(
        "<section>\n<h2>{}</h2>\n<div class=\"sheet\">\n<div class=\"query\" style=\"max-width:{:.2}rem\">{}",
        breakable(&query.name),
        QUERY_HEIGHT * f64::from(query.picture.width()) / f64::from(query.picture.height()),
        picture(&query.picture, 900, "the query")
    ));
    for section in &query.sections {
        if let Some(place) = &section.place {
            add(format!(
                "<div class=\"box\" style=\"left:{:.2}%;top:{:.2}%;width:{:.2}%;height:{:.2}%;border-color:{}\"></div>",
                100.0 * place.left,
                100.0 * place.top,
                100.0 * place.width,
                100.0 * place.height,
                hex(section.colour),
            ));
        }
    }
    for section in &query.sections {
        if let Some(place) = &section.place {
            add(label(section, place));
        }
    }
    add("</div>\n<div>\n".to_owned());
    for section in &query.sections {
        add(format!(
            "<h3 style=\"border-color:{}\">{}</h3>\n<div class=\"row\">\n\
             <figure class=\"own\">{}<figcaption>in the query</figcaption></figure>\n",
            hex(section.colour),
            escaped(&section.title),
            picture(&section.crop, 260, &section.title),
        ));
        section
            .neighbours
            .iter()
            .for_each(|neighbour| add(card(neighbour)));
        add("</div>\n".to_owned());
        if section.neighbours.is_empty() {
            add("<p>The catalogue has no garment of this category.</p>\n".to_owned());
        }
    }
    add("</div>\n</div>\n</section>\n".to_owned());
}

/// Above the box, so that it hides nothing of what is in there; inside of the photo wherever the box is, as `detect`
/// draws it. Letters are of one width, so that the label's is known.
fn label(section: &Section, place: &Place) -> String {
    format!(
        "<span class=\"label\" style=\"left:max(0px,min({:.2}%,100% - {}ch));top:max(0px,{:.2}% - 16px);background:{}\">{}</span>",
        100.0 * place.left,
        section.title.chars().count() + 1,
        100.0 * place.top,
        hex(section.colour),
        escaped(&section.title),
    )
}

fn card(neighbour: &Card) -> String {
    let shown = match &neighbour.picture {
        Ok(pixels) => picture(pixels, 260, &neighbour.label),
        Err(reason) => format!("<div class=\"missing\">{}</div>", escaped(reason)),
    };
    format!(
        "<figure>{shown}<figcaption>{}<small>distance {:.4}</small><small>{}</small></figcaption></figure>\n",
        escaped(&neighbour.sku),
        neighbour.distance,
        breakable(&neighbour.path),
    )
}

/// A path, which may go on in another line behind each folder.
fn breakable(path: &str) -> String {
    escaped(path).replace('/', "/<wbr>")
}

/// The picture itself inside the page, no side longer than `side`, and what it shows for those who do not see it.
fn picture(pixels: &RgbImage, side: u32, shows: &str) -> String {
    let longest = pixels.width().max(pixels.height());
    let small;
    let shown = if longest > side {
        let scaled =
            |length: u32| (u64::from(length) * u64::from(side) / u64::from(longest)).max(1);
        let (width, height) = (
            scaled(pixels.width()) as u32,
            scaled(pixels.height()) as u32,
        );
        small = imageops::resize(pixels, width, height, imageops::FilterType::Triangle);
        &small
    } else {
        pixels
    };
    let mut jpeg = Vec::new();
    let written = JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY).write_image(
        shown.as_raw(),
        shown.width(),
        shown.height(),
        ExtendedColorType::Rgb8,
    );
    match written {
        Ok(()) => format!(
            "<img alt=\"{}\" src=\"data:image/jpeg;base64,{}\">",
            escaped(shows),
            STANDARD.encode(jpeg)
        ),
        Err(error) => format!(
            "<div class=\"missing\">{}</div>",
            escaped(&error.to_string())
        ),
    }
}

fn hex(colour: [u8; 3]) -> String {
    colour.iter().fold("#".to_owned(), |mut text, part| {
        // Writing into a string does not fail.
        let _ = write!(text, "{part:02x}");
        text
    })
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_is_one_file_and_shows_hostile_names_as_text() {
        let hostile = "<script>alert('x')</script>\"&";
        let section = Section {
            title: hostile.to_owned(),
            colour: [1, 2, 255],
            place: Some(Place {
                left: 0.25,
                top: 0.0,
                width: 0.5,
                height: 1.0,
            }),
            crop: RgbImage::new(4, 3),
            neighbours: vec![
                Card {
                    sku: hostile.to_owned(),
                    label: hostile.to_owned(),
                    distance: 0.5,
                    path: hostile.to_owned(),
                    picture: Ok(RgbImage::new(1_000, 1)),
                },
                Card {
                    sku: "b".to_owned(),
                    label: "shirt".to_owned(),
                    distance: 0.75,
                    path: "old/gone.jpg".to_owned(),
                    picture: Err("no file gone.jpg".to_owned()),
                },
            ],
        };
        let page = html(&[Query {
            name: hostile.to_owned(),
            picture: RgbImage::new(10, 20),
            sections: vec![section],
        }]);
        assert!(!page.contains("<script>"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 7);
        assert!(page.contains("old/<wbr>gone.jpg"), "{page}");
        assert!(!page.contains("alt=\"\""), "{page}");
        assert!(page.contains("left:25.00%;top:0.00%;width:50.00%"));
        let label = format!(
            "left:max(0px,min(25.00%,100% - {}ch));top:max(0px,0.00% - 16px)",
            1 + hostile.len()
        );
        assert!(page.contains(&label) && page.contains("#0102ff"));
        assert!(page.contains("<div class=\"missing\">no file gone.jpg</div>"));
        assert_eq!(
            page.matches("src=").count(),
            page.matches("src=\"data:image/jpeg;base64,").count()
        );
        assert!(!page.contains("http"));
        // No higher than 32 rem.
        assert!(page.contains("class=\"query\" style=\"max-width:16.00rem\""));
    }
}
