//! The byte format of detector states: little-endian, every length checked against what is left before it is used.
//!
//! Floats are stored as their bits, so that a restored detector goes on exactly where it stopped.

use super::SegmentError;

const SHORT: SegmentError = SegmentError::State("it is cut short");

/// Appends values.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    /// An absent number is a flag of 0; a present one is a flag of 1 and the number.
    pub fn optional(&mut self, value: Option<u64>) {
        self.u64(u64::from(value.is_some()));
        self.u64(value.unwrap_or(0));
    }

    pub fn f32s<'a>(&mut self, values: impl ExactSizeIterator<Item = &'a f32>) {
        self.u64(values.len() as u64);
        values.for_each(|value| self.0.extend_from_slice(&value.to_bits().to_le_bytes()));
    }

    pub fn f64s(&mut self, values: &[f64]) {
        self.u64(values.len() as u64);
        values.iter().for_each(|&value| self.f64(value));
    }

    pub fn u64s(&mut self, values: impl ExactSizeIterator<Item = u64>) {
        self.u64(values.len() as u64);
        values.for_each(|value| self.u64(value));
    }

    pub fn blob(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

/// Takes the values back in the order they were written.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], SegmentError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*head)
    }

    pub fn u64(&mut self) -> Result<u64, SegmentError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub fn f64(&mut self) -> Result<f64, SegmentError> {
        Ok(f64::from_bits(self.u64()?))
    }

    pub fn optional(&mut self) -> Result<Option<u64>, SegmentError> {
        let present = self.u64()?;
        let value = self.u64()?;
        Ok((present == 1).then_some(value))
    }

    /// A count of items of `size` bytes each, no more than are left.
    fn count(&mut self, size: usize) -> Result<usize, SegmentError> {
        let count = usize::try_from(self.u64()?).map_err(|_| SHORT)?;
        match count.checked_mul(size) {
            Some(bytes) if bytes <= self.0.len() => Ok(count),
            _ => Err(SHORT),
        }
    }

    pub fn f32s(&mut self) -> Result<Vec<f32>, SegmentError> {
        let count = self.count(4)?;
        (0..count).map(|_| Ok(f32::from_bits(u32::from_le_bytes(self.take()?)))).collect()
    }

    pub fn f64s(&mut self) -> Result<Vec<f64>, SegmentError> {
        let count = self.count(8)?;
        (0..count).map(|_| self.f64()).collect()
    }

    pub fn u64s(&mut self) -> Result<Vec<u64>, SegmentError> {
        let count = self.count(8)?;
        (0..count).map(|_| self.u64()).collect()
    }

    pub fn blob(&mut self) -> Result<&'a [u8], SegmentError> {
        let count = self.count(1)?;
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(head)
    }

    /// Everything must have been taken.
    pub fn end(self) -> Result<(), SegmentError> {
        if self.0.is_empty() { Ok(()) } else { Err(SegmentError::State("it is longer than it should be")) }
    }
}

/// Whether `values` has the length that the state's other parts imply.
pub(super) fn expect_length<T>(values: Vec<T>, length: usize) -> Result<Vec<T>, SegmentError> {
    if values.len() == length { Ok(values) } else { Err(SegmentError::State("its parts do not fit together")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_bit_for_bit_and_a_cut_is_an_error_not_a_panic() {
        let mut writer = Writer::default();
        writer.f64(-0.0);
        writer.optional(Some(7));
        writer.f32s([f32::NAN, 1.5e-40].iter());
        writer.u64s([1, u64::MAX].into_iter());
        writer.blob(b"abc");
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.f64().unwrap().to_bits(), (-0.0f64).to_bits());
        assert_eq!(reader.optional().unwrap(), Some(7));
        assert_eq!(reader.f32s().unwrap()[1].to_bits(), 1.5e-40f32.to_bits());
        assert_eq!(reader.u64s().unwrap(), [1, u64::MAX]);
        assert_eq!(reader.blob().unwrap(), b"abc");
        reader.end().unwrap();
        assert!(Reader::new(&bytes[..bytes.len() - 1]).u64s().is_err());
        assert!(Reader::new(&u64::MAX.to_le_bytes()).f32s().is_err());
    }
}
