//! Five products for a photo, with the crate `postgres`: five URL PHOTO
//!
//! With tokio-postgres the same calls are `await`ed.

use std::env;
use std::error::Error;

use postgres::{Client, NoTls};

fn main() -> Result<(), Box<dyn Error>> {
    let [url, photo] = [1, 2].map(|place| env::args().nth(place).unwrap_or_default());
    let mut client = Client::connect(&url, NoTls)?;
    let image = std::fs::read(photo)?;
    let five = "SELECT product, distance FROM nearest_products((SELECT embed_query($1)), 5)";
    for row in client.query(five, &[&image])? {
        let (product, distance): (String, f64) = (row.get(0), row.get(1));
        println!("{product} {distance:.3}");
    }
    Ok(())
}
