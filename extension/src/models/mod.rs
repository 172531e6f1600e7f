//! Model rows: which model a call means, whether the calling role may use it, and its bytes.
//!
//! Every lookup is a query on `lookbook_model` as the calling role, so that row-level security
//! decides, also under SET ROLE and inside SECURITY DEFINER functions. Knows nothing of sessions.

pub(crate) mod check;
mod query;
mod shipped;

use crate::settings;
use crate::settings::errors::{self, UserError};
use lookbook_vision::Kind;
use lookbook_worker::Fingerprint;
use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_void};

/// A model that the current role may use.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) manifest: String,
}

/// What a statement sees of the database, and by which rights. Where all fields are equal, a query finds the same rows:
///
/// * within one transaction, whatever commits or aborts elsewhere moves `xmax` or shrinks the number of transactions in
///   progress, and whatever it writes itself moves `command`;
/// * a snapshot does not name its own transaction, so that two transactions of a session can have equal ones: they are
///   told apart by counting those that ended, as is what was rolled back to a savepoint;
/// * the catalogue (memberships of roles, policies, names) is read as it is now, whatever the snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sight {
    xmin: pg_sys::TransactionId,
    xmax: pg_sys::TransactionId,
    in_progress: u32,
    subtransactions: i32,
    command: pg_sys::CommandId,
    ended: u64,
    catalogue: (u64, pg_sys::CommandId),
    role: pg_sys::Oid,
    settings: u64,
}

impl Sight {
    /// Snapshot, role and settings of the running statement.
    pub(crate) fn current() -> Sight {
        // SAFETY: a function call always runs under an active snapshot, which stays until it returns.
        let snapshot = unsafe { &*pg_sys::GetActiveSnapshot() };
        // SAFETY: as any use of a table does; the rest reads variables.
        let (catalogue, role) = unsafe {
            pg_sys::AcceptInvalidationMessages();
            let changes = (
                pg_sys::SharedInvalidMessageCounter,
                pg_sys::GetCurrentCommandId(false),
            );
            (changes, pg_sys::GetUserId())
        };
        Sight {
            xmin: snapshot.xmin,
            xmax: snapshot.xmax,
            in_progress: snapshot.xcnt,
            subtransactions: snapshot.subxcnt,
            command: snapshot.curcid,
            ended: ENDED.get(),
            catalogue,
            role,
            settings: settings::generation(),
        }
    }
}

struct Resolved {
    sight: Sight,
    schema: pg_sys::Oid,
    kind: Kind,
    asked: Option<String>,
    model: Model,
}

thread_local! {
    /// Transactions of this session that ended, and its subtransactions that were rolled back.
    static ENDED: Cell<u64> = const { Cell::new(0) };
    /// The last models resolved: a statement asks for one or two, once per row.
    static RESOLVED: RefCell<Vec<Resolved>> = const { RefCell::new(Vec::new()) };
}
const RESOLVED_KEPT: usize = 4;

/// Called once, from `_PG_init`.
pub(crate) fn register() {
    // SAFETY: a backend has one thread while it loads a library.
    unsafe {
        pg_sys::RegisterXactCallback(Some(count_ended), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(count_rolled_back), std::ptr::null_mut());
    }
}

/// Whichever event it is: all of them belong to the end.
#[pg_guard]
unsafe extern "C-unwind" fn count_ended(_event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    ENDED.set(ENDED.get() + 1);
}

#[pg_guard]
unsafe extern "C-unwind" fn count_rolled_back(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        ENDED.set(ENDED.get() + 1);
    }
}

/// The model that `asked` names, or else the setting, or else the default of its kind.
/// `function`: any function of the extension; its schema is where the tables are.
pub(crate) fn resolve(
    kind: Kind,
    asked: Option<&str>,
    function: pg_sys::Oid,
) -> Result<Model, UserError> {
    let sight = Sight::current();
    // SAFETY: a catalogue lookup; the function is running, so it exists.
    let schema = unsafe { pg_sys::get_func_namespace(function) };
    let known = RESOLVED.with_borrow(|kept| {
        kept.iter()
            .find(|old| {
                old.sight == sight
                    && old.schema == schema
                    && old.kind == kind
                    && old.asked.as_deref() == asked
            })
            .map(|old| old.model.clone())
    });
    if let Some(model) = known {
        return Ok(model);
    }
    let model = look_up(kind, asked, &schema_name(schema))?;
    RESOLVED.with_borrow_mut(|kept| {
        kept.truncate(RESOLVED_KEPT - 1);
        kept.insert(
            0,
            Resolved {
                sight,
                schema,
                kind,
                asked: asked.map(str::to_owned),
                model: model.clone(),
            },
        );
    });
    Ok(model)
}

/// The name of the model that filled a column, `schema.table.column` as SQL names it, where that is recorded: the one
/// with the recorded bytes, else the one with the recorded name.
pub(crate) fn of_column(column: &str, function: pg_sys::Oid) -> Option<String> {
    // SAFETY: as in `resolve`.
    let schema = schema_name(unsafe { pg_sys::get_func_namespace(function) });
    let sql = statement(format!(
        "SELECT coalesce((SELECT m.name FROM {schema}.lookbook_model AS m WHERE m.sha256 OPERATOR(pg_catalog.=) c.model_sha256
                   ORDER BY m.name OPERATOR(pg_catalog.<>) c.model_name, m.name LIMIT 1), c.model_name)
         FROM pg_catalog.parse_ident($1) AS n (name) JOIN {schema}.lookbook_embedding_column AS c
           ON c.relation OPERATOR(pg_catalog.=) pg_catalog.to_regclass(
                pg_catalog.quote_ident(n.name[1]) OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(n.name[2]))
          AND c.attribute::pg_catalog.text OPERATOR(pg_catalog.=) n.name[3]"
    ));
    query::first_row(&sql, &[column], |row| row.value::<String>(1)).flatten()
}

/// The ONNX bytes of a model, as the current role sees it.
pub(crate) fn onnx(model: &Model, function: pg_sys::Oid) -> Result<Vec<u8>, UserError> {
    // SAFETY: as in `resolve`.
    let schema = schema_name(unsafe { pg_sys::get_func_namespace(function) });
    let sql = statement(format!(
        "SELECT onnx FROM {schema}.lookbook_model WHERE name OPERATOR(pg_catalog.=) $1"
    ));
    query::first_row(&sql, &[&model.name], |row| row.value::<Vec<u8>>(1))
        .flatten()
        .ok_or_else(|| missing(&model.name))
}

/// Bytes of a part of an ONNX file: what a backend holds of a model that it sends to the worker.
const PART_BYTES: u64 = 1 << 20;

/// The length of a model's ONNX file, as the current role sees it.
pub(crate) fn onnx_length(model: &Model, function: pg_sys::Oid) -> Result<u64, UserError> {
    // SAFETY: as in `resolve`.
    let schema = schema_name(unsafe { pg_sys::get_func_namespace(function) });
    let sql = statement(format!(
        "SELECT pg_catalog.octet_length(onnx) FROM {schema}.lookbook_model WHERE name OPERATOR(pg_catalog.=) $1"
    ));
    query::first_row(&sql, &[&model.name], |row| row.value::<i32>(1))
        .flatten()
        .and_then(|length| u64::try_from(length).ok())
        .ok_or_else(|| missing(&model.name))
}

/// Up to [`PART_BYTES`] of it from `offset` on. It is stored uncompressed, so that only these are read.
pub(crate) fn onnx_part(
    model: &Model,
    offset: u64,
    function: pg_sys::Oid,
) -> Result<Vec<u8>, UserError> {
    // SAFETY: as in `resolve`.
    let schema = schema_name(unsafe { pg_sys::get_func_namespace(function) });
    let sql = statement(format!(
        "SELECT pg_catalog.substring(onnx, {}, {PART_BYTES}) FROM {schema}.lookbook_model WHERE name OPERATOR(pg_catalog.=) $1",
        offset + 1
    ));
    query::first_row(&sql, &[&model.name], |row| row.value::<Vec<u8>>(1))
        .flatten()
        .ok_or_else(|| missing(&model.name))
}

fn look_up(kind: Kind, asked: Option<&str>, schema: &str) -> Result<Model, UserError> {
    let name = match asked.map(str::to_owned).or_else(|| settings::model(kind)) {
        Some(name) => name,
        None => default_name(kind, schema)?,
    };
    let sql = statement(format!(
        "SELECT kind, sha256, manifest::pg_catalog.text FROM {schema}.lookbook_model WHERE name OPERATOR(pg_catalog.=) $1"
    ));
    let row = query::first_row(&sql, &[&name], |row| {
        (
            row.value::<String>(1),
            row.value::<String>(2),
            row.value::<String>(3),
        )
    });
    let Some((Some(found_kind), Some(sha256), Some(manifest))) = row else {
        return Err(refusal(&name, schema));
    };
    if found_kind != kind.as_str() {
        return Err(wrong_kind(&name, &found_kind, kind));
    }
    Ok(Model {
        name,
        fingerprint: Fingerprint::new(&sha256, &manifest),
        manifest,
    })
}

fn default_name(kind: Kind, schema: &str) -> Result<String, UserError> {
    let sql = statement(format!(
        "SELECT name FROM {schema}.lookbook_default_model WHERE kind OPERATOR(pg_catalog.=) $1 ORDER BY shipped LIMIT 1"
    ));
    query::first_row(&sql, &[kind.as_str()], |row| row.value::<String>(1)).flatten().ok_or_else(|| {
        errors::error(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("there is no default {} model", kind.as_str()),
        )
        .set_hint("Import one with lookbook_model_import() and choose it with lookbook_model_default().")
    })
}

/// Raises what lookbook_model_refuse() says: whether the model is missing or not granted, and which
/// ones may be used.
fn refusal(name: &str, schema: &str) -> UserError {
    let sql = statement(format!(
        "SELECT {schema}.lookbook_model_refuse($1, change => false)"
    ));
    query::first_row(&sql, &[name], |_| ());
    missing(name)
}

fn missing(name: &str) -> UserError {
    errors::error(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("model \"{name}\" does not exist"),
    )
}

fn wrong_kind(name: &str, found: &str, wanted: Kind) -> UserError {
    errors::error(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!(
            "model \"{name}\" is of kind {found}, and this needs one of kind {}",
            wanted.as_str()
        ),
    )
    .set_hint(format!(
        "Name another model, here or in {}; SELECT name, kind FROM lookbook_model lists them.",
        settings::model_setting(wanted)
    ))
}

fn statement(sql: String) -> CString {
    CString::new(sql).unwrap_or_default()
}

fn schema_name(schema: pg_sys::Oid) -> String {
    // SAFETY: both functions return palloc'd or static NUL-terminated text; the schema exists.
    unsafe {
        let name = pg_sys::get_namespace_name(schema);
        CStr::from_ptr(pg_sys::quote_identifier(name))
            .to_string_lossy()
            .into_owned()
    }
}
