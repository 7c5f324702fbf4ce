//! In which numbers a convolution multiplies.

/// The numbers whose products a convolution sums. Maps, weights, gradients and all sums are f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    #[default]
    F32,
    /// Factors rounded to bf16 (8 bits of mantissa) on their way to the multiplier; only where [`super::Isa::has_bf16`].
    Bf16,
}

impl Products {
    /// Values in 32 bits.
    pub(super) fn per_unit(self) -> usize {
        match self {
            Products::F32 => 1,
            Products::Bf16 => 2,
        }
    }
}
