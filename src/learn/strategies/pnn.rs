//! PNN, progressive networks: a new column for every task, the earlier ones frozen and listened to.
//!
//! The features of column k are f_k(x) + sum_{j < k} V_kj c_j(x), c_j the features of the frozen column j and V_kj trained along.
//! The lateral connections meet at the pooled features, not in every block as in the original: a column is then an encoder
//! like any other, on every device. Each task is answered by its own column, so nothing is forgotten and nothing is gained.
//! Source: Rusu et al. 2016, "Progressive Neural Networks", section 2. Costs a copy of the parameters for every task and a
//! forward pass of every earlier column: the cost of a step grows with the tasks. Needs task boundaries, and the task's number
//! of every question, which is why no daemon has it.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use super::frozen::freeze;
use super::{Batch, Cost, Dimensions, Network, State, Strategy, named};
use crate::config::{Random, Seed, StrategyKind};
use crate::encoder::{Backbone, Embedder, initial_parameters, initial_statistics};

/// The strategy and its columns.
pub struct Pnn {
    features: usize,
    device: Device,
    seed: Seed,
    columns: Vec<Column>,
    /// Of the column that is trained: (features of all earlier columns, features). None for the first.
    lateral: Vec<(String, Var)>,
    /// Of each pass: the features of all earlier columns, both views one after the other.
    heard: Vec<Tensor>,
}

/// A frozen one.
struct Column {
    parameters: Tensor,
    statistics: Tensor,
    /// None for the first.
    lateral: Option<Tensor>,
    embedder: Arc<ColumnEmbedder>,
}

/// An encoder with what it hears of earlier ones.
struct ColumnEmbedder {
    own: Arc<dyn Embedder>,
    earlier: Vec<Arc<ColumnEmbedder>>,
    lateral: Option<Tensor>,
}

impl Embedder for ColumnEmbedder {
    fn features(&self) -> usize {
        self.own.features()
    }

    fn embed(&self, images: &Tensor) -> Result<Tensor> {
        let own = self.own.embed(images)?;
        match (&self.lateral, hear(&self.earlier, images)?) {
            (Some(lateral), Some(heard)) => own + heard.matmul(lateral)?,
            _ => Ok(own),
        }
    }
}

/// Features of all columns side by side, (n, columns x features).
fn hear(columns: &[Arc<ColumnEmbedder>], images: &Tensor) -> Result<Option<Tensor>> {
    let heard = columns.iter().map(|column| column.embed(images)).collect::<Result<Vec<_>>>()?;
    if heard.is_empty() { Ok(None) } else { Tensor::cat(&heard, 1).map(|heard| Some(heard.detach())) }
}

impl Pnn {
    pub fn new(dimensions: &Dimensions) -> Self {
        Self {
            features: dimensions.features,
            device: dimensions.device.clone(),
            seed: dimensions.seed,
            columns: Vec::new(),
            lateral: Vec::new(),
            heard: Vec::new(),
        }
    }

    fn embedders(&self) -> Vec<Arc<ColumnEmbedder>> {
        self.columns.iter().map(|column| column.embedder.clone()).collect()
    }

    /// Lateral connections of the column after those there are: they start small, so that it starts as itself.
    fn connect(&mut self, like: &Tensor) -> Result<()> {
        let inputs = self.columns.len() * self.features;
        let bound = 0.1 / (inputs as f64).sqrt();
        let mut random = self.seed.random("lateral", self.columns.len() as u64);
        let values: Vec<f32> = (0..inputs * self.features).map(|_| random.range(-bound, bound) as f32).collect();
        let tensor = Tensor::from_vec(values, (inputs, self.features), &self.device)?.to_dtype(like.dtype())?;
        self.lateral = vec![("lateral".to_owned(), Var::from_tensor(&tensor)?)];
        Ok(())
    }

    fn column_of(
        &self,
        (parameters, statistics): (Tensor, Tensor),
        lateral: Option<Tensor>,
        network: &mut Network<'_>,
    ) -> Result<Column> {
        let own = freeze(network, &parameters, &statistics)?;
        let embedder = Arc::new(ColumnEmbedder { own, earlier: self.embedders(), lateral: lateral.clone() });
        Ok(Column { parameters, statistics, lateral, embedder })
    }
}

impl Strategy for Pnn {
    fn kind(&self) -> StrategyKind {
        StrategyKind::Pnn
    }

    fn cost(&self) -> Cost {
        Cost { parameter_copies: self.columns.len(), forward_passes: self.columns.len() }
    }

    fn rehearses(&self) -> bool {
        false
    }

    fn compose(&mut self, stream: Option<Batch>, _replay: Option<Batch>, _: &mut Random) -> Result<Vec<Batch>> {
        Ok(stream.into_iter().collect())
    }

    fn prepare(&mut self, passes: &[Batch], _network: &mut Network<'_>) -> Result<()> {
        let columns = self.embedders();
        let heard = |batch: &Batch| hear(&columns, &Tensor::cat(&[&batch.views.first, &batch.views.second], 0)?);
        self.heard = passes.iter().filter_map(|batch| heard(batch).transpose()).collect::<Result<_>>()?;
        Ok(())
    }

    fn transform(&self, pass: usize, [first, second]: [Tensor; 2]) -> Result<[Tensor; 2]> {
        let (Some(heard), Some((_, lateral))) = (self.heard.get(pass), self.lateral.first()) else {
            return Ok([first, second]);
        };
        let count = first.dim(0)?;
        let heard = heard.matmul(lateral)?;
        Ok([(first + heard.narrow(0, 0, count)?)?, (second + heard.narrow(0, count, count)?)?])
    }

    fn variables(&self) -> &[(String, Var)] {
        &self.lateral
    }

    fn reseed(&mut self, seed: Seed) {
        self.seed = seed;
    }

    fn at_boundary(&mut self, network: &mut Network<'_>) -> Result<bool> {
        let copy = |tensor: &Tensor| Ok::<_, candle_core::Error>(tensor.force_contiguous()?.detach());
        let weights = (copy(network.backbone.parameters())?, copy(network.backbone.statistics())?);
        let lateral = self.lateral.first().map(|(_, var)| copy(var)).transpose()?;
        let column = self.column_of(weights, lateral, network)?;
        self.columns.push(column);
        self.heard.clear();
        let seed = Seed(self.seed.random("column", self.columns.len() as u64).next_u64());
        let parameters = Tensor::new(initial_parameters(network.backbone.layout(), seed), &self.device)?;
        let statistics = Tensor::new(initial_statistics(network.backbone.statistics_layout()), &self.device)?;
        network.backbone.load(&parameters, &statistics)?;
        self.connect(network.backbone.parameters())?;
        Ok(true)
    }

    fn freeze(&self, backbone: &dyn Backbone) -> Result<Arc<dyn Embedder>> {
        let lateral = self.lateral.first().map(|(_, var)| var.force_contiguous()).transpose()?;
        let lateral = lateral.map(|lateral| lateral.detach());
        Ok(Arc::new(ColumnEmbedder { own: backbone.freeze()?, earlier: self.embedders(), lateral }))
    }

    fn column(&self, task: usize) -> Option<Arc<dyn Embedder>> {
        self.columns.get(task).map(|column| column.embedder.clone() as Arc<dyn Embedder>)
    }

    fn state(&self) -> Result<State> {
        let mut state = State::new();
        for (index, Column { parameters, statistics, lateral, .. }) in self.columns.iter().enumerate() {
            state.insert(format!("column.{index}.parameters"), parameters.clone());
            state.insert(format!("column.{index}.statistics"), statistics.clone());
            if let Some(lateral) = lateral {
                state.insert(format!("column.{index}.lateral"), lateral.clone());
            }
        }
        Ok(state)
    }

    fn restore(&mut self, state: &State, network: &mut Network<'_>) -> Result<()> {
        let like = network.backbone.parameters().clone();
        let statistics = network.backbone.statistics().clone();
        let mut restored = self.empty();
        while state.contains_key(&format!("column.{}.parameters", restored.columns.len())) {
            let index = restored.columns.len();
            let take = |part: &str, shape: &[usize]| {
                named(state, &format!("column.{index}.{part}"), shape)?.to_dtype(like.dtype())
            };
            let weights = (take("parameters", like.dims())?, take("statistics", statistics.dims())?);
            let shape = [index * self.features, self.features];
            let lateral = (index > 0).then(|| take("lateral", &shape)).transpose()?;
            let column = restored.column_of(weights, lateral, network)?;
            restored.columns.push(column);
        }
        if !restored.columns.is_empty() {
            restored.connect(&like)?;
        }
        *self = restored;
        Ok(())
    }
}

impl Pnn {
    fn empty(&self) -> Self {
        Self {
            features: self.features,
            device: self.device.clone(),
            seed: self.seed,
            columns: Vec::new(),
            lateral: Vec::new(),
            heard: Vec::new(),
        }
    }
}
