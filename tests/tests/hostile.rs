//! Whatever bytes come in, the answer is a value or an error with an SQLSTATE of its own: no backend
//! dies, and no panic reaches a user (that would be XX000).

use std::fs;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use lookbook_tests::{Cluster, Random, workspace};
use postgres::Client;

/// Flips, cuts, repeats and inserts: a few times each.
fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.index(8) {
        let at = random.index(bytes.len().max(1));
        let byte = |random: &mut Random| random.next().to_le_bytes()[0];
        match random.index(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), byte(random)),
            2 => bytes.extend_from_within(at.min(bytes.len())..),
            _ if !bytes.is_empty() => bytes[at] = byte(random),
            _ => bytes.push(byte(random)),
        }
    }
}

fn backend(client: &mut Client) -> Result<i32> {
    Ok(client.query_one("SELECT pg_backend_pid()", &[])?.get(0))
}

/// The SQLSTATE of a refusal, which must be one that a user can act on.
fn refusal(error: &postgres::Error, what: &str) -> Result<String> {
    let error = error
        .as_db_error()
        .with_context(|| format!("the backend died of {what}: {error}"))?;
    ensure!(
        !error.code().code().starts_with("XX"),
        "{what} is an internal error: {error:?}"
    );
    Ok(error.code().code().to_owned())
}

#[test]
fn damaged_photos_are_values_or_refusals() -> Result<()> {
    let database = Cluster::shared()?.database("damaged_photos")?;
    let mut client = database.connect()?;
    let pid = backend(&mut client)?;
    let mut photos: Vec<_> = fs::read_dir(workspace().join("tests/catalogue/queries"))?
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .map(|entry| entry.path())
        .collect();
    photos.sort();
    let mut random = Random(20);
    let (mut values, mut refusals) = (0, 0);
    for round in 0..200 {
        let mut bytes = fs::read(&photos[round % photos.len()])?;
        damage(&mut random, &mut bytes);
        let embedded = client.query_one("SELECT embed_image($1)::text", &[&bytes]);
        match &embedded {
            Ok(_) => values += 1,
            Err(error) => {
                refusal(error, &format!("damaged photo {round}"))?;
                refusals += 1;
            }
        }
        let tried: Option<String> = client
            .query_one("SELECT try_embed_image($1)::text", &[&bytes])?
            .get(0);
        assert_eq!(
            tried,
            embedded.ok().map(|row| row.get(0)),
            "try_embed_image of {round}"
        );
    }
    ensure!(
        values > 0 && refusals > 0,
        "{values} values, {refusals} refusals: a one-sided test"
    );
    assert_eq!(backend(&mut client)?, pid);
    Ok(())
}

#[test]
fn literals_are_values_that_read_back_or_refusals() -> Result<()> {
    const PIECES: [&str; 20] = [
        "[", "]", ",", "1", "-2.5", "1e38", "1e39", "1e-46", "NaN", "infinity", " ", "\t", "0x1",
        "+", "e", "é", "]]", "[[", "1,2,3", "'",
    ];
    let database = Cluster::shared()?.database("literals")?;
    let mut client = database.connect()?;
    let pid = backend(&mut client)?;
    let mut random = Random(21);
    for _ in 0..3000 {
        let middle: String = (0..random.index(6))
            .map(|_| PIECES[random.index(PIECES.len())])
            .collect();
        let literal = if random.index(4) == 0 {
            middle
        } else {
            format!("[{middle}]")
        };
        match client.query_one("SELECT $1::text::embedding::text", &[&literal]) {
            Ok(row) => {
                let text: String = row.get(0);
                let again = client.query_one("SELECT $1::text::embedding::text", &[&text])?;
                assert_eq!(
                    again.get::<_, String>(0),
                    text,
                    "{literal} reads back differently"
                );
            }
            Err(error) => {
                let code = refusal(&error, &literal)?;
                ensure!(
                    code.starts_with("22") || code == "54000",
                    "{literal}: SQLSTATE {code}"
                );
            }
        }
    }
    assert_eq!(backend(&mut client)?, pid);
    Ok(())
}

/// One row of one field in the binary format of COPY.
fn copy_of(field: &[u8]) -> Vec<u8> {
    let mut bytes = b"PGCOPY\n\xff\r\n\0".to_vec();
    bytes.extend([0; 8]);
    bytes.extend(1_i16.to_be_bytes());
    bytes.extend(i32::try_from(field.len()).unwrap_or(i32::MAX).to_be_bytes());
    bytes.extend(field);
    bytes.extend((-1_i16).to_be_bytes());
    bytes
}

#[test]
fn damaged_binary_input_is_a_value_or_a_refusal() -> Result<()> {
    let database = Cluster::shared()?.database("binary_input")?;
    let mut client = database.connect()?;
    client.batch_execute("CREATE TABLE t (v embedding)")?;
    let pid = backend(&mut client)?;
    let mut good = vec![0, 3, 0, 0];
    for element in [1.0_f32, -2.0, 3.5] {
        good.extend(element.to_be_bytes());
    }
    let mut random = Random(22);
    let mut stored = 0;
    for round in 0..500 {
        let mut field = good.clone();
        if round > 0 {
            damage(&mut random, &mut field);
        }
        let mut writer = client.copy_in("COPY t FROM STDIN (FORMAT binary)")?;
        let sent = writer.write_all(&copy_of(&field));
        match sent
            .map_err(anyhow::Error::from)
            .and_then(|()| Ok(writer.finish()?))
        {
            Ok(rows) => stored += rows,
            Err(error) => {
                let error = error
                    .downcast_ref::<postgres::Error>()
                    .context("COPY broke off")?;
                refusal(error, &format!("binary input {field:?}"))?;
            }
        }
    }
    let row = client.query_one(
        "SELECT count(*), bool_and(v = v::text::embedding), bool_and(embedding_norm(v) < 'infinity') FROM t",
        &[],
    )?;
    assert_eq!(row.get::<_, i64>(0), i64::try_from(stored)?);
    ensure!(
        row.get::<_, bool>(1) && row.get::<_, bool>(2),
        "a stored value is not a value"
    );
    assert_eq!(backend(&mut client)?, pid);
    Ok(())
}

#[test]
fn what_the_page_revokes_keeps_every_model_from_who_is_granted_none() -> Result<()> {
    let page = fs::read_to_string(workspace().join("docs/security.md"))?;
    let narrowing = page
        .split_once("```sql\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .context("the page has no statements")?
        .0;
    let database = Cluster::shared()?.database("narrowed")?;
    let mut client = database.connect()?;
    client.batch_execute(
        "CREATE TABLE garment (id bigint, photo_id bigint, sku text, category text, label text, score real, box box,
                               embedding embedding);
         CREATE ROLE h_narrow LOGIN;
         GRANT SELECT ON garment TO h_narrow;
         GRANT CREATE ON SCHEMA public TO h_narrow",
    )?;
    // What takes bytes, an image or a model, with arguments that get as far as the bytes.
    let calls = "
        SELECT format('SELECT * FROM %s(%s)', p.oid::regproc,
          (SELECT string_agg(CASE t.type WHEN 'bytea'::regtype THEN quote_literal('\\x00') WHEN 'jsonb'::regtype THEN quote_literal('{}')
                             ELSE 'NULL' END || '::' || t.type::regtype, ', ' ORDER BY t.number)
           FROM unnest(p.proargtypes) WITH ORDINALITY AS t (type, number)))
        FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'lookbook'
        WHERE 'bytea'::regtype = ANY (p.proargtypes)";
    let calls: Vec<String> = client
        .query(calls, &[])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    ensure!(calls.len() > 10, "{calls:?}");
    client.batch_execute(narrowing)?;
    let mut narrow = database.connect_as("h_narrow")?;
    let others = [
        "INSERT INTO lookbook_model (name) VALUES ('m')",
        "UPDATE lookbook_model SET onnx = ''",
        "CREATE TABLE t (); CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION lookbook_model_validate()",
    ];
    for statement in calls.iter().map(String::as_str).chain(others) {
        let error = narrow
            .batch_execute(statement)
            .err()
            .with_context(|| format!("{statement} is allowed"))?;
        let message = error.as_db_error().map_or("", |error| error.message());
        ensure!(
            refusal(&error, statement)? == "42501"
                && (message.starts_with("permission denied for function")
                    || message == "permission denied for table lookbook_model"),
            "{statement}: {error:?}"
        );
    }
    client.batch_execute("DROP OWNED BY h_narrow; DROP ROLE h_narrow")?;
    Ok(())
}
