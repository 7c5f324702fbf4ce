//! Removal: from the readers' sight, from the index of the next start, and from the file.

use super::ReplayError;
use super::backing::Backing;
use super::layout::HEADER;
use super::store::FrameStore;

impl<B: Backing> FrameStore<B> {
    /// Empties slots and erases their pixels from the file; commits what is pending before. Durable when it returns.
    /// Returns how many of them held an image.
    ///
    /// # Errors
    /// As [`commit`](Self::commit). After [`ReplayError::Io`] the images are no longer served, but may still be in the
    /// file.
    pub fn remove(&mut self, slots: &[usize]) -> Result<usize, ReplayError> {
        let slots = slots.iter().map(|&slot| self.check_slot(slot)).collect::<Result<Vec<_>, _>>()?;
        // First what is pending, then the wipes of older copies of the same slots: else one of them could come back
        // instead.
        self.flush()?;
        self.sync()?;
        let removed: Vec<u32> = {
            let mut index = self.shared.index_mut();
            slots.iter().filter_map(|&slot| index.remove(slot)).map(|entry| entry.physical).collect()
        };
        self.to_wipe.extend(&removed);
        self.counters.forgotten += removed.len() as u64;
        // The pixels before the header: a slot that still has its header is found again after a crash, and asked for
        // again.
        self.erase(&removed)?;
        self.sync()?;
        self.flush()?;
        Ok(removed.len())
    }

    /// Erases the pixels that replaced images left in free slots, durably with the next commit.
    ///
    /// # Errors
    /// [`ReplayError::Io`].
    pub fn erase_free(&mut self) -> Result<(), ReplayError> {
        self.check()?;
        let free: Vec<u32> = self.free.iter().copied().collect();
        self.erase(&free)
    }

    fn erase(&mut self, physical: &[u32]) -> Result<(), ReplayError> {
        #[cfg(test)]
        if self.shared.planted == Some(super::shared::PlantedBug::RemovedPixelsNotErased) {
            return Ok(());
        }
        let zeros = vec![0; self.geometry().shape.bytes()];
        for &physical in physical {
            self.synced = false;
            self.write(self.geometry().slot_offset(physical) + HEADER as u64, &zeros, "erase a slot of")?;
        }
        Ok(())
    }
}
