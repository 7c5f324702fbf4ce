//! Memory that lives from one training step to the next.

/// Buffers that were given back, lent again to whoever needs one of the same length. After the first step a training step
/// of the same shape allocates nothing.
#[derive(Default)]
pub(super) struct Arena {
    free: Vec<Vec<f32>>,
    free_bytes: Vec<Vec<u8>>,
}

impl Arena {
    /// A buffer of `length` values of unspecified content.
    pub(super) fn take(&mut self, length: usize) -> Vec<f32> {
        match self.free.iter().position(|buffer| buffer.len() == length) {
            Some(place) => self.free.swap_remove(place),
            None => vec![0.0; length],
        }
    }

    /// Takes a buffer back.
    pub(super) fn give(&mut self, buffer: Vec<f32>) {
        self.free.push(buffer);
    }

    /// As [`Arena::take`], of bytes.
    pub(super) fn take_bytes(&mut self, length: usize) -> Vec<u8> {
        match self.free_bytes.iter().position(|buffer| buffer.len() == length) {
            Some(place) => self.free_bytes.swap_remove(place),
            None => vec![0; length],
        }
    }

    /// As [`Arena::give`], of bytes.
    pub(super) fn give_bytes(&mut self, buffer: Vec<u8>) {
        self.free_bytes.push(buffer);
    }

    /// Gives the memory back to the system: the next step has another shape.
    pub(super) fn clear(&mut self) {
        self.free.clear();
        self.free_bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_lent_again() {
        let mut arena = Arena::default();
        let (first, second) = (arena.take(5), arena.take(5));
        let place = first.as_ptr();
        arena.give(second);
        arena.give(first);
        assert_eq!(arena.take(7).len(), 7);
        assert!([arena.take(5), arena.take(5)].iter().any(|buffer| buffer.as_ptr() == place));
        assert!(arena.free.is_empty());
    }
}
