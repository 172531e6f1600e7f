//! Writes tiny ONNX files: just enough of the protobuf to make models that are good, slow or broken.
//!
//! Field numbers are those of `onnx.proto` (ONNX 1.16, IR version 8, operator set 13).

/// One protobuf message under construction.
#[derive(Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    fn message(self, field: u64, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }

    fn each<T>(self, items: impl IntoIterator<Item = T>, add: impl Fn(Self, T) -> Self) -> Self {
        items.into_iter().fold(self, add)
    }
}

const FLOAT: i64 = 1;
const INT64: i64 = 7;
const BOOL: i64 = 9;

/// A dimension: a fixed size, or a name for one that varies.
#[derive(Clone, Copy)]
pub enum Dim {
    Fixed(i64),
    Named(&'static str),
}

fn value_info(name: &str, element: i64, shape: &[Dim]) -> Message {
    let shape = Message::default().each(shape, |shape, dim| {
        let dim = match dim {
            Dim::Fixed(size) => Message::default().number(1, *size),
            Dim::Named(name) => Message::default().text(2, name),
        };
        shape.message(1, &dim)
    });
    let tensor = Message::default().number(1, element).message(2, &shape);
    Message::default()
        .text(1, name)
        .message(2, &Message::default().message(1, &tensor))
}

fn node(operator: &str, inputs: &[&str], outputs: &[&str], attributes: &[Message]) -> Message {
    Message::default()
        .each(inputs, |node, name| node.text(1, name))
        .each(outputs, |node, name| node.text(2, name))
        .text(4, operator)
        .each(attributes, |node, attribute| node.message(5, attribute))
}

fn integer_attribute(name: &str, value: i64) -> Message {
    Message::default()
        .text(1, name)
        .number(3, value)
        .number(20, 2)
}

fn graph_attribute(name: &str, value: &Message) -> Message {
    Message::default()
        .text(1, name)
        .message(6, value)
        .number(20, 5)
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> Message {
    let raw: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    Message::default()
        .each(dims, |tensor, dim| tensor.number(1, *dim))
        .number(2, FLOAT)
        .text(8, name)
        .bytes(9, &raw)
}

fn graph(
    nodes: &[Message],
    initializers: &[Message],
    inputs: &[Message],
    outputs: &[Message],
) -> Message {
    Message::default()
        .each(nodes, |graph, node| graph.message(1, node))
        .text(2, "graph")
        .each(initializers, |graph, tensor| graph.message(5, tensor))
        .each(inputs, |graph, input| graph.message(11, input))
        .each(outputs, |graph, output| graph.message(12, output))
}

fn model(graph: &Message) -> Vec<u8> {
    let operator_set = Message::default().text(1, "").number(2, 13);
    Message::default()
        .number(1, 8)
        .message(8, &operator_set)
        .message(7, graph)
        .0
}

fn image(batch: Dim, side: i64) -> Message {
    value_info(
        "image",
        FLOAT,
        &[batch, Dim::Fixed(3), Dim::Fixed(side), Dim::Fixed(side)],
    )
}

fn embedding() -> Message {
    value_info("embedding", FLOAT, &[Dim::Named("n"), Dim::Fixed(3)])
}

/// Input side in pixels of every model here.
pub const SIDE: i64 = 16;

/// `output`: what `pool` makes of the planes of the image, flat.
fn pooled(pool: &str, output: &str) -> [Message; 2] {
    [
        node(pool, &["image"], &["pooled"], &[]),
        node(
            "Flatten",
            &["pooled"],
            &[output],
            &[integer_attribute("axis", 1)],
        ),
    ]
}

/// Three dimensions: what `pool` (`GlobalAveragePool`, `GlobalMaxPool`, or an operator that does not
/// exist) makes of the red, green and blue planes.
pub fn embedder(pool: &str) -> Vec<u8> {
    let nodes = pooled(pool, "embedding");
    model(&graph(
        &nodes,
        &[],
        &[image(Dim::Named("n"), SIDE)],
        &[embedding()],
    ))
}

/// Three dimensions: `factor` times the average of the red, green and blue planes.
pub fn scaled_embedder(factor: f32) -> Vec<u8> {
    let [pool, flatten] = pooled("GlobalAveragePool", "flat");
    let nodes = [
        pool,
        flatten,
        node("Mul", &["flat", "factor"], &["embedding"], &[]),
    ];
    model(&graph(
        &nodes,
        &[floats("factor", &[1], &[factor])],
        &[image(Dim::Named("n"), SIDE)],
        &[embedding()],
    ))
}

/// As `embedder("GlobalAveragePool")`, minus the mean of the batch: as batch norm in training mode would have it.
pub fn leaky_embedder() -> Vec<u8> {
    let [pool, flatten] = pooled("GlobalAveragePool", "flat");
    let axes = Message::default()
        .text(1, "axes")
        .number(8, 0)
        .number(20, 7);
    let nodes = [
        pool,
        flatten,
        node("ReduceMean", &["flat"], &["mean"], &[axes]),
        node("Sub", &["flat", "mean"], &["embedding"], &[]),
    ];
    model(&graph(
        &nodes,
        &[],
        &[image(Dim::Named("n"), SIDE)],
        &[embedding()],
    ))
}

/// As `embedder("GlobalAveragePool")`, by way of planes of `side` × `side` values: 12 bytes each.
pub fn wide_embedder(side: i64) -> Vec<u8> {
    let shape: Vec<u8> = [1, 3, side, side]
        .iter()
        .flat_map(|size: &i64| size.to_le_bytes())
        .collect();
    let [pool, _] = pooled("GlobalAveragePool", "");
    let nodes = [
        pool,
        node("Expand", &["pooled", "shape"], &["wide"], &[]),
        node("GlobalAveragePool", &["wide"], &["again"], &[]),
        node(
            "Flatten",
            &["again"],
            &["embedding"],
            &[integer_attribute("axis", 1)],
        ),
    ];
    let shape = Message::default()
        .number(1, 4)
        .number(2, INT64)
        .text(8, "shape")
        .bytes(9, &shape);
    model(&graph(
        &nodes,
        &[shape],
        &[image(Dim::Named("n"), SIDE)],
        &[embedding()],
    ))
}

/// As `embedder("GlobalAveragePool")`, after `rounds` rounds of a loop that changes nothing but time.
pub fn slow_embedder(rounds: i64) -> Vec<u8> {
    let scalar = |name: &str, element: i64| value_info(name, element, &[]);
    let body = graph(
        &[
            node("Identity", &["go_in"], &["go_out"], &[]),
            node("Cos", &["waste_in"], &["waste_out"], &[]),
        ],
        &[],
        &[
            scalar("round", INT64),
            scalar("go_in", BOOL),
            embedding_like("waste_in"),
        ],
        &[scalar("go_out", BOOL), embedding_like("waste_out")],
    );
    let [pool, flatten] = pooled("GlobalAveragePool", "flat");
    let nodes = [
        pool,
        flatten,
        node(
            "Loop",
            &["rounds", "go", "flat"],
            &["wasted"],
            &[graph_attribute("body", &body)],
        ),
        node("Mul", &["wasted", "zero"], &["nothing"], &[]),
        node("Add", &["flat", "nothing"], &["embedding"], &[]),
    ];
    let initializers = [
        Message::default()
            .number(2, INT64)
            .text(8, "rounds")
            .bytes(9, &rounds.to_le_bytes()),
        Message::default()
            .number(2, BOOL)
            .text(8, "go")
            .bytes(9, &[1]),
        floats("zero", &[1], &[0.0]),
    ];
    model(&graph(
        &nodes,
        &initializers,
        &[image(Dim::Named("n"), SIDE)],
        &[embedding()],
    ))
}

/// As `embedder("GlobalAveragePool")`, after one operator that takes days: which of two million boxes, none of which touches
/// another, are left of the overlapping ones.
pub fn stuck_embedder() -> Vec<u8> {
    let shape = |name: &str, sizes: &[i64]| {
        let raw: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        Message::default()
            .number(1, sizes.len() as i64)
            .number(2, INT64)
            .text(8, name)
            .bytes(9, &raw)
    };
    let [pool, flatten] = pooled("GlobalAveragePool", "flat");
    let nodes = [
        pool,
        flatten,
        // How many hangs on the image, so that it is not computed when the model is opened.
        largest("image", "brightest"),
        node("Mul", &["brightest", "zero"], &["nothing"], &[]),
        node("Add", &["count", "nothing"], &["end"], &[]),
        node("Range", &["zero", "end", "one"], &["starts"], &[]),
        node("Add", &["starts", "half"], &["ends"], &[]),
        node("Reshape", &["starts", "column"], &["low"], &[]),
        node("Reshape", &["ends", "column"], &["high"], &[]),
        node(
            "Concat",
            &["low", "low", "high", "high"],
            &["boxes"],
            &[integer_attribute("axis", 2)],
        ),
        node("Reshape", &["starts", "row"], &["scores"], &[]),
        node(
            "NonMaxSuppression",
            &["boxes", "scores", "most", "half"],
            &["kept"],
            &[],
        ),
        node(
            "Cast",
            &["kept"],
            &["numbers"],
            &[integer_attribute("to", FLOAT)],
        ),
        largest("numbers", "largest"),
        node("Mul", &["largest", "zero"], &["no_more"], &[]),
        node("Add", &["flat", "no_more"], &["embedding"], &[]),
    ];
    let initializers = [
        floats("zero", &[], &[0.0]),
        floats("one", &[], &[1.0]),
        floats("half", &[], &[0.5]),
        floats("count", &[], &[2e6]),
        shape("column", &[1, -1, 1]),
        shape("row", &[1, 1, -1]),
        shape("most", &[1 << 40]),
    ];
    model(&graph(
        &nodes,
        &initializers,
        &[image(Dim::Named("n"), SIDE)],
        &[embedding()],
    ))
}

/// The largest value of all, without axes.
fn largest(input: &str, output: &str) -> Message {
    node(
        "ReduceMax",
        &[input],
        &[output],
        &[integer_attribute("keepdims", 0)],
    )
}

fn embedding_like(name: &str) -> Message {
    value_info(name, FLOAT, &[Dim::Named("n"), Dim::Fixed(3)])
}

/// A YOLO-shaped detector of two labels that finds the same two boxes in every image: the left half
/// (first label, 0.9) and the lower right quarter (second label, 0.8).
pub fn detector() -> Vec<u8> {
    let side = SIDE as f32;
    let rows = [
        [side / 4.0, side * 0.75], // centre x of both boxes
        [side / 2.0, side * 0.75], // centre y
        [side / 2.0, side / 2.0],  // width
        [side, side / 2.0],        // height
        [0.9, 0.0],                // first label
        [0.0, 0.8],                // second label
    ];
    let nodes = [
        largest("image", "brightest"),
        node("Mul", &["brightest", "zero"], &["nothing"], &[]),
        node("Add", &["found", "nothing"], &["boxes"], &[]),
    ];
    let initializers = [
        floats("found", &[1, 6, 2], rows.as_flattened()),
        floats("zero", &[1], &[0.0]),
    ];
    let boxes = value_info(
        "boxes",
        FLOAT,
        &[Dim::Fixed(1), Dim::Fixed(6), Dim::Fixed(2)],
    );
    model(&graph(
        &nodes,
        &initializers,
        &[image(Dim::Fixed(1), SIDE)],
        &[boxes],
    ))
}

/// An embedder whose weights it wants from the file `path` of the server.
pub fn embedder_with_external_data(path: &str) -> Vec<u8> {
    let (nodes, weights) = nodes_with_external_data(path);
    model(&graph(
        &nodes,
        &[weights],
        &[image(Dim::Named("n"), SIDE)],
        &[embedding()],
    ))
}

/// As [`embedder_with_external_data`], with the weights in a graph of their own, which C++ protobuf merges with the other.
pub fn embedder_with_external_data_in_another_graph(path: &str) -> Vec<u8> {
    let (nodes, weights) = nodes_with_external_data(path);
    let first = Message::default().message(7, &graph(&[], &[weights], &[], &[]));
    let second = graph(&nodes, &[], &[image(Dim::Named("n"), SIDE)], &[embedding()]);
    [first.0, model(&second)].concat()
}

fn nodes_with_external_data(path: &str) -> ([Message; 3], Message) {
    let entry = |key: &str, value: &str| Message::default().text(1, key).text(2, value);
    let weights = Message::default()
        .number(1, 3)
        .number(2, FLOAT)
        .text(8, "weights")
        .message(13, &entry("location", path))
        .message(13, &entry("length", "12"))
        .number(14, 1);
    let [pool, flatten] = pooled("GlobalAveragePool", "flat");
    let nodes = [
        pool,
        flatten,
        node("Add", &["flat", "weights"], &["embedding"], &[]),
    ];
    (nodes, weights)
}
