//! The harness keeps its own promises: clusters come up, survive a kill, and leave nothing behind.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lookbook_tests::Cluster;

fn data_folder(cluster: &Cluster) -> Result<PathBuf> {
    let row = cluster
        .connect("postgres", "postgres")?
        .query_one("SHOW data_directory", &[])?;
    Ok(row.get::<_, String>(0).into())
}

#[test]
fn a_cluster_opens_no_port_and_is_closed_to_other_users() -> Result<()> {
    let cluster = Cluster::shared()?;
    let database = cluster.empty_database("closed")?;
    assert_eq!(database.psql("SHOW listen_addresses")?, "");
    let folder = data_folder(cluster)?;
    let folder = folder.parent().context("the data folder has a parent")?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&folder.metadata()?.permissions());
    assert_eq!(mode & 0o777, 0o700);
    Ok(())
}

#[test]
fn committed_rows_survive_a_killed_postmaster() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let database = cluster.empty_database("survivor")?;
    database.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")?;
    cluster.kill_9()?;
    ensure!(
        database.connect().is_err(),
        "a killed server took a connection"
    );
    cluster.start_server()?;
    assert_eq!(database.psql("SELECT count(*) FROM t")?, "1000");
    Ok(())
}

#[test]
fn a_dropped_cluster_leaves_neither_process_nor_folder() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let postmaster = cluster.postmaster()?;
    let folder = data_folder(&cluster)?;
    drop(cluster);
    ensure!(!folder.exists(), "{} is still there", folder.display());
    ensure!(
        !PathBuf::from(format!("/proc/{postmaster}/exe")).exists(),
        "the server still runs"
    );
    Ok(())
}

#[test]
fn psql_reports_the_first_error_and_stops() -> Result<()> {
    let database = Cluster::shared()?.empty_database("stops")?;
    let output = database.try_psql("SELECT 1; SELECT 1/0; SELECT 2;")?;
    assert_eq!(output.stdout, "1\n");
    ensure!(
        output.stderr.contains("division by zero"),
        "psql said: {}",
        output.stderr
    );
    ensure!(!output.success);
    Ok(())
}
