//! What ONNX Runtime's messages mean for who brought the model.

use crate::error::Error;

/// As C++ and ONNX Runtime's arena say that an allocation failed.
pub(crate) fn is_out_of_memory(message: &str) -> bool {
    message.contains("bad_alloc") || message.contains("Failed to allocate memory")
}

/// Tells a model that this library does not know from one that is broken.
pub(crate) fn explain_commit(model: &str, message: &str) -> Error {
    let (model, message) = (model.to_owned(), innermost(message.trim_end()));
    if is_out_of_memory(message) {
        return Error::OutOfMemory { model };
    }
    if let Some(reason) = newer_than_known(message) {
        return Error::ModelUnsupported {
            model,
            reason,
            remedy: "export it with an older one (opset_version of torch.onnx.export), or install a newer ONNX Runtime",
        };
    }
    if message.contains("Could not find an implementation for") {
        return Error::ModelUnsupported {
            model,
            reason: format!(
                "the installed ONNX Runtime has not all of its operators for their element types ({message})"
            ),
            remedy: "export it in float32 or float16, with standard operators, or install a newer ONNX Runtime",
        };
    }
    let unknown = [
        "No Op registered for",
        "is not a registered function/op",
        "opset",
        "Opset",
        "IR version",
        "ir_version",
    ];
    if unknown.iter().any(|part| message.contains(part)) {
        Error::ModelUnsupported {
            model,
            reason: format!(
                "the installed ONNX Runtime does not know one of its operators or its version \
                 ({message})"
            ),
            remedy: "export it with standard operators, or install a newer ONNX Runtime",
        }
    } else {
        Error::ModelInvalid {
            model,
            reason: format!("ONNX Runtime refused it ({message})"),
        }
    }
}

/// The cause, without the functions and lines of ONNX Runtime that passed it on.
fn innermost(message: &str) -> &str {
    let causes = [" : FAIL : ", " : INVALID_GRAPH : ", " : NOT_IMPLEMENTED : "];
    let start = causes
        .iter()
        .filter_map(|cause| Some(message.rfind(cause)? + cause.len()))
        .max();
    &message[start.unwrap_or(0)..]
}

/// Which version a model has that this library is too old for, without the rest of what the library says.
fn newer_than_known(message: &str) -> Option<String> {
    let after = |words: &str| {
        let number = message.split_once(words)?.1;
        let end = number.find(|c: char| !c.is_ascii_digit());
        Some(&number[..end.unwrap_or(number.len())]).filter(|digits| !digits.is_empty())
    };
    let versions = |what, found, known| {
        let (found, known) = (after(found)?, after(known)?);
        Some(format!(
            "it has {what} {found}; the installed ONNX Runtime knows those up to {known}"
        ))
    };
    let opset = versions("opset", "Opset ", " is till opset ");
    opset.or_else(|| {
        versions(
            "IR version",
            "model IR version: ",
            "max supported IR version: ",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::explain_commit;

    #[test]
    fn what_passed_a_cause_on_is_left_out() {
        let error = explain_commit(
            "net",
            "/onnxruntime_src/onnxruntime/core/graph/graph.cc:1377 onnxruntime::Graph::Graph(const Model&) status.IsOK() \
             was false. [ONNXRuntimeError] : 1 : FAIL : a function must not be recursive\n",
        );
        let text = error.to_string();
        assert!(text.contains("refused it (a function must not"), "{text}");
    }

    #[test]
    fn an_element_type_without_operators_is_told_from_an_unknown_operator() {
        let error = explain_commit(
            "net",
            "Could not find an implementation for Conv(11) node with name ''",
        );
        let text = format!("{error:?}");
        assert!(text.contains("in float32 or float16"), "{text}");
    }
}
