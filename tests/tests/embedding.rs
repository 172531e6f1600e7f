//! The type embedding beyond what psql can say: binary form on the wire and in COPY, bytes from
//! hostile clients, and texts that equal those of `real`.

use anyhow::{Result, ensure};
use lookbook_tests::Cluster;
use postgres::Client;
use postgres::types::{FromSql, IsNull, ToSql, Type};
use std::error::Error;
use std::io::{Read, Write};

/// An embedding in its binary form, whatever it holds.
#[derive(Debug, PartialEq)]
struct Wire(Vec<u8>);

impl Wire {
    fn of(elements: &[f32]) -> Self {
        let mut bytes = (elements.len() as u16).to_be_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(elements.iter().flat_map(|element| element.to_be_bytes()));
        Wire(bytes)
    }
}

impl ToSql for Wire {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut postgres::types::private::BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        ty.name() == "embedding"
    }

    postgres::types::to_sql_checked!();
}

impl<'a> FromSql<'a> for Wire {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Wire(raw.to_vec()))
    }

    fn accepts(ty: &Type) -> bool {
        ty.name() == "embedding"
    }
}

#[test]
fn binary_parameters_and_results_have_pgvectors_bytes() -> Result<()> {
    let database = Cluster::shared()?.database("embedding_wire")?;
    let mut client = database.connect()?;
    for elements in [vec![1.5], vec![-0.0, 1e-45, 3.4e38], vec![0.25; 16_000]] {
        let sent = Wire::of(&elements);
        let row = client.query_one("SELECT $1::embedding, embedding_dims($1)", &[&sent])?;
        assert_eq!(row.get::<_, Wire>(0), sent);
        assert_eq!(row.get::<_, i32>(1) as usize, elements.len());
    }
    Ok(())
}

#[test]
fn a_hostile_message_is_an_error_and_the_connection_lives() -> Result<()> {
    let database = Cluster::shared()?.database("embedding_hostile")?;
    let mut client = database.connect()?;
    let cases: [(&[u8], &str, &str); 10] = [
        (&[], "08P01", "insufficient data left in message"),
        (&[0, 1], "08P01", "insufficient data left in message"),
        (
            &[0, 2, 0, 0, 0, 0, 0, 0],
            "08P01",
            "insufficient data left in message",
        ),
        (
            &[0, 0, 0, 0],
            "22000",
            "embedding must have at least 1 dimension",
        ),
        (
            &[0x3e, 0x81, 0, 0],
            "54000",
            "embedding cannot have more than 16000 dimensions",
        ),
        (
            &[0xff, 0xff, 0, 0],
            "22000",
            "embedding must have at least 1 dimension",
        ),
        (
            &[0, 1, 0, 1, 0, 0, 0, 0],
            "22000",
            "expected unused to be 0, not 1",
        ),
        (
            &[0, 1, 0, 0, 0x7f, 0xc0, 0, 0],
            "22000",
            "NaN not allowed in embedding",
        ),
        (
            &[0, 1, 0, 0, 0x7f, 0x80, 0, 0],
            "22000",
            "infinite value not allowed in embedding",
        ),
        (
            &[0, 1, 0, 0, 0, 0, 0, 0, 9],
            "22P03",
            "incorrect binary data format in bind parameter 1",
        ),
    ];
    for (bytes, code, message) in cases {
        let Err(error) = client.query_one("SELECT $1::embedding", &[&Wire(bytes.to_vec())]) else {
            anyhow::bail!("{bytes:?} was accepted");
        };
        let error = error.as_db_error().expect("an error of the server");
        assert_eq!(
            (error.code().code(), error.message()),
            (code, message),
            "{bytes:?}"
        );
    }
    assert_eq!(client.query_one("SELECT 1", &[])?.get::<_, i32>(0), 1);
    Ok(())
}

#[test]
fn binary_copy_gives_back_what_it_took() -> Result<()> {
    let database = Cluster::shared()?.database("embedding_copy")?;
    let mut client = database.connect()?;
    client.batch_execute(
        "CREATE TABLE source (id int, v embedding(3));
         CREATE TABLE target (LIKE source);
         INSERT INTO source VALUES (1, '[0,0,0]'), (2, NULL), (3, '[1e-45,-3.4e38,-0]');
         CREATE TABLE narrow (id int, v embedding(2))",
    )?;
    let copied = copy_out(&mut client, "COPY source TO STDOUT (FORMAT binary)")?;
    copy_in(
        &mut client,
        "COPY target FROM STDIN (FORMAT binary)",
        &copied,
    )?;
    let differing = "SELECT count(*) FROM (SELECT id, v::text FROM source
                     EXCEPT SELECT id, v::text FROM target) AS lost";
    assert_eq!(client.query_one(differing, &[])?.get::<_, i64>(0), 0);

    let refused = copy_in(
        &mut client,
        "COPY narrow FROM STDIN (FORMAT binary)",
        &copied,
    );
    let message = format!("{:?}", refused.expect_err("three dimensions into two"));
    ensure!(
        message.contains("expected 2 dimensions, not 3"),
        "{message}"
    );
    Ok(())
}

#[test]
fn texts_of_any_float_are_those_of_real_and_read_back() -> Result<()> {
    let database = Cluster::shared()?.database("embedding_digits")?;
    let mut client = database.connect()?;
    // Every exponent with random mantissas; xorshift, so that every run sees the same.
    let mut state = 2_463_534_242_u32;
    let mut floats = Vec::new();
    while floats.len() < 200_000 {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let float = f32::from_bits(state);
        // Half of them with few bits set: those lie in the middle between short decimals.
        let float = if floats.len() % 2 == 0 {
            float
        } else {
            f32::from_bits(state & 0xffff_0000)
        };
        if float.is_finite() {
            floats.push(float);
        }
    }
    for chunk in floats.chunks(10_000) {
        let row = client.query_one(
            "SELECT $1::real[]::embedding::text = translate($1::real[]::text, '{}', '[]'),
                    $1::real[]::embedding::text::embedding::real[]::text = $1::real[]::text",
            &[&chunk],
        )?;
        assert_eq!((row.get(0), row.get(1)), (true, true));
    }
    Ok(())
}

fn copy_out(client: &mut Client, sql: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    client.copy_out(sql)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn copy_in(client: &mut Client, sql: &str, bytes: &[u8]) -> Result<u64> {
    let mut writer = client.copy_in(sql)?;
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

#[test]
fn equal_embeddings_have_one_hash_and_are_joined_grouped_and_partitioned_by_it() -> Result<()> {
    let database = Cluster::shared()?.database("embedding_hash")?;
    let mut client = database.connect()?;
    client.batch_execute(
        "CREATE TABLE item (n int, v embedding(2)) PARTITION BY HASH (v);
         CREATE TABLE item_0 PARTITION OF item FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE item_1 PARTITION OF item FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO item SELECT n, ARRAY[n % 50, 1]::real[]::embedding FROM generate_series(1, 500) n;
         INSERT INTO item VALUES (501, '[-0,1]'), (502, '[0,1]'); ANALYZE item;
         SET enable_mergejoin = off; SET enable_nestloop = off; SET enable_sort = off",
    )?;
    let row = client.query_one(
        "SELECT (SELECT count(*) FROM item_0), (SELECT count(*) FROM item_1),
           (SELECT count(*) FROM (SELECT DISTINCT v FROM item) d), (SELECT count(*) FROM item a JOIN item b USING (v)),
           embedding_hash('[0]') = embedding_hash('[0,0]'), embedding_hash_extended('[-0,1]', 7) = embedding_hash_extended('[0,1]', 7)",
        &[],
    )?;
    let counts: [i64; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    ensure!(
        counts[0] > 50 && counts[1] > 50 && counts[2..] == [50, 49 * 100 + 144],
        "{counts:?}"
    );
    ensure!(!row.get::<_, bool>(4) && row.get::<_, bool>(5));
    let plan = client.query("EXPLAIN SELECT FROM item a JOIN item b USING (v)", &[])?;
    let first: String = plan[0].get(0);
    ensure!(first.contains("Hash Join"), "{first}");
    Ok(())
}

#[test]
fn input_can_be_asked_whether_it_is_valid() -> Result<()> {
    let database = Cluster::shared()?.database("embedding_soft")?;
    let mut client = database.connect()?;
    let version: i32 = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])?
        .get(0);
    if version < 160_000 {
        return Ok(());
    }
    for (literal, sql_type, message, code) in [
        ("[1,2]", "embedding(2)", "", ""),
        (
            "[1,2",
            "embedding",
            "invalid input syntax for type embedding: \"[1,2\"",
            "22P02",
        ),
        (
            "[1,2]",
            "embedding(3)",
            "expected 3 dimensions, not 2",
            "22000",
        ),
        (
            "[1e99]",
            "embedding",
            "\"1e99\" is out of range for type embedding",
            "22003",
        ),
    ] {
        let row = client.query_one(
            "SELECT pg_input_is_valid($1, $2), coalesce(message, ''), coalesce(sql_error_code, '') FROM pg_input_error_info($1, $2)",
            &[&literal, &sql_type],
        )?;
        let found: (bool, String, String) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(
            found,
            (message.is_empty(), message.to_owned(), code.to_owned())
        );
    }
    Ok(())
}
