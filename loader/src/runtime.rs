//! From model rows and files to open models: finding the ONNX Runtime library, reading manifests,
//! opening sessions.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use lookbook_vision::{
    Detector, Device, Embedder, Manifest, PoseEstimator, Runtime, SessionOptions,
};
use postgres::Client;

use crate::{
    args::RuntimeArgs,
    database::{ModelRow, fetch_onnx},
    model_cache,
};

const LIBRARY: &str = "libonnxruntime.so";

/// A model's manifest and bytes: all that is needed to open it, any number of times.
#[derive(Clone)]
pub struct ModelFiles {
    manifest: Manifest,
    onnx: Vec<u8>,
}

impl ModelFiles {
    /// Those of a row, by way of the cache.
    pub fn of_row(client: &mut Client, row: &ModelRow) -> Result<Self> {
        let wrong = || format!("model {:?}", row.name);
        let manifest = Manifest::from_json(&row.manifest).with_context(wrong)?;
        let onnx = model_cache::onnx(&row.sha256, || fetch_onnx(client, &row.name));
        Ok(Self {
            manifest,
            onnx: onnx.with_context(wrong)?,
        })
    }

    /// `NAME.onnx` and `NAME.json` beside it, whichever of the two is named.
    pub fn beside(named: &Path) -> Result<Self> {
        let json = named.with_extension("json");
        let onnx = if named == json {
            named.with_extension("onnx")
        } else {
            named.to_owned()
        };
        let text = fs::read_to_string(&json)
            .with_context(|| format!("cannot read the manifest {}", json.display()))?;
        let manifest = Manifest::from_json(&text)
            .with_context(|| format!("the manifest {}", json.display()))?;
        let bytes = fs::read(&onnx).with_context(|| format!("cannot read {}", onnx.display()))?;
        Ok(Self {
            manifest,
            onnx: bytes,
        })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn onnx(&self) -> &[u8] {
        &self.onnx
    }

    pub fn open_detector(&self, runtime: &Runtime, options: &SessionOptions) -> Result<Detector> {
        Detector::open(runtime, self.manifest.clone(), &self.onnx, options)
            .with_context(|| format!("cannot open detector {:?}", self.manifest.name()))
    }

    pub fn open_estimator(
        &self,
        runtime: &Runtime,
        options: &SessionOptions,
    ) -> Result<PoseEstimator> {
        PoseEstimator::open(runtime, self.manifest.clone(), &self.onnx, options)
            .with_context(|| format!("cannot open pose model {:?}", self.manifest.name()))
    }

    pub fn open_embedder(&self, runtime: &Runtime, options: &SessionOptions) -> Result<Embedder> {
        Embedder::open(runtime, self.manifest.clone(), &self.onnx, options)
            .with_context(|| format!("cannot open embedder {:?}", self.manifest.name()))
    }
}

/// The CPU threads a run may use.
pub fn threads(args: &RuntimeArgs) -> usize {
    match args.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

/// Loads the ONNX Runtime library: see [`library`].
pub fn load(args: &RuntimeArgs) -> Result<Runtime> {
    load_file(&library(args)?)
}

/// As [`load`], of the library that is named, if one is.
pub fn load_from(named: Option<&Path>) -> Result<Runtime> {
    load_file(&library_of(named, Device::Cpu)?)
}

fn load_file(library: &Path) -> Result<Runtime> {
    Runtime::load(library)
        .with_context(|| format!("cannot load ONNX Runtime from {}", library.display()))
}

/// Where the ONNX Runtime library is: the one named, else `ORT_DYLIB_PATH`, else the first of the
/// usual places, those of OpenVINO first where that is the device.
pub fn library(args: &RuntimeArgs) -> Result<PathBuf> {
    library_of(args.onnxruntime.as_deref(), args.device.first())
}

fn library_of(named: Option<&Path>, device: Device) -> Result<PathBuf> {
    let named = named.map(Path::to_owned);
    let named = named.or_else(|| env::var_os("ORT_DYLIB_PATH").map(PathBuf::from));
    let library = match named {
        Some(library) => library,
        None => find(device)?,
    };
    // Relative paths would be looked up in the system's library folders.
    Ok(std::path::absolute(&library)?)
}

fn find(device: Device) -> Result<PathBuf> {
    let program = env::current_exe()
        .and_then(fs::canonicalize)
        .unwrap_or_default();
    let folders = usual_folders(device, &program, &env::current_dir().unwrap_or_default());
    for folder in &folders {
        let library = folder.join(LIBRARY);
        if library.is_file() {
            return Ok(library);
        }
    }
    let folders: Vec<String> = folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    bail!(
        "no ONNX Runtime library ({LIBRARY}) was found: give --onnxruntime FILE or set LOOKBOOK_ONNXRUNTIME \
         (scripts/setup of the sources fetches one); looked in {}",
        folders.join(", ")
    )
}

/// Beside an installed program, then the project folder that set-up fills, then the system's.
fn usual_folders(device: Device, program: &Path, current: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let project = |name: &str| {
        let starts = [current, program].into_iter();
        let above = starts.flat_map(Path::ancestors);
        let above = above.map(|folder| folder.join(".lookbook").join(name));
        above.filter(|folder| folder.is_dir()).collect::<Vec<_>>()
    };
    if device.is_openvino() {
        folders.extend(
            program
                .parent()
                .map(|bin| bin.join("../lib/lookbook/openvino")),
        );
        folders.extend(project("openvino"));
    }
    if let Some(bin) = program.parent() {
        folders.push(bin.to_owned());
        folders.push(bin.join("../lib/lookbook"));
    }
    folders.extend(project("onnxruntime"));
    folders.extend(["/usr/local/lib", "/usr/lib"].map(PathBuf::from));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_looked_for_beside_the_program_first() {
        let project = tempfile::tempdir().unwrap();
        fs::create_dir_all(project.path().join(".lookbook/onnxruntime")).unwrap();
        let program = project.path().join("target/debug/lookbook");
        let folders = usual_folders(Device::Auto, &program, Path::new("/"));
        assert_eq!(folders[0], project.path().join("target/debug"));
        assert!(folders.contains(&project.path().join(".lookbook/onnxruntime")));
        assert_eq!(folders.last(), Some(&PathBuf::from("/usr/lib")));

        fs::create_dir_all(project.path().join(".lookbook/openvino")).unwrap();
        let of_openvino = usual_folders(Device::OpenVino, &program, Path::new("/"));
        assert_eq!(of_openvino[1], project.path().join(".lookbook/openvino"));
        assert_eq!(of_openvino[2..], folders, "the others as before, after it");
    }
}
