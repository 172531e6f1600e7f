//! Every query of `docs/cookbook.md` runs on a small shop and finds something; those that promise it, by the index.

mod index_support;

use std::fs;

use anyhow::{Context, Result, ensure};
use index_support::database;
use lookbook_tests::{Cluster, workspace};
use postgres::types::ToSql;

const SHOP: &str = include_str!("cookbook_shop.sql");
const FENCE: &str = "```";

struct Recipe {
    line: usize,
    sql: String,
    by_index: bool,
}

/// The blocks marked `sql`, each with whether the paragraph before it says *by the index*.
fn recipes(page: &str) -> Vec<Recipe> {
    let (mut found, mut before) = (Vec::new(), String::new());
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        if let Some(language) = line.strip_prefix(FENCE) {
            let block: Vec<&str> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| !line.starts_with(FENCE))
                .collect();
            if language == "sql" {
                found.push(Recipe {
                    line: number + 1,
                    sql: block.join("\n"),
                    by_index: before.contains("*by the index*"),
                });
            }
            before.clear();
        } else {
            before = line.to_owned();
        }
    }
    found
}

#[test]
fn every_recipe_of_the_cookbook_finds_something_and_by_the_index_where_it_says_so() -> Result<()> {
    let page = fs::read_to_string(workspace().join("docs/cookbook.md"))?;
    let recipes = recipes(&page);
    let marked = recipes.iter().filter(|recipe| recipe.by_index).count();
    ensure!(
        recipes.len() >= 20 && marked >= 12,
        "{} recipes, {marked} by the index",
        recipes.len()
    );

    let (_database, mut client) = database(Cluster::shared()?, "cookbook")?;
    client.batch_execute(SHOP)?;
    let photo = fs::read(workspace().join("tests/catalogue/queries/red-tartan-shirt.jpg"))?;
    let mut wrong = Vec::new();
    for recipe in &recipes {
        let sql = recipe.sql.trim_end().trim_end_matches(';');
        let outcome = (|| -> Result<()> {
            let statement = client.prepare(sql)?;
            let parameters: Vec<&(dyn ToSql + Sync)> = statement
                .params()
                .iter()
                .map(|_| &photo as &(dyn ToSql + Sync))
                .collect();
            let rows = client.query(&statement, &parameters)?;
            ensure!(!rows.is_empty() || sql.starts_with("CREATE"), "no rows");
            if recipe.by_index {
                let plan = client.query(&format!("EXPLAIN (COSTS OFF) {sql}"), &parameters)?;
                let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
                let plan = plan.join("\n");
                ensure!(
                    plan.contains("Index Scan using looks")
                        || plan.contains("Index Scan using rival_looks"),
                    "another plan:\n{plan}"
                );
            }
            Ok(())
        })();
        if let Err(error) = outcome.context("") {
            wrong.push(format!("line {}: {error:#}\n{sql}", recipe.line));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

#[test]
fn the_recipes_answer_what_they_say() -> Result<()> {
    let (_database, mut client) = database(Cluster::shared()?, "cookbook_answers")?;
    client.batch_execute(SHOP)?;
    let page = fs::read_to_string(workspace().join("docs/cookbook.md"))?;
    let recipes = recipes(&page);
    let mut answer = |part: &str| -> Result<Vec<postgres::Row>> {
        let recipe = recipes
            .iter()
            .find(|recipe| recipe.sql.contains(part))
            .with_context(|| format!("a recipe with {part}"))?;
        client
            .query(recipe.sql.trim_end_matches(';'), &[])
            .context("")
    };
    // The copies that the shop was given, and nothing else.
    let copies = answer("AS same_as")?;
    ensure!(!copies.is_empty());
    for row in &copies {
        let (sku, same_as): (String, String) = (row.get(0), row.get(1));
        ensure!(
            same_as == format!("{sku}-again") || sku == format!("{same_as}-again"),
            "{sku} {same_as}"
        );
    }
    let unseen = answer("NOT EXISTS (SELECT FROM garment")?;
    ensure!(unseen.len() == 1 && unseen[0].get::<_, String>(0) == "unseen");
    for row in answer("p.price BETWEEN 30 AND 90")? {
        let price: i32 = row.get(2);
        ensure!((30..=90).contains(&price), "{price}");
    }
    ensure!(answer("p.price BETWEEN 30 AND 90")?.len() == 5);
    let clusters = answer("AS cluster")?;
    let sum: i64 = clusters.iter().map(|row| row.get::<_, i64>(1)).sum();
    ensure!(
        clusters.len() == 8 && sum == 801,
        "{} groups of {sum}",
        clusters.len()
    );
    // What goes with footwear is worn with it, and no more footwear.
    let worn = answer("FROM lookbook_look_of('S9') AS look\nJOIN")?;
    for row in &worn {
        ensure!(row.get::<_, String>(0) == "lower", "{row:?}");
    }
    let places = answer("s.ordinality AS place")?;
    for (place, row) in (1_i64..).zip(&places) {
        ensure!(row.get::<_, i64>(0) == place, "{row:?}");
    }
    ensure!(places.len() == 5 && worn.len() == 3);
    for row in answer("a.embedding * 0.7")? {
        let product: String = row.get(0);
        ensure!(
            product != "S3" && product != "S13",
            "{product} is what was asked with"
        );
    }
    // What is worn with a product does not stand for it.
    answer("map_catalogue('sold'")?;
    answer("FUNCTION sold.")?;
    let like = answer("sold.similar_products('S10', 5)")?;
    ensure!(like.len() == 5);
    for row in answer("HAVING count(*) >= 2")? {
        ensure!(row.get::<_, i64>(1) == 2 && row.get::<_, String>(2).contains("lower"));
    }
    let worn = "SELECT count(*), count(*) FILTER (WHERE category = 'lower'),
                  (SELECT count(*) FROM nearest_products((SELECT embedding FROM garment WHERE category = 'lower' LIMIT 1), 5) AS n
                   JOIN garment AS g ON g.id = n.garment_id WHERE g.category = 'lower')
                FROM sold.lookbook_catalogue()";
    let row = client.query_one(worn, &[])?;
    let (all, lower, of_all): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    ensure!(
        all == 2403 && lower == 0 && of_all > 0,
        "{all} {lower} {of_all}"
    );
    Ok(())
}

#[test]
fn a_condition_on_photos_loses_no_products_and_each_garment_gets_its_own() -> Result<()> {
    let (_database, mut client) = database(Cluster::shared()?, "cookbook_conditions")?;
    client.batch_execute(SHOP)?;
    // The best photo of a product may be one that the condition refuses.
    client
        .batch_execute("SET lookbook.recall = 1; UPDATE photo SET width = 500 WHERE id % 3 = 0")?;
    let photo = fs::read(workspace().join("tests/catalogue/queries/red-tartan-shirt.jpg"))?;
    let page = fs::read_to_string(workspace().join("docs/cookbook.md"))?;
    let recipes = recipes(&page);
    let recipe = |part: &str| -> Result<&str> {
        let found = recipes.iter().find(|recipe| recipe.sql.contains(part));
        Ok(found
            .with_context(|| format!("a recipe with {part}"))?
            .sql
            .trim_end_matches(';'))
    };
    let products = |rows: Vec<postgres::Row>| -> Vec<String> {
        rows.iter().map(|row| row.get("product")).collect()
    };
    let truth = "SELECT n.sku AS product FROM garment AS g, garment AS n JOIN photo AS p ON p.id = n.photo_id
        WHERE g.id = 11 AND n.category = g.category AND p.width >= 600 AND n.score > 0.6 AND (n.sku <> g.sku OR $1)
        GROUP BY n.sku ORDER BY min(n.embedding <-> g.embedding) LIMIT 5";
    let expected = products(client.query(truth, &[&false])?);
    let found = products(client.query(recipe("min(near.distance)")?, &[])?);
    ensure!(
        found == expected && found.len() == 5,
        "{found:?} {expected:?}"
    );
    client.batch_execute(recipe("CREATE VIEW sure_garment")?)?;
    client.batch_execute(recipe("map_catalogue('sure'")?)?;
    let expected = products(client.query(truth, &[&true])?);
    let found = products(client.query(recipe("sure.nearest_products")?, &[])?);
    ensure!(
        found == expected && found.len() == 5,
        "{found:?} {expected:?}"
    );

    // Each garment has its own three, all of them in stock.
    let look = client.query(recipe("FROM detect_query($1)")?, &[&photo])?;
    let sold: i64 = client
        .query_one(
            "SELECT count(*) FROM detect_query($1) AS d WHERE EXISTS (SELECT FROM garment AS g WHERE g.category = d.category)",
            &[&photo],
        )?
        .get(0);
    ensure!(
        sold > 1 && look.len() == 3 * usize::try_from(sold)?,
        "{look:?}"
    );
    for row in &look {
        let right: bool = client
            .query_one(
                "SELECT p.in_stock AND EXISTS (SELECT FROM garment AS g WHERE g.sku = p.sku AND g.category = $2) FROM product AS p WHERE p.sku = $1",
                &[&row.get::<_, String>("product"), &row.get::<_, String>("category")],
            )?
            .get(0);
        ensure!(right, "{row:?}");
    }

    // Forty more photos of one product change nothing of what its customers like.
    let wishes = recipe("FROM wish AS w JOIN garment")?;
    let before = products(client.query(wishes, &[])?);
    client.batch_execute(
        "INSERT INTO garment (photo_id, sku, category, label, score, box, embedding)
           SELECT 4, 'S1', 'upper', 'x', 0.5, '(1,1),(0,0)', (SELECT avg(embedding) FROM garment WHERE sku = 'S1' AND category = 'upper')
           FROM generate_series(1, 40)",
    )?;
    let after = products(client.query(wishes, &[])?);
    ensure!(before == after && before.len() == 5, "{before:?} {after:?}");
    Ok(())
}
