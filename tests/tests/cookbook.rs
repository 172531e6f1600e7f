//! Every query of `docs/cookbook.md` and `docs/getting-started.md` runs, as it stands, in psql on the shop of `make demo` and
//! finds something; those of the cookbook on a larger one as well, and by the index where they promise it.

mod index_support;

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use index_support::database;
use lookbook_tests::{Cluster, Database, check_output, loader, workspace};
use postgres::types::ToSql;

const SHOP: &str = include_str!("cookbook_shop.sql");
const FENCE: &str = "```";
/// How the pages write the customer's photo, for psql.
const PHOTO: &str = "decode(:'photo', 'base64')";

struct Recipe {
    line: usize,
    sql: String,
    by_index: bool,
    none_in_demo: bool,
}

impl Recipe {
    /// With the photo as a parameter, as an application sends it.
    fn statement(&self) -> String {
        let sql = self.sql.trim_end().trim_end_matches(';');
        sql.replace(PHOTO, "$1")
    }
}

/// What a server can be asked: the recipes of the cookbook without those of psql alone.
fn cookbook() -> Result<Vec<Recipe>> {
    let mut recipes = page("cookbook.md")?;
    recipes.retain(|recipe| !recipe.sql.starts_with('\\'));
    Ok(recipes)
}

fn page(name: &str) -> Result<Vec<Recipe>> {
    let file = workspace().join("docs").join(name);
    Ok(recipes(&fs::read_to_string(file)?))
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
                    none_in_demo: before.contains("*none in the demo*"),
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
    let recipes = cookbook()?;
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
        let sql = recipe.statement();
        let outcome = (|| -> Result<()> {
            let statement = client.prepare(&sql)?;
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
    let recipes = cookbook()?;
    let mut answer = |part: &str| -> Result<Vec<postgres::Row>> {
        let recipe = recipes
            .iter()
            .find(|recipe| recipe.sql.contains(part))
            .with_context(|| format!("a recipe with {part}"))?;
        client.query(&recipe.statement(), &[]).context("")
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
    let worn = answer("FROM lookbook_look_of('TOP-009') AS look\nJOIN")?;
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
            product != "TOP-001" && product != "TOP-010",
            "{product} is what was asked with"
        );
    }
    // What is worn with a product does not stand for it.
    answer("map_catalogue('sold'")?;
    answer("FUNCTION sold.")?;
    let like = answer("sold.similar_products('TOP-010', 5)")?;
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
        .batch_execute("SET lookbook.recall = 1; UPDATE photo SET width = 300 WHERE id % 3 = 0")?;
    let photo = fs::read(workspace().join("tests/catalogue/queries/red-tartan-shirt.jpg"))?;
    let recipes = cookbook()?;
    let recipe = |part: &str| -> Result<String> {
        let found = recipes.iter().find(|recipe| recipe.sql.contains(part));
        let found = found.with_context(|| format!("a recipe with {part}"))?;
        Ok(found.statement())
    };
    let products = |rows: Vec<postgres::Row>| -> Vec<String> {
        rows.iter().map(|row| row.get("product")).collect()
    };
    let truth = "SELECT n.sku AS product FROM lookbook_look_of('TOP-010') AS g, garment AS n JOIN photo AS p ON p.id = n.photo_id
        WHERE n.category = g.category AND p.width >= 400 AND n.score > 0.6 AND (n.sku <> 'TOP-010' OR $1)
        GROUP BY n.sku ORDER BY min(n.embedding <-> g.embedding) LIMIT 5";
    let expected = products(client.query(truth, &[&false])?);
    let found = products(client.query(&recipe("min(near.distance)")?, &[])?);
    ensure!(
        found == expected && found.len() == 5,
        "{found:?} {expected:?}"
    );
    client.batch_execute(&recipe("CREATE VIEW sure_garment")?)?;
    client.batch_execute(&recipe("map_catalogue('sure'")?)?;
    let expected = products(client.query(truth, &[&true])?);
    let found = products(client.query(&recipe("sure.nearest_products")?, &[])?);
    ensure!(
        found == expected && found.len() == 5,
        "{found:?} {expected:?}"
    );

    // Each garment has its own three, all of them in stock.
    let look = client.query(&recipe("FROM detect_query(")?, &[&photo])?;
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
    let before = products(client.query(&wishes, &[])?);
    client.batch_execute(
        "INSERT INTO garment (photo_id, sku, category, label, score, box, embedding)
           SELECT 4, 'TOP-001', 'upper', 'x', 0.5, '(1,1),(0,0)', (SELECT avg(embedding) FROM garment WHERE sku = 'TOP-001' AND category = 'upper')
           FROM generate_series(1, 40)",
    )?;
    let after = products(client.query(&wishes, &[])?);
    ensure!(before == after && before.len() == 5, "{before:?} {after:?}");
    Ok(())
}

/// The catalogue as `make demo` loads it, and the tables that its script makes of it.
fn demo_shop<'c>(cluster: &'c Cluster, name: &str) -> Result<Database<'c>> {
    let database = cluster.database(name)?;
    let catalogue = workspace().join("tests/catalogue/catalogue.csv");
    let mut load = loader()?;
    load.arg("load").arg(catalogue);
    load.args(["--map", "sells=category", "--no-pose"]);
    load.args(["--rejects", "/dev/null"]);
    check_output(load.args(["--database", &database.url()]))?;
    database.psql(&format!(
        "\\cd {}\n{}",
        workspace().display(),
        fs::read_to_string(workspace().join("scripts/shop.sql"))?
    ))?;
    Ok(database)
}

/// Types the blocks of a page into psql, in their order, after `first`; each that asks has to get rows.
fn type_page(database: &Database<'_>, first: &str, name: &str) -> Result<()> {
    let recipes = page(name)?;
    let mut typed = format!("{first}\n\\cd {}\n", workspace().display());
    for recipe in &recipes {
        typed += &format!("\\echo === line {}\n{}\n", recipe.line, recipe.sql);
    }
    let answers = database.psql(&typed).with_context(|| name.to_owned())?;
    let answers: Vec<&str> = answers.split("=== ").skip(1).collect();
    ensure!(answers.len() == recipes.len(), "{name}: {answers:?}");
    for (recipe, answer) in recipes.iter().zip(answers) {
        let mut lines = recipe.sql.lines();
        let asks = lines.any(|line| line.starts_with("SELECT") || line.starts_with("WITH"));
        ensure!(
            (answer.lines().count() > 1) != recipe.none_in_demo || !asks,
            "{name}: no rows, or some where it promises none, for\n{}",
            recipe.sql
        );
    }
    Ok(())
}

#[test]
fn the_pages_can_be_typed_into_psql_as_they_stand() -> Result<()> {
    let database = demo_shop(Cluster::shared()?, "cookbook_demo")?;
    let copy = "CREATE DATABASE cookbook_removal TEMPLATE cookbook_demo;\n\\c cookbook_removal";
    type_page(&database, copy, "operating.md")?;
    type_page(&database, "", "getting-started.md")?;
    type_page(&database, "", "cookbook.md")
}

/// The pages that a stranger reads.
fn documents() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in [
        "",
        "docs",
        "docs/clients",
        "models",
        "models/cards",
        "tests",
    ] {
        for entry in fs::read_dir(workspace().join(folder))? {
            files.push(entry?.path());
        }
    }
    files.retain(|file| file.extension().is_some_and(|name| name == "md"));
    Ok(files)
}

/// What can be linked to in a page, as GitHub names its headings: lower case, words joined by hyphens.
fn anchors(page: &str) -> BTreeSet<String> {
    let named = page.split("<a id=\"").skip(1);
    let named = named.filter_map(|rest| rest.split('"').next().map(str::to_owned));
    let headings = prose(page).filter_map(|line| line.strip_prefix('#'));
    let slug = |heading: &str| -> String {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    named.chain(headings.map(slug)).collect()
}

/// The lines outside of code blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    page.lines().filter(move |line| {
        inside ^= line.starts_with(FENCE);
        !inside
    })
}

#[test]
fn every_link_of_a_page_leads_somewhere() -> Result<()> {
    let (mut links, mut wrong) = (0, Vec::new());
    for file in documents()? {
        let page = fs::read_to_string(&file)?;
        let text: Vec<&str> = prose(&page).collect();
        for link in text.join("\n").split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => file.parent().context("a folder")?.join(path),
            };
            let leads = target.exists()
                && (anchor.is_empty() || anchors(&fs::read_to_string(&target)?).contains(anchor));
            if !leads {
                wrong.push(format!("{}: {link}", file.display()));
            }
        }
    }
    ensure!(links > 50 && wrong.is_empty(), "{links} links, {wrong:#?}");
    Ok(())
}
