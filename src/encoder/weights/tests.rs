use candle_core::Device;

use super::*;
use crate::config::{Precision, Seed};
use crate::encoder::{EncoderId, build};

fn preset() -> Preset {
    Preset { width: 2, side: 16, ..Preset::load("resnet18-imagenet-96px").unwrap() }
}

/// A file's tensors, to be changed before they are written.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(seed: u64) -> Tensors {
    let bytes = to_safetensors(build(&preset(), &Device::Cpu, Precision::F32, Seed(seed)).unwrap().as_ref()).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors.iter().map(|(n, v)| (n.to_owned(), (v.dtype(), v.shape().to_vec(), v.data().to_vec()))).collect()
}

fn bytes(tensors: &Tensors) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

fn parse(tensors: &Tensors) -> Result<GivenWeights, EncoderError> {
    GivenWeights::parse(Path::new("given.safetensors"), &bytes(tensors), &preset())
}

fn assert_refused(tensors: &Tensors, says: &[&str]) {
    let error = parse(tensors).unwrap_err();
    assert_eq!(error.code(), "bad-weights");
    for part in says.iter().chain(&["given.safetensors"]) {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn what_was_written_comes_back_to_the_bit_from_a_file() {
    let mut taken = build(&preset(), &Device::Cpu, Precision::F32, Seed(1)).unwrap();
    let written = build(&preset(), &Device::Cpu, Precision::F32, Seed(2)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("given.safetensors");
    std::fs::write(&path, to_safetensors(written.as_ref()).unwrap()).unwrap();
    let given = GivenWeights::read(&path, &preset()).unwrap();
    assert_eq!(given.notes, Vec::<String>::new());
    given.load_into(taken.as_mut()).unwrap();
    assert_eq!(EncoderId::of(taken.as_ref()).unwrap(), EncoderId::of(written.as_ref()).unwrap());
    let absent = GivenWeights::read(&folder.path().join("absent"), &preset()).unwrap_err();
    assert_eq!(absent.code(), "unreadable-weights");
    assert_eq!(GivenWeights::read(folder.path(), &preset()).unwrap_err().code(), "bad-weights");
}

#[test]
fn a_classifier_counters_and_a_common_prefix_are_left_out_and_told() {
    let plain = parse(&tensors(3)).unwrap();
    let mut all = tensors(3);
    all.insert("fc.weight".into(), (Dtype::F32, vec![10, 16], vec![0; 640]));
    all.insert("fc.bias".into(), (Dtype::F32, vec![10], vec![0; 40]));
    all.insert("layer1.0.bn1.num_batches_tracked".into(), (Dtype::I64, vec![], vec![0; 8]));
    let prefixed: Tensors = all.into_iter().map(|(name, tensor)| (format!("module.backbone.{name}"), tensor)).collect();
    let given = parse(&prefixed).unwrap();
    assert_eq!((&given.parameters, &given.statistics), (&plain.parameters, &plain.statistics));
    assert!(given.notes[0].contains("\"module.backbone.\""), "{:?}", given.notes);
    assert!(given.notes[1].contains("10 classes"), "{:?}", given.notes);
}

#[test]
fn halves_are_taken_as_what_they_stand_for() {
    for (dtype, of) in [
        (Dtype::F16, (|x| f16::from_f32(x).to_le_bytes()) as fn(f32) -> [u8; 2]),
        (Dtype::BF16, |x| bf16::from_f32(x).to_le_bytes()),
    ] {
        let mut all = tensors(4);
        let (kind, _, data) = all.get_mut("layer4.1.conv2.weight").unwrap();
        let values: Vec<f32> = data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (*kind, *data) = (dtype, values.iter().flat_map(|value| of(*value)).collect());
        let (whole, halved) = (parse(&tensors(4)).unwrap(), parse(&all).unwrap());
        let far = whole.parameters.iter().zip(&halved.parameters).any(|(a, b)| (a - b).abs() > 4e-3 * a.abs() + 1e-6);
        assert!(!far && whole != halved, "{dtype:?}");
    }
}

#[test]
fn every_tensor_that_does_not_fit_is_named_with_what_to_do() {
    let with = |name: &str, tensor: (Dtype, Vec<usize>, Vec<u8>)| {
        let mut all = tensors(5);
        all.insert(name.into(), tensor);
        all
    };
    let mut missing = tensors(5);
    missing.remove("layer3.1.bn2.running_var");
    assert_refused(&missing, &["layer3.1.bn2.running_var is missing"]);
    assert_refused(&with("layer5.weight", (Dtype::F32, vec![1], vec![0; 4])), &["layer5.weight", "file of their own"]);
    assert_refused(&with("layer9.bn1.num_batches_tracked", (Dtype::I64, vec![], vec![0; 8])), &["layer9.bn1"]);
    assert_refused(&with("bn1.bias", (Dtype::F32, vec![3], vec![0; 12])), &["bn1.bias", "[3]", "[2]"]);
    assert_refused(&with("bn1.bias", (Dtype::F64, vec![2], vec![0; 16])), &["bn1.bias", "F64", "float32"]);
    let cifar = (Dtype::F32, vec![2, 3, 3, 3], vec![0; 216]);
    assert_refused(&with("conv1.weight", cifar), &["conv1.weight", "CIFAR form", "encoder.preset"]);
    let wide = (Dtype::F32, vec![64, 3, 7, 7], vec![0; 4 * 64 * 147]);
    assert_refused(&with("conv1.weight", wide), &["conv1.weight", "width = 64"]);
    let infinite = [1.0, f32::INFINITY].iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
    assert_refused(&with("bn1.weight", (Dtype::F32, vec![2], infinite)), &["bn1.weight", "not finite"]);
    let negative = [1.0, -1.0].iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
    assert_refused(
        &with("bn1.running_var", (Dtype::F32, vec![2], negative)),
        &["bn1.running_var", "negative variance"],
    );
    let prefixed: Tensors =
        tensors(5).into_iter().map(|(name, tensor)| (format!("encoder_q.{name}"), tensor)).collect();
    let beside = prefixed.into_iter().chain([("queue".to_owned(), (Dtype::F32, vec![1], vec![0; 4]))]).collect();
    assert_refused(&beside, &["queue", "\"encoder_q.\"", "file of their own"]);
}

#[test]
fn bytes_that_are_no_such_file_are_refused_before_memory_is_taken() {
    let whole = bytes(&tensors(6));
    let parse = |bytes: &[u8]| GivenWeights::parse(Path::new("x"), bytes, &preset()).unwrap_err().to_string();
    assert!(parse(b"").contains("no header"));
    assert!(parse(&u64::MAX.to_le_bytes()).contains("header would have"));
    assert!(parse(b"PK\x03\x04\x00\x00\x00\x00 a pickle in a zip").contains("no safetensors file"));
    for cut in [9, whole.len() / 2, whole.len() - 1] {
        assert!(!parse(&whole[..cut]).is_empty());
    }
    let many: Tensors = (0..1025).map(|n| (format!("t{n}"), (Dtype::F32, vec![0], vec![]))).collect();
    assert!(parse(&bytes(&many)).contains("1025 tensors"));
}

#[test]
fn narrow_cifar_forms_are_written_and_taken_as_well() {
    let preset = Preset { width: 3, side: 16, ..Preset::load("resnet18-w16").unwrap() };
    let network = build(&preset, &Device::Cpu, Precision::F32, Seed(7)).unwrap();
    let bytes = to_safetensors(network.as_ref()).unwrap();
    assert!(GivenWeights::parse(Path::new("x"), &bytes, &preset).is_ok());
    let other = GivenWeights::parse(Path::new("x"), &bytes, &self::preset()).unwrap_err().to_string();
    assert!(other.contains("CIFAR form"), "{other}");
}
