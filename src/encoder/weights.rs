//! Weights of a ResNet-18 from and to files: safetensors under torchvision's names, which timm's are, too.
//!
//! A file is checked whole before anything of it is taken: the size of its header, every name, shape, type and value. What
//! is left out of it (a classifier, counters of batches, a prefix common to all names) is told.
//!
//! ```
//! use lumpd::{config::{Precision, Seed}, encoder::{self, GivenWeights, Preset}};
//! let preset = Preset { width: 2, side: 8, ..Preset::load("resnet18-w16").unwrap() };
//! let mut backbone = encoder::build(&preset, &candle_core::Device::Cpu, Precision::Auto, Seed(1)).unwrap();
//! let bytes = encoder::to_safetensors(backbone.as_ref()).unwrap();
//! let given = GivenWeights::parse("mine.safetensors".as_ref(), &bytes, &preset).unwrap();
//! given.load_into(backbone.as_mut()).unwrap();
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{Backbone, EncoderError, Parameter, Preset, Stem, parameter_layout, statistics_layout};

/// Longest header of a file; that of a ResNet-18 has about 10 KiB.
const MOST_HEADER_BYTES: u64 = 1 << 20;

/// Most tensors of a file; a ResNet-18 has 122.
const MOST_TENSORS: usize = 1024;

/// What a file may hold beside the encoder: a classifier of some 100,000 classes on 512 features.
const MOST_OTHER_BYTES: u64 = 256 << 20;

/// Names that are looked for nowhere: the classifier, and the counters that batch norm keeps beside its statistics.
const CLASSIFIER: [&str; 2] = ["fc.weight", "fc.bias"];
const COUNTER: &str = ".num_batches_tracked";

/// Weights that were read and found to fit a preset.
#[derive(Debug, Clone, PartialEq)]
pub struct GivenWeights {
    /// Flat, in the order of the layout.
    parameters: Vec<f32>,
    statistics: Vec<f32>,
    /// What was left out, a sentence each.
    pub notes: Vec<String>,
}

impl GivenWeights {
    /// Reads a file and checks it whole.
    ///
    /// # Errors
    /// Names the file, the tensor and the remedy; see [`GivenWeights::parse`].
    pub fn read(path: &Path, preset: &Preset) -> Result<Self, EncoderError> {
        let failed = |source| EncoderError::ReadWeights { path: path.into(), source };
        // Before it is opened: a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            return Err(refused(path, "it is not a regular file"));
        }
        let encoder = layouts(preset).iter().flatten().map(|p| 4 * p.elements() as u64).sum::<u64>();
        let most = encoder + MOST_HEADER_BYTES + MOST_OTHER_BYTES;
        let found = metadata.len();
        if found > most {
            return Err(refused(
                path,
                format!("it has {found} bytes, and a ResNet-18 of this width needs at most {most}"),
            ));
        }
        let mut bytes = Vec::with_capacity(found as usize);
        File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
        Self::parse(path, &bytes, preset)
    }

    /// Takes the weights out of a file's bytes; `path` is for messages.
    ///
    /// Accepted are tensors of f32, f16 and bf16 under torchvision's names, with or without `fc.*` and
    /// `*.num_batches_tracked`; a prefix such as `module.` that all names have is taken off.
    ///
    /// # Errors
    /// Names the tensor that is missing, unknown, of another shape or type, or not finite, and what to do.
    pub fn parse(path: &Path, bytes: &[u8], preset: &Preset) -> Result<Self, EncoderError> {
        let header = bytes.first_chunk().map(|length| u64::from_le_bytes(*length));
        match header {
            Some(length) if length <= MOST_HEADER_BYTES => {}
            Some(length) => {
                let what = format!("its header would have {length} bytes, more than {MOST_HEADER_BYTES}");
                return Err(refused(path, format!("{what}: it is no safetensors file, or not one of a ResNet-18")));
            }
            None => return Err(refused(path, "it has no header: it is no safetensors file, or empty")),
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| refused(path, error.to_string()))?;
        if tensors.len() > MOST_TENSORS {
            let what = format!("it holds {} tensors, more than {MOST_TENSORS}", tensors.len());
            return Err(refused(path, format!("{what}: save the encoder's alone")));
        }
        Reading { path, preset, named: tensors.iter().collect(), notes: Vec::new() }.take()
    }

    /// Makes these the weights of a network of the preset.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn load_into(&self, backbone: &mut dyn Backbone) -> Result<(), EncoderError> {
        let device = backbone.parameters().device().clone();
        let flat = |values: &Vec<f32>| Tensor::new(values.as_slice(), &device);
        Ok(backbone.load(&flat(&self.parameters)?, &flat(&self.statistics)?)?)
    }
}

fn layouts(preset: &Preset) -> [Vec<Parameter>; 2] {
    [parameter_layout(preset.stem, preset.width), statistics_layout(preset.width)]
}

fn refused(path: &Path, message: impl Into<String>) -> EncoderError {
    EncoderError::ParseWeights { path: path.into(), message: message.into() }
}

/// A file on its way to becoming weights.
struct Reading<'a> {
    path: &'a Path,
    preset: &'a Preset,
    named: BTreeMap<&'a str, TensorView<'a>>,
    notes: Vec<String>,
}

impl Reading<'_> {
    fn take(mut self) -> Result<GivenWeights, EncoderError> {
        let prefix = self.prefix()?;
        self.named = std::mem::take(&mut self.named)
            .into_iter()
            .map(|(name, view)| (name.strip_prefix(prefix.as_str()).unwrap_or(name), view))
            .collect();
        if !prefix.is_empty() {
            self.notes.push(format!("every name begins with \"{prefix}\", which was taken off"));
        }
        let [parameters, statistics] = layouts(self.preset);
        let (parameters, statistics) = (self.flat(&parameters)?, self.flat(&statistics)?);
        self.leave_out()?;
        Ok(GivenWeights { parameters, statistics, notes: self.notes })
    }

    /// What stands before `conv1.weight`, if it stands before every name.
    fn prefix(&self) -> Result<String, EncoderError> {
        const FIRST: &str = "conv1.weight";
        if self.named.contains_key(FIRST) {
            return Ok(String::new());
        }
        // Blocks have a conv1.weight, too; the stem's has the shortest prefix.
        let prefixes = self.named.keys().filter_map(|name| name.strip_suffix(FIRST)).filter(|p| p.ends_with('.'));
        let Some(prefix) = prefixes.min_by_key(|prefix| prefix.len()) else { return Ok(String::new()) };
        match self.named.keys().find(|name| !name.starts_with(prefix)) {
            None => Ok(prefix.to_owned()),
            Some(other) => Err(self.wrong(
                other,
                format!("does not begin with \"{prefix}\" as {prefix}{FIRST} does"),
                format!("save the tensors that begin with \"{prefix}\" into a file of their own"),
            )),
        }
    }

    fn flat(&mut self, layout: &[Parameter]) -> Result<Vec<f32>, EncoderError> {
        let mut all = Vec::with_capacity(layout.iter().map(Parameter::elements).sum());
        for parameter in layout {
            let Some(view) = self.named.remove(parameter.name.as_str()) else {
                let remedy = "give a file with torchvision's names of a whole ResNet-18";
                return Err(self.wrong(&parameter.name, "is missing".into(), remedy.into()));
            };
            self.check_shape(parameter, view.shape())?;
            let values = self.values(&parameter.name, &view)?;
            let negative = parameter.name.ends_with("running_var") && values.iter().any(|value| *value < 0.0);
            if negative || !values.iter().all(|value| value.is_finite()) {
                let what = if negative { "holds a negative variance" } else { "holds a value that is not finite" };
                let remedy = "the file is damaged or its training had diverged: give another one";
                return Err(self.wrong(&parameter.name, what.into(), remedy.into()));
            }
            all.extend(values);
        }
        Ok(all)
    }

    fn check_shape(&self, parameter: &Parameter, found: &[usize]) -> Result<(), EncoderError> {
        if found == parameter.shape {
            return Ok(());
        }
        let Preset { name, stem, width, .. } = self.preset;
        let what = format!("has the shape {found:?}, where preset {name} has {:?}", parameter.shape);
        let remedy = match (parameter.name.as_str(), found, stem) {
            ("conv1.weight", [_, 3, 7, 7], Stem::Cifar) => {
                "the file is of the ImageNet form: set encoder.preset to one with stem = \"imagenet\", such as \
                 resnet18-imagenet-96px"
                    .to_owned()
            }
            ("conv1.weight", [_, 3, 3, 3], Stem::Imagenet) => {
                "the file is of the CIFAR form: set encoder.preset to one with stem = \"cifar\", such as resnet18"
                    .to_owned()
            }
            ("conv1.weight", [outputs, ..], _) if outputs != width => {
                format!("give weights of width {width}, or a preset with width = {outputs}")
            }
            _ => "give weights of a ResNet-18 of this preset's form and width".to_owned(),
        };
        Err(self.wrong(&parameter.name, what, remedy))
    }

    fn values(&self, name: &str, view: &TensorView) -> Result<Vec<f32>, EncoderError> {
        let (pairs, fours) = (view.data().as_chunks::<2>().0, view.data().as_chunks::<4>().0);
        match view.dtype() {
            Dtype::F32 => Ok(fours.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
            Dtype::F16 => Ok(pairs.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()),
            Dtype::BF16 => Ok(pairs.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()),
            other => {
                let what = format!("is of type {other:?}");
                Err(self.wrong(name, what, "save it as float32, float16 or bfloat16".into()))
            }
        }
    }

    /// The names that remain are those that are left out, or unknown.
    fn leave_out(&mut self) -> Result<(), EncoderError> {
        let of_norm =
            |name: &str| statistics_layout(1).iter().any(|p| p.name.strip_suffix(".running_mean") == Some(name));
        let unknown = |name: &&str| !CLASSIFIER.contains(name) && !name.strip_suffix(COUNTER).is_some_and(of_norm);
        if let Some(name) = self.named.keys().copied().find(unknown) {
            let what = "is no part of a ResNet-18".to_owned();
            return Err(self.wrong(name, what, "save the ResNet-18's tensors into a file of their own".into()));
        }
        if let Some(classifier) = self.named.get(CLASSIFIER[0]) {
            let classes = classifier.shape().first().copied().unwrap_or(0);
            self.notes.push(format!("its classifier of {classes} classes (fc) was left out"));
        }
        Ok(())
    }

    fn wrong(&self, tensor: &str, what: String, remedy: String) -> EncoderError {
        EncoderError::WeightsTensor { path: PathBuf::from(self.path), tensor: tensor.into(), what, remedy }
    }
}

/// The weights of a network as a safetensors file under torchvision's names, f32, running statistics included; no
/// classifier (`fc.*`), because there is none. `torchvision.models.resnet18` takes those of width 64 in the ImageNet form.
///
/// # Errors
/// Where the device fails.
pub fn to_safetensors(backbone: &dyn Backbone) -> Result<Vec<u8>, EncoderError> {
    let failed = |error: safetensors::SafeTensorError| candle_core::Error::msg(error);
    let parts = [(backbone.layout(), backbone.parameters()), (backbone.statistics_layout(), backbone.statistics())];
    let mut named = Vec::new();
    for (layout, flat) in parts {
        let values = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        for parameter in layout {
            let values = &values[parameter.offset..][..parameter.elements()];
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            named.push((parameter, bytes));
        }
    }
    let views: Result<Vec<_>, _> = named
        .iter()
        .map(|(p, bytes)| Ok((p.name.as_str(), TensorView::new(Dtype::F32, p.shape.clone(), bytes).map_err(failed)?)))
        .collect::<Result<_, EncoderError>>();
    // What PyTorch's tools look for.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(safetensors::serialize(views?, Some(metadata)).map_err(failed)?)
}

#[cfg(test)]
mod tests;
