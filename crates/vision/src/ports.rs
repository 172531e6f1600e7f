//! The inputs and outputs that an ONNX file declares, against what its manifest says.
//!
//! Owns that comparison and the batch axis. Knows nothing of ONNX Runtime and of values. Every fault
//! names the key of the manifest and what the file has instead.

use crate::constants::Constant;
use crate::manifest::Manifest;
use crate::manifest_parts::{Dtype, Family, Input, Layout, Output, PoseOutput};
use crate::tensors::{Element, Port};

/// Photos of one run at most: bounds the memory of activations; larger batches gain nothing.
pub(crate) const MAX_BATCH: usize = 32;

/// The batch axis of the ONNX file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Batch {
    /// Any size.
    Dynamic,
    /// Exactly this size; the last chunk is filled up with zeros.
    Fixed(usize),
    /// No batch axis (torchvision's detectors).
    Absent,
}

/// Manifest keys and names of the outputs that are read, in a fixed order.
pub(crate) fn wanted(manifest: &Manifest) -> Vec<(&'static str, &str)> {
    match manifest.output() {
        Output::Embedder(output) => vec![("output.name", output.name.as_str())],
        Output::Detector(output) => {
            let names = &output.names;
            let others = [
                ("output.names.logits", &names.logits),
                ("output.names.labels", &names.labels),
                ("output.names.scores", &names.scores),
            ];
            let others = others
                .into_iter()
                .filter_map(|(key, name)| Some((key, name.as_deref()?)));
            let boxes = ("output.names.boxes", names.boxes.as_str());
            std::iter::once(boxes).chain(others).collect()
        }
        Output::Pose(PoseOutput::Movenet(output)) => vec![("output.name", output.name.as_str())],
        Output::Pose(PoseOutput::Heatmaps(output)) => {
            let offsets = output.names.offsets.as_deref();
            let mut all = vec![("output.names.heatmaps", output.names.heatmaps.as_str())];
            all.extend(offsets.map(|name| ("output.names.offsets", name)));
            all
        }
    }
}

/// The batch axis, or everything that the declarations and the manifest do not agree about.
pub(crate) fn compare(
    manifest: &Manifest,
    inputs: &[Port],
    outputs: &[Port],
) -> Result<Batch, Vec<String>> {
    let mut faults = Vec::new();
    let one_photo = gives_one_photo(manifest, outputs);
    let batch = picture_of(manifest.input(), inputs)
        .and_then(|port| check_picture(manifest.input(), port, one_photo))
        .map_err(|fault| faults.push(fault));
    for port in inputs {
        if port.name != manifest.input().name
            && let Err(fault) = check_other(manifest.input(), port, inputs, batch.ok())
        {
            faults.push(fault);
        }
    }
    for constant in &manifest.input().constants {
        if !inputs.iter().any(|port| port.name == constant.name) {
            faults.push(format!(
                "input.constants has \"{}\", but the inputs of the ONNX file are {}",
                constant.name,
                described(inputs)
            ));
        }
    }
    for (key, name) in wanted(manifest) {
        if !outputs.iter().any(|port| port.name == name) {
            let found = described(outputs);
            faults.push(format!(
                "{key} is \"{name}\", but the outputs of the ONNX file are {found}"
            ));
        }
    }
    match batch {
        Ok(batch) if faults.is_empty() => Ok(batch),
        _ => Err(faults),
    }
}

/// Names, element types and shapes, such as `"image" f32 [-1, 3, 40, 32]`.
pub(crate) fn described(ports: &[Port]) -> String {
    let all: Vec<String> = ports
        .iter()
        .map(|port| format!("\"{}\" {} {:?}", port.name, port.element, port.shape))
        .collect();
    all.join(", ")
}

/// Whether the outputs tell photos apart: those of a detector with its own NMS may not.
fn gives_one_photo(manifest: &Manifest, outputs: &[Port]) -> bool {
    let Output::Detector(output) = manifest.output() else {
        return false;
    };
    let boxes = outputs.iter().find(|port| port.name == output.names.boxes);
    let shape = boxes.map_or(&[] as &[i64], |port| &port.shape);
    match output.family {
        Family::Torchvision => shape.len() != 3,
        // Rows of seven numbers begin with the number of their photo.
        Family::YoloNms => !matches!(shape, [_, _, _] | [_, 7]),
        Family::YoloV8 | Family::YoloV5 | Family::Detr => false,
    }
}

/// Mask coefficients that end the numbers of each box of a YOLO: as many as the file has masks to weigh by them, in an
/// output [N, masks, rows, columns] that the manifest does not name, a quarter as high and wide as the input. 0 where
/// there is none. Raw heads are outputs of four axes, too, but have as many channels as a box has numbers, or more.
pub(crate) fn masks(manifest: &Manifest, outputs: &[Port]) -> usize {
    let Output::Detector(output) = manifest.output() else {
        return 0;
    };
    let boxes = outputs.iter().find(|port| port.name == output.names.boxes);
    let numbers = boxes.and_then(|port| match (output.family, port.shape.as_slice()) {
        (Family::YoloV8, &[_, numbers, _]) | (Family::YoloV5 | Family::YoloNms, &[.., numbers]) => {
            Some(numbers)
        }
        _ => None,
    });
    let Some(numbers) = numbers else {
        return 0;
    };
    let input = manifest.input();
    let fits = |found: i64, side: u32| found < 0 || found == i64::from(side / MASK_STRIDE);
    let of_masks = |port: &Port| match *port.shape.as_slice() {
        [_, masks, rows, columns]
            if masks > 0
                && (numbers < 0 || masks < numbers)
                && fits(rows, input.height)
                && fits(columns, input.width)
                && port.name != output.names.boxes =>
        {
            usize::try_from(masks).ok()
        }
        _ => None,
    };
    outputs.iter().find_map(of_masks).unwrap_or(0)
}

/// Input pixels from one pixel of a mask to the next.
const MASK_STRIDE: u32 = 4;

fn picture_of<'a>(input: &Input, ports: &'a [Port]) -> Result<&'a Port, String> {
    let named = ports.iter().find(|port| port.name == input.name);
    named.ok_or_else(|| {
        let (noun, verb) = if ports.len() == 1 {
            ("input", "is")
        } else {
            ("inputs", "are")
        };
        format!(
            "input.name is \"{}\", but the {noun} of the ONNX file {verb} {}",
            input.name,
            described(ports)
        )
    })
}

/// An input that is not the picture: it needs a constant that fits it.
fn check_other(
    input: &Input,
    port: &Port,
    ports: &[Port],
    batch: Option<Batch>,
) -> Result<(), String> {
    let Some(constant) = input
        .constants
        .iter()
        .find(|constant| constant.name == port.name)
    else {
        // A file with one input under another name is a fault of input.name, and named already.
        if ports.len() == 1 {
            return Ok(());
        }
        return Err(format!(
            "the ONNX file must have one input, or values in input.constants for each other one; \"{}\" \
             ({} {:?}) has none: export the image half alone, or add it",
            port.name, port.element, port.shape
        ));
    };
    let key = format!("input.constants \"{}\"", constant.name);
    if port.element.to_string() != constant.dtype.to_string() {
        return Err(format!(
            "{key} has dtype {}, but that input of the ONNX file is {}",
            constant.dtype, port.element
        ));
    }
    if constant.per_photo && batch == Some(Batch::Absent) {
        return Err(format!(
            "{key} has per_photo, but the picture of the ONNX file has no batch axis"
        ));
    }
    let expected = constant_axes(constant, batch);
    let fits = expected.len() == port.shape.len()
        && expected
            .iter()
            .zip(&port.shape)
            .all(|(ours, theirs)| ours == theirs || *theirs < 0 || *ours < 0);
    if fits {
        return Ok(());
    }
    Err(format!(
        "{key} has shape {expected:?}{}, but that input of the ONNX file has {:?} (-1 is any size)",
        if constant.per_photo {
            " with the batch axis of per_photo"
        } else {
            ""
        },
        port.shape
    ))
}

fn constant_axes(constant: &Constant, batch: Option<Batch>) -> Vec<i64> {
    let size = |&size: &usize| i64::try_from(size).unwrap_or(i64::MAX);
    let mut axes: Vec<i64> = constant.shape.iter().map(size).collect();
    if constant.per_photo {
        let photos = match batch {
            Some(Batch::Fixed(photos)) => size(&photos),
            _ => -1,
        };
        axes.insert(0, photos);
    }
    axes
}

fn check_picture(input: &Input, port: &Port, one_photo: bool) -> Result<Batch, String> {
    let expected = match input.dtype {
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::U8 => Element::U8,
        Dtype::I32 => Element::I32,
    };
    if port.element != expected {
        let remedy = match port.element {
            Element::F32 | Element::F16 | Element::U8 | Element::I32 => "",
            _ => "; export it with one of f32, f16, u8 or i32 and cast that in the model",
        };
        return Err(format!(
            "input.dtype is {expected}, but the input of the ONNX file is {}{remedy}",
            port.element
        ));
    }
    let axes = axes(input.layout, input.width, input.height);
    let (batch, found) = match port.shape.as_slice() {
        [batch, rest @ ..] if rest.len() == 3 => (Some(*batch), rest),
        rest if rest.len() == 3 && one_photo => (None, rest),
        [] => {
            return Err(
                "the input of the ONNX file declares no shape; export it with one of 4 axes, batch first"
                    .to_owned(),
            );
        }
        other => {
            return Err(format!(
                "the input of the ONNX file has shape {other:?}; expected 4 axes, batch first"
            ));
        }
    };
    if !fit(&axes, found) {
        return Err(format!(
            "input.width, height and layout give the axes {axes:?} after the batch, but the input of \
             the ONNX file has {found:?} (-1 is any size){}",
            remedy(input, found)
        ));
    }
    let most = if one_photo { 1 } else { MAX_BATCH };
    match batch {
        None => Ok(Batch::Absent),
        Some(size) if size < 0 && one_photo => Ok(Batch::Fixed(1)),
        Some(size) if size < 0 => Ok(Batch::Dynamic),
        Some(size) => match usize::try_from(size) {
            Ok(size) if (1..=most).contains(&size) => Ok(Batch::Fixed(size)),
            _ => Err(format!(
                "the batch axis of the ONNX file is fixed at {size}; expected a dynamic one, or 1{}",
                if one_photo {
                    String::new()
                } else {
                    format!(" to {MAX_BATCH}")
                }
            )),
        },
    }
}

fn axes(layout: Layout, width: u32, height: u32) -> [i64; 3] {
    let (width, height) = (i64::from(width), i64::from(height));
    match layout {
        Layout::Nchw => [3, height, width],
        Layout::Nhwc => [height, width, 3],
    }
}

fn fit(axes: &[i64; 3], found: &[i64]) -> bool {
    axes.iter()
        .zip(found)
        .all(|(expected, found)| *found < 0 || found == expected)
}

/// What to write instead, where one change makes the axes fit.
fn remedy(input: &Input, found: &[i64]) -> String {
    let other = match input.layout {
        Layout::Nchw => (Layout::Nhwc, "nhwc"),
        Layout::Nhwc => (Layout::Nchw, "nchw"),
    };
    if fit(&axes(input.layout, input.height, input.width), found) {
        return "; width and height are exchanged".to_owned();
    }
    if fit(&axes(other.0, input.width, input.height), found) {
        return format!("; layout \"{}\" fits", other.1);
    }
    match (input.layout, found) {
        (Layout::Nchw, [3, height, width]) | (Layout::Nhwc, [height, width, 3])
            if *height > 0 && *width > 0 =>
        {
            format!("; width {width} and height {height} fit")
        }
        _ => String::new(),
    }
}
