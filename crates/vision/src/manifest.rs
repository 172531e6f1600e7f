//! The model manifest: what a model needs and what it gives.
//!
//! Owns the JSON form (`docs/architecture.md`, "The model manifest") and every rule about its
//! values. Knows nothing of ONNX Runtime. A [`Manifest`] that exists is valid: both ways in
//! ([`Manifest::from_json`] and nothing else) check every range and name the key, what was found
//! and what is allowed. Unknown keys are refused.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::error::Category;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::manifest_parts::{Input, Kind, Output};

/// A valid manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    name: String,
    version: String,
    description: String,
    licence: String,
    source: String,
    sha256: String,
    input: Input,
    output: Output,
}

/// The JSON object; `output` is read in a second step because its form depends on `kind`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Document {
    format: u32,
    name: String,
    version: String,
    kind: Kind,
    description: String,
    licence: String,
    source: String,
    sha256: String,
    input: Input,
    output: Value,
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        let mut reader = serde_json::Deserializer::from_str(json);
        let document: Document = serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| invalid(&error.path().to_string(), &explain(error.inner())))?;
        reader
            .end()
            .map_err(|error| invalid(".", &explain(&error)))?;
        let output = match document.kind {
            Kind::Embedder => Output::Embedder(read_output(document.output)?),
            Kind::Detector => Output::Detector(read_output(document.output)?),
            Kind::Pose => Output::Pose(read_output(document.output)?),
        };
        if document.format != 1 {
            return Err(invalid(
                "format",
                &format!(
                    "{} is not known to this version; expected 1",
                    document.format
                ),
            ));
        }
        let manifest = Self {
            name: document.name,
            version: document.version,
            description: document.description,
            licence: document.licence,
            source: document.source,
            sha256: document.sha256,
            input: document.input,
            output,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// The manifest as JSON; [`Manifest::from_json`] of it gives the same manifest.
    pub fn to_json(&self) -> String {
        let output = match &self.output {
            Output::Embedder(output) => serde_json::to_value(output),
            Output::Detector(output) => serde_json::to_value(output),
            Output::Pose(output) => serde_json::to_value(output),
        };
        let document = Document {
            format: 1,
            name: self.name.clone(),
            version: self.version.clone(),
            kind: self.kind(),
            description: self.description.clone(),
            licence: self.licence.clone(),
            source: self.source.clone(),
            sha256: self.sha256.clone(),
            input: self.input.clone(),
            output: output.unwrap_or(Value::Null),
        };
        serde_json::to_string_pretty(&document).unwrap_or_default()
    }

    /// What the model is for.
    pub fn kind(&self) -> Kind {
        match self.output {
            Output::Embedder(_) => Kind::Embedder,
            Output::Detector(_) => Kind::Detector,
            Output::Pose(_) => Kind::Pose,
        }
    }

    /// Name of the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Version of the model.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// One sentence about the model.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Licence of the weights.
    pub fn licence(&self) -> &str {
        &self.licence
    }

    /// Where the model comes from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Lower-case hex SHA-256 of the ONNX file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What the model eats.
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// What the model gives.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// The same for another file.
    pub(crate) fn with_digest(mut self, sha256: String) -> Self {
        self.sha256 = sha256;
        self
    }

    /// The same with another output, of the same kind and within its ranges.
    pub(crate) fn with_output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// Whether `onnx` is the file that this manifest describes.
    pub fn check_digest(&self, onnx: &[u8]) -> Result<(), Error> {
        let found = sha256_hex(onnx);
        if found == self.sha256 {
            return Ok(());
        }
        Err(Error::ModelDigest {
            model: self.name.clone(),
            found,
            expected: self.sha256.clone(),
        })
    }
}

/// Lower-case hex SHA-256.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn read_output<T: for<'de> Deserialize<'de>>(output: Value) -> Result<T, Error> {
    serde_path_to_error::deserialize(output).map_err(|error| {
        let path = error.path().to_string();
        let key = if path == "." {
            "output".to_owned()
        } else {
            format!("output.{path}")
        };
        invalid(&key, &explain(error.inner()))
    })
}

/// Tells text that is no JSON from a value that is not as it should be.
fn explain(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Syntax | Category::Eof => format!("not valid JSON: {error}"),
        Category::Data | Category::Io => error.to_string(),
    }
}

fn invalid(key: &str, reason: &str) -> Error {
    let key = if key == "." { "document" } else { key };
    Error::ManifestInvalid {
        key: key.to_owned(),
        reason: reason.to_owned(),
    }
}
