//! A look into an ONNX file before ONNX Runtime sees it.
//!
//! Reads just enough of the protobuf form (onnx.proto of ONNX 1.16; field numbers are stable) to
//! refuse what must not be loaded: data that is no model, tensors kept in other files (a model row
//! must not read the server's files), operators of foreign domains. Never recurses deeper than
//! [`MAX_DEPTH`], never allocates in proportion to the file.

use std::collections::HashSet;

use crate::error::Error;

/// The most that one `bytea` value can hold.
const MAX_BYTES: usize = 1 << 30;
/// Graphs within attributes (`If`, `Loop`) of graphs; real models nest two or three deep.
const MAX_DEPTH: usize = 16;
/// Domains whose operators every ONNX Runtime brings along.
const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];
/// Operators of known domains that refer to files or foreign binaries.
const REFUSED_OPERATORS: [&str; 1] = ["EPContext"];

/// Why a model is refused: broken, or sound but not for us.
enum Fault {
    Broken(String),
    /// Why, and what to do.
    Refused(String, &'static str),
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Broken("the data is not a complete protobuf message".to_owned())
    }
}

/// Checks `onnx` without loading it; `model` names it in errors.
///
/// # Errors
/// [`Error::ModelInvalid`] for what is no whole ONNX file, [`Error::ModelUnsupported`] for one that refers to other files or
/// to operators of its own.
pub fn check(model: &str, onnx: &[u8]) -> Result<(), Error> {
    check_bytes(onnx).map_err(|fault| match fault {
        Fault::Broken(reason) => Error::ModelInvalid {
            model: model.to_owned(),
            reason,
        },
        Fault::Refused(reason, remedy) => Error::ModelUnsupported {
            model: model.to_owned(),
            reason,
            remedy,
        },
    })
}

fn check_bytes(onnx: &[u8]) -> Result<(), Fault> {
    if onnx.is_empty() {
        return Err(Fault::Broken("the file is empty".to_owned()));
    }
    if onnx.len() > MAX_BYTES {
        return Err(Fault::Refused(
            format!(
                "the file has {} bytes, the limit is {MAX_BYTES}",
                onnx.len()
            ),
            "use a smaller or a quantised model",
        ));
    }
    let mut graph = None;
    let mut has_opset = false;
    let mut functions = Vec::new();
    for field in Fields(onnx) {
        match field? {
            (7, Value::Bytes(bytes)) => graph = Some(bytes),
            (8, Value::Bytes(_)) => has_opset = true,
            (25, Value::Bytes(bytes)) => functions.push(bytes),
            _ => {}
        }
    }
    let graph = graph.ok_or_else(|| Fault::Broken("it contains no graph".to_owned()))?;
    if !has_opset {
        return Err(Fault::Broken("it names no operator set".to_owned()));
    }
    let mut local = HashSet::new();
    for function in &functions {
        local.insert((text(function, 10)?, text(function, 1)?));
    }
    for function in &functions {
        check_nodes(function, 7, &local, 0)?;
    }
    check_graph(graph, &local, 0)
}

type LocalFunctions<'a> = HashSet<(&'a str, &'a str)>;

fn check_graph(graph: &[u8], local: &LocalFunctions<'_>, depth: usize) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::Refused(
            format!("its graphs are nested more than {MAX_DEPTH} deep"),
            "export it with fewer conditions and loops within each other",
        ));
    }
    for field in Fields(graph) {
        match field? {
            (5, Value::Bytes(tensor)) => check_tensor(tensor)?,
            (15, Value::Bytes(sparse)) => check_sparse(sparse)?,
            _ => {}
        }
    }
    check_nodes(graph, 1, local, depth)
}

/// Checks the nodes in field `number` of a graph or function.
fn check_nodes(
    owner: &[u8],
    number: u64,
    local: &LocalFunctions<'_>,
    depth: usize,
) -> Result<(), Fault> {
    for field in Fields(owner) {
        if let (found, Value::Bytes(node)) = field?
            && found == number
        {
            check_operator(text(node, 7)?, text(node, 4)?, local)?;
            for field in Fields(node) {
                if let (5, Value::Bytes(attribute)) = field? {
                    check_attribute(attribute, local, depth)?;
                }
            }
        }
    }
    Ok(())
}

fn check_operator(domain: &str, operator: &str, local: &LocalFunctions<'_>) -> Result<(), Fault> {
    if local.contains(&(domain, operator)) {
        return Ok(());
    }
    if !DOMAINS.contains(&domain) {
        return Err(Fault::Refused(
            format!(
                "it uses operator \"{operator}\" of the custom domain \"{domain}\", which needs a plug-in"
            ),
            "export it with standard ONNX operators",
        ));
    }
    if REFUSED_OPERATORS.contains(&operator) {
        return Err(Fault::Refused(
            format!("it uses operator \"{operator}\", which refers to files outside the model"),
            "export it as plain ONNX",
        ));
    }
    Ok(())
}

fn check_attribute(
    attribute: &[u8],
    local: &LocalFunctions<'_>,
    depth: usize,
) -> Result<(), Fault> {
    for field in Fields(attribute) {
        match field? {
            (5 | 10, Value::Bytes(tensor)) => check_tensor(tensor)?,
            (6 | 11, Value::Bytes(graph)) => check_graph(graph, local, depth + 1)?,
            (22 | 23, Value::Bytes(sparse)) => check_sparse(sparse)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_sparse(sparse: &[u8]) -> Result<(), Fault> {
    for field in Fields(sparse) {
        if let (1 | 2, Value::Bytes(tensor)) = field? {
            check_tensor(tensor)?;
        }
    }
    Ok(())
}

fn check_tensor(tensor: &[u8]) -> Result<(), Fault> {
    for field in Fields(tensor) {
        // external_data, or data_location = EXTERNAL
        if let (13, _) | (14, Value::Number(1)) = field? {
            return Err(Fault::Refused(
                "it keeps its weights in another file".to_owned(),
                "save it as one file (onnx.save_model(model, path, save_as_external_data=False))",
            ));
        }
    }
    Ok(())
}

/// The name of the first axis of an input, where the file gives it one: then its size is free.
pub fn first_axis<'a>(onnx: &'a [u8], input: &str) -> Option<&'a str> {
    let graph = field(onnx, 7)?;
    let declared = Fields(graph).find_map(|found| match found.ok()? {
        (11, Value::Bytes(declared)) if text(declared, 1).ok()? == input => Some(declared),
        _ => None,
    })?;
    // type, tensor_type, shape, dim: the first of each.
    let axis = [2, 1, 2, 1].into_iter().try_fold(declared, field)?;
    text(axis, 2).ok().filter(|name| !name.is_empty())
}

/// Whether the model has values in integers that stand for numbers in float.
pub fn is_in_integers(onnx: &[u8]) -> bool {
    let nodes = field(onnx, 7).map(Fields).into_iter().flatten();
    nodes.flatten().any(|found| match found {
        (1, Value::Bytes(node)) => {
            text(node, 4).is_ok_and(|operator| operator == "DequantizeLinear")
        }
        _ => false,
    })
}

/// The first value of a field that holds bytes.
fn field(message: &[u8], number: u64) -> Option<&[u8]> {
    Fields(message).find_map(|found| match found.ok()? {
        (at, Value::Bytes(bytes)) if at == number => Some(bytes),
        _ => None,
    })
}

/// The last value of a string field, or "" as protobuf has it.
fn text(message: &[u8], number: u64) -> Result<&str, Fault> {
    let mut found = "";
    for field in Fields(message) {
        if let (at, Value::Bytes(bytes)) = field?
            && at == number
        {
            found = std::str::from_utf8(bytes).map_err(|_| Malformed)?;
        }
    }
    Ok(found)
}

#[derive(Debug)]
struct Malformed;

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of one protobuf message, in file order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed),
        };
        if key >> 3 == 0 {
            Err(Malformed)
        } else {
            Ok((key >> 3, value))
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}
