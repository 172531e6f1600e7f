//! A look into an ONNX file before ONNX Runtime sees it.
//!
//! Walks every message that can hold a tensor, a graph or an operator (onnx.proto of ONNX 1.23; field numbers are
//! stable), and refuses what must not be loaded: data that is no model, tensors kept in other files (a model row must
//! not read the server's files), operators of foreign domains.
//!
//! Invariant: what passes is read alike by ONNX Runtime. So every field must be one that onnx.proto has, of its wire
//! type, and not twice where it is single. Never recurses deeper than [`MAX_DEPTH`] graphs, never allocates in
//! proportion to the file.

use std::collections::HashSet;

use crate::error::Error;
use crate::protobuf::{Fields, Malformed, Value};

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
        Self::Broken("the data is not a complete protobuf message in its common form".to_owned())
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
    let mut checker = Checker {
        functions: HashSet::new(),
        depth: 0,
    };
    for field in Fields(onnx) {
        if let (25, Value::Bytes(function)) = field? {
            checker
                .functions
                .insert((text(function, 10)?, text(function, 1)?));
        }
    }
    checker.check(Message::Model, onnx)?;
    if field(onnx, 7).is_none() {
        return Err(Fault::Broken("it contains no graph".to_owned()));
    }
    if field(onnx, 8).is_none() {
        return Err(Fault::Broken("it names no operator set".to_owned()));
    }
    Ok(())
}

/// The messages of onnx.proto that hold tensors, graphs or operators, at any depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    TrainingInfo,
    Function,
}

/// What a field of a message holds.
#[derive(Clone, Copy)]
enum Holds {
    Number,
    Numbers,
    Float,
    Floats,
    Doubles,
    /// A text, bytes, or a message without anything to look for.
    Bytes,
    ManyBytes,
    One(Message),
    Many(Message),
}

impl Holds {
    /// By onnx.proto; `None` for a field that it does not have.
    fn of(message: Message, number: u32) -> Option<Self> {
        use Holds::{Bytes, Doubles, Float, Floats, Many, ManyBytes, Number, Numbers, One};
        use Message::{
            Attribute, Function, Graph, Model, Node, SparseTensor, Tensor, TrainingInfo,
        };
        Some(match (message, number) {
            (Model, 1 | 5) => Number,
            (Model, 2..=4 | 6) => Bytes,
            (Model, 7) => One(Graph),
            (Model, 8 | 14 | 26) => ManyBytes,
            (Model, 20) => Many(TrainingInfo),
            (Model, 25) => Many(Function),
            (Graph, 1) => Many(Node),
            (Graph, 2 | 10) => Bytes,
            (Graph, 5) => Many(Tensor),
            (Graph, 11..=14 | 16) => ManyBytes,
            (Graph, 15) => Many(SparseTensor),
            (Node, 1 | 2 | 9 | 10) => ManyBytes,
            (Node, 3 | 4 | 6..=8) => Bytes,
            (Node, 5) => Many(Attribute),
            (Attribute, 1 | 4 | 13 | 14 | 21) => Bytes,
            (Attribute, 2) => Float,
            (Attribute, 3 | 20) => Number,
            (Attribute, 5) => One(Tensor),
            (Attribute, 6) => One(Graph),
            (Attribute, 7) => Floats,
            (Attribute, 8) => Numbers,
            (Attribute, 9 | 15) => ManyBytes,
            (Attribute, 10) => Many(Tensor),
            (Attribute, 11) => Many(Graph),
            (Attribute, 22) => One(SparseTensor),
            (Attribute, 23) => Many(SparseTensor),
            (Tensor, 1 | 5 | 7 | 11) => Numbers,
            (Tensor, 2 | 14) => Number,
            (Tensor, 3 | 8 | 9 | 12) => Bytes,
            (Tensor, 4) => Floats,
            (Tensor, 6 | 13 | 16) => ManyBytes,
            (Tensor, 10) => Doubles,
            (SparseTensor, 1 | 2) => One(Tensor),
            (SparseTensor, 3) => Numbers,
            (TrainingInfo, 1 | 2) => One(Graph),
            (TrainingInfo, 3 | 4) => ManyBytes,
            (Function, 1 | 8 | 10 | 13) => Bytes,
            (Function, 4..=6 | 9 | 12 | 14) => ManyBytes,
            (Function, 7) => Many(Node),
            (Function, 11) => Many(Attribute),
            _ => return None,
        })
    }

    /// Whether a value of that wire type is read as such a field; several numbers may be packed into bytes.
    fn takes(self, value: &Value<'_>) -> bool {
        match value {
            Value::Number(_) => matches!(self, Self::Number | Self::Numbers),
            Value::Fixed32 => matches!(self, Self::Float | Self::Floats),
            Value::Fixed64 => matches!(self, Self::Doubles),
            Value::Bytes(_) => !matches!(self, Self::Number | Self::Float),
        }
    }

    fn is_single(self) -> bool {
        matches!(
            self,
            Self::Number | Self::Float | Self::Bytes | Self::One(_)
        )
    }
}

struct Checker<'a> {
    /// Domain and name of the functions that the model brings along.
    functions: HashSet<(&'a str, &'a str)>,
    /// Graphs around the message that is looked at.
    depth: usize,
}

impl Checker<'_> {
    fn check(&mut self, message: Message, bytes: &[u8]) -> Result<(), Fault> {
        // Bit by field number; onnx.proto's are below 32.
        let mut seen = 0_u32;
        for field in Fields(bytes) {
            let (number, value) = field?;
            let holds = Holds::of(message, number).ok_or_else(|| {
                Fault::Refused(
                    format!("a {message:?} in it has field {number}, which ONNX does not have"),
                    "export it again, or save it with the Python package \"onnx\"",
                )
            })?;
            if !holds.takes(&value) {
                return Err(Fault::Broken(format!(
                    "field {number} of a {message:?} in it has another type than in ONNX"
                )));
            }
            if holds.is_single() && seen & 1 << number != 0 {
                return Err(Fault::Broken(format!(
                    "field {number} of a {message:?} in it comes twice"
                )));
            }
            seen |= 1 << number;
            match (message, number, value) {
                // external_data, or a data_location that is not DEFAULT
                (Message::Tensor, 13, _) | (Message::Tensor, 14, Value::Number(1..)) => {
                    return Err(Fault::Refused(
                        "it keeps its weights in another file".to_owned(),
                        "save it as one file (onnx.save_model(model, path, save_as_external_data=False))",
                    ));
                }
                (_, _, Value::Bytes(bytes)) => match holds {
                    Holds::One(Message::Graph) | Holds::Many(Message::Graph) => {
                        self.check_graph(bytes)?;
                    }
                    Holds::One(inner) | Holds::Many(inner) => self.check(inner, bytes)?,
                    _ => {}
                },
                _ => {}
            }
        }
        match message {
            Message::Node => self.check_operator(text(bytes, 7)?, text(bytes, 4)?),
            _ => Ok(()),
        }
    }

    fn check_graph(&mut self, graph: &[u8]) -> Result<(), Fault> {
        // The model's own graph is around all others.
        if self.depth > MAX_DEPTH {
            return Err(Fault::Refused(
                format!("its graphs are nested more than {MAX_DEPTH} deep"),
                "export it with fewer conditions and loops within each other",
            ));
        }
        self.depth += 1;
        self.check(Message::Graph, graph)?;
        self.depth -= 1;
        Ok(())
    }

    fn check_operator(&self, domain: &str, operator: &str) -> Result<(), Fault> {
        if REFUSED_OPERATORS.contains(&operator) {
            return Err(Fault::Refused(
                format!("it uses operator \"{operator}\", which refers to files outside the model"),
                "export it as plain ONNX",
            ));
        }
        if !DOMAINS.contains(&domain) && !self.functions.contains(&(domain, operator)) {
            return Err(Fault::Refused(
                format!(
                    "it uses operator \"{operator}\" of the custom domain \"{domain}\", which needs a plug-in"
                ),
                "export it with standard ONNX operators",
            ));
        }
        Ok(())
    }
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
fn field(message: &[u8], number: u32) -> Option<&[u8]> {
    Fields(message).find_map(|found| match found.ok()? {
        (at, Value::Bytes(bytes)) if at == number => Some(bytes),
        _ => None,
    })
}

/// The last value of a string field, or "" as protobuf has it.
fn text(message: &[u8], number: u32) -> Result<&str, Fault> {
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
