//! The records of a shop: what its photos show, in files, in tables, in manifests; and what a load has to make of them.
//!
//! Knows the two tiny models by what they are defined to be: the detector finds the left half as an upper part and the lower
//! right quarter as footwear, in any photo; the embedder gives the average colour, times a factor. Each photo is of one
//! colour, so that every crop of it has the same.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Cursor, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, ensure};
use image::{ImageFormat, Rgb, RgbImage};
use lookbook_tests::check_output;
use parquet::{
    data_type::{ByteArray, ByteArrayType, DoubleType},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use postgres::Client;
use serde_json::json;

use crate::loader_support::Shop;

/// One photo.
#[derive(Debug, Clone)]
struct Photo {
    id: i32,
    sku: String,
    price: f64,
    colour: [u8; 3],
    size: [u32; 2],
}

impl Photo {
    /// The `number`th of the shop; `round` tells its versions apart.
    fn new(number: usize, round: usize) -> Self {
        let mix = |by: usize| u8::try_from((number * by + round * 101 + 17) % 256).unwrap_or(0);
        Self {
            id: i32::try_from(number).unwrap_or(0) + 1,
            // Two photos of most products, three of some.
            sku: format!("P{:05}", number * 2 / 5),
            price: (number * 2 / 5 % 200) as f64 + 0.5,
            colour: [mix(7), mix(31), mix(3)],
            size: [16 + 2 * (number as u32 % 5), 16 + 4 * (number as u32 % 3)],
        }
    }

    fn png(&self) -> Result<Vec<u8>> {
        let [width, height] = self.size;
        let mut png = Cursor::new(Vec::new());
        RgbImage::from_pixel(width, height, Rgb(self.colour))
            .write_to(&mut png, ImageFormat::Png)?;
        Ok(png.into_inner())
    }
}

/// All photos of a shop by their files.
pub struct Catalogue(BTreeMap<String, Photo>);

/// How a source calls a photo, and what it says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// By its file alone.
    Folder,
    /// By its file with its folder, with a price that is text.
    Texts,
    /// With a price that is a number.
    Numbers,
}

impl Catalogue {
    pub fn new(photos: usize) -> Self {
        let file = |number: usize| format!("{:02}/{number:05}.png", number % 20);
        Self(
            (0..photos)
                .map(|number| (file(number), Photo::new(number, 0)))
                .collect(),
        )
    }

    /// The shop's tables and files.
    pub fn create(&self, shop: &Shop<'_>) -> Result<()> {
        let mut client = shop.database.connect()?;
        client.batch_execute(
            "CREATE TABLE product (sku text PRIMARY KEY, name text NOT NULL, price float8 NOT NULL);
             CREATE TABLE variant (id serial PRIMARY KEY, sku text NOT NULL REFERENCES product ON DELETE CASCADE, size text NOT NULL);
             CREATE TABLE stock (variant_id int PRIMARY KEY REFERENCES variant ON DELETE CASCADE, pieces int NOT NULL);
             CREATE TABLE product_image (id int PRIMARY KEY, sku text NOT NULL REFERENCES product ON DELETE CASCADE,
               file text NOT NULL UNIQUE, data bytea NOT NULL)",
        )?;
        client.batch_execute("BEGIN")?;
        for (file, photo) in &self.0 {
            self.put(shop, &mut client, file, photo)?;
        }
        client.batch_execute(
            "INSERT INTO variant (sku, size) SELECT sku, s FROM product, unnest(ARRAY['S', 'M', 'L']) s;
             INSERT INTO stock SELECT id, id % 7 FROM variant; COMMIT; ANALYZE",
        )?;
        Ok(())
    }

    /// Writes a photo's file and rows.
    fn put(&self, shop: &Shop<'_>, client: &mut Client, file: &str, photo: &Photo) -> Result<()> {
        let png = photo.png()?;
        shop.put(file, &png)?;
        client.execute(
            "WITH p AS (INSERT INTO product VALUES ($1, 'article ' || $1, $2) ON CONFLICT (sku) DO UPDATE SET price = $2)
             INSERT INTO product_image VALUES ($3, $1, $4, $5) ON CONFLICT (id) DO UPDATE SET data = $5",
            &[&photo.sku, &photo.price, &photo.id, &format!("photos/{file}"), &png],
        )?;
        Ok(())
    }

    /// Every eleventh photo gets other pixels, every seventeenth goes, some are new, and some prices change.
    pub fn change(&mut self, shop: &Shop<'_>) -> Result<()> {
        let mut client = shop.database.connect()?;
        client.batch_execute("BEGIN")?;
        let files: Vec<String> = self.0.keys().cloned().collect();
        for (at, file) in files.iter().enumerate() {
            let Some(photo) = self.0.get_mut(file) else {
                continue;
            };
            if at % 17 == 0 {
                fs::remove_file(shop.photos().join(file))?;
                client.execute("DELETE FROM product_image WHERE id = $1", &[&photo.id])?;
                self.0.remove(file);
            } else if at % 11 == 0 {
                let number = usize::try_from(photo.id)? - 1;
                *photo = Photo {
                    price: photo.price,
                    ..Photo::new(number, 1)
                };
                let photo = photo.clone();
                self.put(shop, &mut client, file, &photo)?;
            }
        }
        for number in files.len()..files.len() + 90 {
            let file = format!("new/{number:05}.png");
            let photo = Photo::new(number, 0);
            self.put(shop, &mut client, &file, &photo)?;
            self.0.insert(file, photo);
        }
        for sku in ["P00010", "P00333"] {
            client.execute("UPDATE product SET price = 1000 WHERE sku = $1", &[&sku])?;
            let photos = self.0.values_mut();
            photos
                .filter(|photo| photo.sku == sku)
                .for_each(|photo| photo.price = 1000.0);
        }
        client.batch_execute("COMMIT")?;
        Ok(())
    }

    /// Every fortieth product goes, with its rows but not its files; returns how many photos it had.
    pub fn delete_products(&mut self, shop: &Shop<'_>) -> Result<usize> {
        let deleted = shop.database.connect()?.query(
            "DELETE FROM product WHERE right(sku, 5)::int % 40 = 0 RETURNING sku",
            &[],
        )?;
        let deleted: Vec<String> = deleted.iter().map(|row| row.get(0)).collect();
        ensure!(!deleted.is_empty());
        let before = self.0.len();
        self.0.retain(|_, photo| !deleted.contains(&photo.sku));
        Ok(before - self.0.len())
    }

    /// `list.csv`, `list.tsv`, `list.jsonl` and `list.parquet`; with a port, `urls.csv` in their place.
    pub fn write_manifests(&self, shop: &Shop<'_>, port: Option<u16>) -> Result<()> {
        if let Some(port) = port {
            let mut urls = "url,file,sku,price\n".to_owned();
            for (file, Photo { sku, price, .. }) in &self.0 {
                writeln!(
                    urls,
                    "http://127.0.0.1:{port}/photos/{file},photos/{file},{sku},{price}"
                )?;
            }
            return Ok(fs::write(shop.path("urls.csv"), urls)?);
        }
        let mut csv = "path,sku,price\n".to_owned();
        let mut jsonl = String::new();
        for (file, Photo { sku, price, .. }) in &self.0 {
            writeln!(csv, "photos/{file},{sku},{price}")?;
            writeln!(
                jsonl,
                "{}",
                json!({"path": format!("photos/{file}"), "sku": sku, "price": price})
            )?;
        }
        fs::write(shop.path("list.tsv"), csv.replace(',', "\t"))?;
        fs::write(shop.path("list.csv"), csv)?;
        fs::write(shop.path("list.jsonl"), jsonl)?;
        self.write_parquet(&shop.path("list.parquet"))
    }

    /// The photos themselves in a column.
    fn write_parquet(&self, file: &Path) -> Result<()> {
        let schema = "message photos { required binary image; required binary file (UTF8); required binary sku (UTF8);
            required double price; }";
        let schema = Arc::new(parse_message_type(schema)?);
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(fs::File::create(file)?, schema, properties)?;
        let mut group = writer.next_row_group()?;
        let images: Result<Vec<ByteArray>> = self
            .0
            .values()
            .map(|photo| Ok(photo.png()?.into()))
            .collect();
        let files = self
            .0
            .keys()
            .map(|file| format!("photos/{file}").into_bytes().into());
        let skus = self
            .0
            .values()
            .map(|photo| photo.sku.clone().into_bytes().into());
        for values in [images?, files.collect(), skus.collect()] {
            let mut column = group.next_column()?.context("a column")?;
            column
                .typed::<ByteArrayType>()
                .write_batch(&values, None, None)?;
            column.close()?;
        }
        let prices: Vec<f64> = self.0.values().map(|photo| photo.price).collect();
        let mut column = group.next_column()?.context("a column")?;
        column
            .typed::<DoubleType>()
            .write_batch(&prices, None, None)?;
        column.close()?;
        group.close()?;
        writer.close()?;
        Ok(())
    }

    /// `photos.tar`.
    pub fn pack(&self, shop: &Shop<'_>) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.current_dir(shop.photos())
            .args(["-cf", "../photos.tar", "."]);
        check_output(&mut tar)?;
        Ok(())
    }
}

/// A garment as a reader of the tables sees it.
#[derive(Debug, PartialEq)]
struct Row {
    path: String,
    id: i32,
    sku: String,
    category: &'static str,
    score: f32,
    /// Right, upper, left, lower.
    bbox: [f64; 4],
    attributes: Option<serde_json::Value>,
    embedding: Vec<f32>,
}

/// What the tables have to hold.
pub struct Expected {
    rows: Vec<Row>,
}

impl Expected {
    /// Of a source that names the photos so, and a model of that factor.
    pub fn of(catalogue: &Catalogue, naming: Naming, factor: f32) -> Self {
        let mut rows = Vec::new();
        for (file, photo) in &catalogue.0 {
            let path = match naming {
                Naming::Folder => file.clone(),
                Naming::Texts | Naming::Numbers => format!("photos/{file}"),
            };
            let [width, height] = photo.size.map(f64::from);
            let embedding = photo.colour.map(|part| factor * f32::from(part) / 255.0);
            let row = |category, score, bbox| Row {
                path: path.clone(),
                id: photo.id,
                sku: match naming {
                    Naming::Folder => file.trim_end_matches(".png").to_owned(),
                    Naming::Texts | Naming::Numbers => photo.sku.clone(),
                },
                category,
                score,
                bbox,
                attributes: match naming {
                    Naming::Folder => None,
                    Naming::Texts => Some(json!({"price": photo.price.to_string()})),
                    Naming::Numbers => Some(json!({"price": photo.price})),
                },
                embedding: embedding.to_vec(),
            };
            rows.push(row(
                "footwear",
                0.8,
                [width, height, width / 2.0, height / 2.0],
            ));
            rows.push(row("upper", 0.9, [width / 2.0, height, 0.0, 0.0]));
        }
        rows.sort_by(|a, b| (&a.path, a.category).cmp(&(&b.path, b.category)));
        Self { rows }
    }

    /// The loader's own tables in `schema` hold exactly this, each photo with the digest of its bytes.
    pub fn check(&self, client: &mut Client, schema: &str) -> Result<()> {
        self.compare(
            client,
            &format!(
                "SELECT p.path, p.sku, g.sku, g.category, g.score, g.box[0]::text, g.box[1]::text, p.attributes::text, g.embedding::real[]
                 FROM \"{schema}\".photo p LEFT JOIN \"{schema}\".garment g ON g.photo_id = p.id ORDER BY p.path COLLATE \"C\", g.category"
            ),
        )?;
        let lost = client.query_one(
            &format!(
                "SELECT count(*) FROM \"{schema}\".photo p JOIN product_image i ON i.file IN (p.path, 'photos/' || p.path)
                 WHERE sha256(i.data) <> p.sha256"
            ),
            &[],
        )?;
        ensure!(lost.get::<_, i64>(0) == 0, "digests of other bytes");
        Ok(())
    }

    /// The shop's table `product_look` holds exactly this.
    pub fn check_looks(&self, client: &mut Client) -> Result<()> {
        self.compare(
            client,
            "SELECT i.file, l.sku, i.sku, l.category, NULL::real, l.place[0]::text, l.place[1]::text, NULL::text, l.embedding::real[]
             FROM product_look l JOIN product_image i ON i.id = l.image_id ORDER BY i.file COLLATE \"C\", l.category",
        )
    }

    fn compare(&self, client: &mut Client, query: &str) -> Result<()> {
        let found = client.query(query, &[])?;
        ensure!(
            found.len() == self.rows.len(),
            "{} rows, expected {}",
            found.len(),
            self.rows.len()
        );
        for (found, expected) in found.iter().zip(&self.rows) {
            let text = |at: usize| found.get::<_, Option<String>>(at).unwrap_or_default();
            let [x2, y2, x1, y1] = expected.bbox;
            let embedding: Vec<f32> = found.get(8);
            let is_near = embedding.len() == expected.embedding.len()
                && embedding
                    .iter()
                    .zip(&expected.embedding)
                    .all(|(a, b)| (a - b).abs() < 1e-4);
            let score: Option<f32> = found.get(4);
            let attributes: Option<String> = found.get(7);
            let attributes = attributes
                .map(|text| serde_json::from_str(&text))
                .transpose()?;
            ensure!(
                text(0) == expected.path
                    && text(1) == expected.sku
                    && text(2) == expected.sku
                    && text(3) == expected.category
                    && score.is_none_or(|score| (score - expected.score).abs() < 1e-4)
                    && text(5) == format!("({x2},{y2})")
                    && text(6) == format!("({x1},{y1})")
                    && (attributes == expected.attributes || score.is_none())
                    && is_near,
                "found {} {} {} {} {score:?} {}{} {attributes:?} {embedding:?}, expected {expected:?}",
                text(0),
                text(1),
                text(2),
                text(3),
                text(5),
                text(6)
            );
        }
        Ok(())
    }
}

/// Serves the files below `root` until the test ends, also as a store with the bucket `shelf`.
pub fn serve(root: PathBuf) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let root = Arc::new(root);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let root = root.clone();
            thread::spawn(move || {
                // A client that goes away is none of the server's concern.
                let _ = answer(stream, &root);
            });
        }
    });
    Ok(port)
}

/// Answers requests of one connection until it is closed.
fn answer(stream: TcpStream, root: &Path) -> Result<()> {
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next().transpose()? {
        while lines
            .next()
            .transpose()?
            .is_some_and(|line| !line.is_empty())
        {}
        let path = request.split(' ').nth(1).unwrap_or_default();
        let (head, body) = if path.contains("list-type=2") {
            ("200 OK", listing(root, path)?.into_bytes())
        } else {
            let name = path.trim_start_matches('/');
            match fs::read(root.join(name.strip_prefix("shelf/").unwrap_or(name))) {
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            }
        };
        write!(
            out,
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\nETag: \"1\"\r\nLast-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\n\r\n",
            body.len()
        )?;
        out.write_all(&body)?;
    }
    Ok(())
}

/// A page of 1,000 objects, as S3 gives them.
fn listing(root: &Path, request: &str) -> Result<String> {
    const PAGE: usize = 1_000;
    let mut keys = Vec::new();
    for folder in fs::read_dir(root.join("photos"))? {
        let folder = folder?;
        for file in fs::read_dir(folder.path())? {
            let file = file?;
            let key = format!(
                "photos/{}/{}",
                folder.file_name().to_string_lossy(),
                file.file_name().to_string_lossy()
            );
            keys.push((key, file.metadata()?.len()));
        }
    }
    keys.sort();
    let start: usize = request
        .split(['?', '&'])
        .find_map(|part| part.strip_prefix("continuation-token="))
        .map_or(Ok(0), str::parse)?;
    let end = keys.len().min(start + PAGE);
    let objects: String = keys[start..end]
        .iter()
        .map(|(key, bytes)| format!(
            "<Contents><Key>{key}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>&quot;1&quot;</ETag><Size>{bytes}</Size></Contents>"
        ))
        .collect();
    let more = match end < keys.len() {
        true => format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{end}</NextContinuationToken>"
        ),
        false => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult>{more}{objects}</ListBucketResult>"
    ))
}
