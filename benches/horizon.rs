//! What a short stream teaches: weighted-KNN accuracy of the encoder while it trains in one pass over CIFAR-10.
//!
//! ```text
//! cargo bench --bench horizon -- data=DIR preset=resnet18-w16 objective=simclr strategy=lump batch=64 replay=64 \
//!     rate=0.1 steps=1 precision=f32 images=20000 order=shuffled seed=0 slots=4096 every=5000 bank=10000 tests=2000
//! ```
//! `data` holds the files of the binary version of CIFAR-10 (data_batch_1.bin ... test_batch.bin). `order=split` gives the
//! classes two by two, as a stream of five tasks. One JSON line at the start and after every `every` images: 10-way accuracy with
//! k 200, temperature 0.1, a bank of the first `bank` training images and the first `tests` test images. These numbers choose
//! the defaults.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use lumpd::config::{LearnSettings, ObjectiveKind, Precision, Random, Seed, StrategyKind};
use lumpd::encoder::Preset;
use lumpd::learn::Trainer;

const K: usize = 200;
const TEMPERATURE: f32 = 0.1;
const CLASSES: usize = 10;

/// Images as packed RGB8 with their labels.
#[derive(Default)]
struct Labelled {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Labelled {
    const IMAGE: usize = 3072;

    /// The first images, all where there are fewer.
    fn first(&self, count: usize) -> &[u8] {
        &self.pixels[..count.min(self.labels.len()) * Self::IMAGE]
    }

    /// Appends a file of records: a label, then the red, green and blue planes of 32x32 pixels.
    fn read(&mut self, path: &Path) -> Result<()> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        if bytes.is_empty() || !bytes.len().is_multiple_of(1 + Self::IMAGE) {
            bail!("{} is not of CIFAR-10's binary version: {} bytes", path.display(), bytes.len());
        }
        for record in bytes.chunks_exact(1 + Self::IMAGE) {
            let (red, rest) = record[1..].split_at(1024);
            let (green, blue) = rest.split_at(1024);
            self.labels.push(record[0]);
            self.pixels.extend(red.iter().zip(green).zip(blue).flat_map(|((r, g), b)| [*r, *g, *b]));
        }
        Ok(())
    }

    fn image(&self, index: usize) -> &[u8] {
        &self.pixels[index * Self::IMAGE..][..Self::IMAGE]
    }

    fn pack(&self, indices: &[usize]) -> Vec<u8> {
        indices.iter().flat_map(|index| self.image(*index)).copied().collect()
    }
}

/// A uniform sample of what has passed (Vitter's algorithm R), by index.
struct Reservoir {
    slots: usize,
    seen: u64,
    held: Vec<usize>,
    random: Random,
}

impl Reservoir {
    fn offer(&mut self, index: usize) {
        self.seen += 1;
        if self.held.len() < self.slots {
            return self.held.push(index);
        }
        let slot = self.random.below(self.seen) as usize;
        if slot < self.slots {
            self.held[slot] = index;
        }
    }

    fn sample(&mut self, count: usize) -> Vec<usize> {
        self.random.choose(self.held.len(), count).into_iter().map(|slot| self.held[slot]).collect()
    }
}

struct Arguments(HashMap<String, String>);

impl Arguments {
    fn parse() -> Self {
        let pairs = std::env::args()
            .filter_map(|argument| argument.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())));
        Self(pairs.collect())
    }

    fn get<T: std::str::FromStr>(&self, key: &str, default: T) -> Result<T> {
        match self.0.get(key) {
            None => Ok(default),
            Some(value) => value.parse().ok().with_context(|| format!("{key}={value} cannot be understood")),
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let data: String = arguments.get("data", String::new())?;
    if data.is_empty() {
        println!("horizon: give data=DIR (CIFAR-10, binary version) to run it");
        return Ok(());
    }
    let (mut train, mut test) = (Labelled::default(), Labelled::default());
    for file in 1..=5 {
        train.read(&Path::new(&data).join(format!("data_batch_{file}.bin")))?;
    }
    test.read(&Path::new(&data).join("test_batch.bin"))?;
    run(&arguments, &train, &test)
}

fn run(arguments: &Arguments, train: &Labelled, test: &Labelled) -> Result<()> {
    let settings = settings(arguments)?;
    let seed = Seed(arguments.get("seed", 0)?);
    let preset = Preset::load(&arguments.get("preset", "resnet18-w16".to_owned())?)?;
    if preset.image_bytes() != Labelled::IMAGE {
        bail!("CIFAR-10 has 32 pixels, the preset {} has {}", preset.name, preset.side);
    }
    let mut trainer = Trainer::new(preset, &settings, &Device::Cpu, seed)?;
    let steps: usize = arguments.get("steps", 1)?;
    let every: usize = arguments.get("every", 5_000)?;
    let mut order = order(arguments, train, seed)?;
    order.truncate(arguments.get("images", 20_000)?);
    let mut memory = Reservoir {
        slots: arguments.get("slots", 4_096)?,
        seen: 0,
        held: Vec::new(),
        random: seed.random("horizon memory", 0),
    };
    let (start, mut evaluating) = (Instant::now(), 0.0);
    let (mut seen, mut loss) = (0, None);
    let (bank, tests) = (arguments.get("bank", 10_000)?, arguments.get("tests", 2_000)?);
    let report = |trainer: &Trainer, seen: usize, loss: Option<f64>, seconds: f64| -> Result<()> {
        let accuracy = accuracy(trainer, (train.first(bank), &train.labels), (test.first(tests), &test.labels))?;
        let line = serde_json::json!({
            "images": seen,
            "accuracy": (1e4 * accuracy).round() / 1e4,
            "loss": loss,
            "training_seconds": seconds.round(),
            "non_finite_steps": trainer.non_finite_steps(),
        });
        println!("{line}");
        Ok(())
    };
    report(&trainer, seen, loss, 0.0)?;
    for batch in order.chunks(settings.batch) {
        for _ in 0..steps {
            let replay = train.pack(&memory.sample(settings.replay_batch));
            loss = trainer.step(&train.pack(batch), &replay)?.loss.or(loss);
        }
        batch.iter().for_each(|index| memory.offer(*index));
        let due = (seen + batch.len()) / every > seen / every;
        seen += batch.len();
        if due || seen == order.len() {
            let training = start.elapsed().as_secs_f64() - evaluating;
            report(&trainer, seen, loss, training)?;
            evaluating = start.elapsed().as_secs_f64() - training;
        }
    }
    Ok(())
}

fn settings(arguments: &Arguments) -> Result<LearnSettings> {
    let defaults = LearnSettings::default();
    Ok(LearnSettings {
        objective: match arguments.get("objective", "simclr".to_owned())?.as_str() {
            "simsiam" => ObjectiveKind::SimSiam,
            "barlow" => ObjectiveKind::Barlow,
            "simclr" => ObjectiveKind::SimClr,
            other => bail!("objective={other}: simsiam, barlow or simclr"),
        },
        strategy: match arguments.get("strategy", "lump".to_owned())?.as_str() {
            "finetune" => StrategyKind::Finetune,
            "lump" => StrategyKind::Lump,
            other => bail!("strategy={other}: finetune or lump"),
        },
        precision: match arguments.get("precision", "f32".to_owned())?.as_str() {
            "f32" => Precision::F32,
            "bf16" => Precision::Bf16,
            other => bail!("precision={other}: f32 or bf16"),
        },
        batch: arguments.get("batch", defaults.batch)?,
        replay_batch: arguments.get("replay", defaults.replay_batch)?,
        learning_rate: arguments.get("rate", defaults.learning_rate)?,
        ..defaults
    })
}

fn order(arguments: &Arguments, train: &Labelled, seed: Seed) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = (0..train.labels.len()).collect();
    seed.random("horizon order", 0).shuffle(&mut order);
    match arguments.get("order", "shuffled".to_owned())?.as_str() {
        "shuffled" => {}
        "split" => {
            // As many of each task as a shortened run has room for.
            let share = arguments.get("images", 20_000)? / 5;
            let of_task = |task: u8| order.iter().filter(move |i| train.labels[**i] / 2 == task).take(share);
            order = (0..5).flat_map(of_task).copied().collect();
        }
        other => bail!("order={other}: shuffled or split"),
    }
    Ok(order)
}

/// The share of the tests whose class the vote names; both as packed pixels and labels.
fn accuracy(trainer: &Trainer, bank: (&[u8], &[u8]), tests: (&[u8], &[u8])) -> Result<f64> {
    let (bank_embeddings, queries) = (embed(trainer, bank.0)?, embed(trainer, tests.0)?);
    let similarities = queries.matmul(&bank_embeddings.t()?)?.to_vec2::<f32>()?;
    let right = similarities.iter().zip(tests.1).filter(|(row, label)| vote(row, bank.1) == **label).count();
    Ok(right as f64 / similarities.len() as f64)
}

/// L2-normalised embeddings (n, features).
fn embed(trainer: &Trainer, pixels: &[u8]) -> Result<Tensor> {
    let (_, embedder) = trainer.embedder()?;
    let batches: Result<Vec<Tensor>> = pixels
        .chunks(250 * Labelled::IMAGE)
        .map(|batch| Ok(embedder.embed(&trainer.preset().normalise(batch, &Device::Cpu)?)?))
        .collect();
    let all = Tensor::cat(&batches?, 0)?;
    Ok(all.broadcast_div(&all.sqr()?.sum_keepdim(1)?.sqrt()?)?)
}

/// The class with the most weight exp(similarity / temperature) among the nearest.
fn vote(similarities: &[f32], labels: &[u8]) -> u8 {
    let mut nearest: Vec<usize> = (0..similarities.len()).collect();
    nearest.sort_unstable_by(|a, b| similarities[*b].total_cmp(&similarities[*a]));
    let mut weights = [0f32; CLASSES];
    for index in nearest.iter().take(K) {
        weights[usize::from(labels[*index])] += (similarities[*index] / TEMPERATURE).exp();
    }
    let best = (0..CLASSES).max_by(|a, b| weights[*a].total_cmp(&weights[*b]));
    best.map_or(0, |class| class as u8)
}
