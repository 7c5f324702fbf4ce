//! How many distinct frames come in an hour: what turns a promise in hours into one in frames.

use super::SegmentError;
use super::bytes::{Reader, Writer, expect_length};

/// Time remembered in full weight, in seconds; beyond twice as much what is older counts half.
const MEMORY_SECONDS: f64 = 24.0 * 3600.0;
/// A longer silence is a camera that is switched off, and no time in which frames come.
const LONGEST_GAP_SECONDS: f64 = 60.0;
/// Distinct frames before their rate is believed.
const ENOUGH: f64 = 512.0;
/// Thresholds stay as they are until the frames promised are this many times as many or as few.
const WORTH_A_CHANGE: f64 = 1.25;
/// Frames that can be promised.
const FEWEST: f64 = 100.0;
const MOST: f64 = 1e12;

/// The rate of one stream's distinct frames, and the frames promised between false alarms.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pace {
    promised: u64,
    last_ns: Option<i64>,
    frames: f64,
    seconds: f64,
}

impl Pace {
    /// `promised`: frames between false alarms as long as the rate is not known.
    pub fn new(promised: u64) -> Self {
        Self { promised, last_ns: None, frames: 0.0, seconds: 0.0 }
    }

    pub fn promised(&self) -> u64 {
        self.promised
    }

    /// Takes a frame that was seen at `now_ns` (nanoseconds since any one moment).
    pub fn tick(&mut self, now_ns: i64, distinct: bool) {
        let since = self.last_ns.map_or(0.0, |last| now_ns.saturating_sub(last) as f64 * 1e-9);
        self.last_ns = self.last_ns.max(Some(now_ns));
        self.seconds += since.clamp(0.0, LONGEST_GAP_SECONDS);
        self.frames += f64::from(u8::from(distinct));
        if self.seconds >= 2.0 * MEMORY_SECONDS {
            (self.frames, self.seconds) = (0.5 * self.frames, 0.5 * self.seconds);
        }
    }

    /// Distinct frames in an hour in which frames come; none before there are enough to tell.
    pub fn frames_an_hour(&self) -> Option<f64> {
        (self.frames >= ENOUGH && self.seconds > 0.0).then(|| 3600.0 * self.frames / self.seconds)
    }

    /// The frames to promise from now on so that they take `hours`; none where the thresholds may stay as they are.
    pub fn promise(&mut self, hours: f64) -> Option<u64> {
        let wanted = (hours * self.frames_an_hour()?).clamp(FEWEST, MOST);
        let times = wanted / self.promised.max(1) as f64;
        if times < WORTH_A_CHANGE && times > 1.0 / WORTH_A_CHANGE {
            return None;
        }
        self.promised = wanted.round() as u64;
        Some(self.promised)
    }

    pub fn write(&self, writer: &mut Writer) {
        writer.u64(self.promised);
        writer.optional(self.last_ns.map(i64::cast_unsigned));
        writer.f64s(&[self.frames, self.seconds]);
    }

    pub fn read(reader: &mut Reader<'_>) -> Result<Self, SegmentError> {
        let (promised, last_ns) = (reader.u64()?, reader.optional()?.map(u64::cast_signed));
        let rate = expect_length(reader.f64s()?, 2)?;
        Ok(Self { promised, last_ns, frames: rate[0], seconds: rate[1] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// `count` distinct frames, `each_ns` apart.
    fn feed(pace: &mut Pace, start_ns: i64, count: i64, each_ns: i64) -> i64 {
        (0..count).for_each(|n| pace.tick(start_ns + n * each_ns, true));
        start_ns + count * each_ns
    }

    #[test]
    fn hours_are_the_frames_that_come_in_them_and_follow_the_rate() {
        let mut pace = Pace::new(50_000);
        let now = feed(&mut pace, 0, 100, SECOND);
        assert_eq!((pace.promise(24.0), pace.promised()), (None, 50_000), "too few frames to tell");
        let now = feed(&mut pace, now, 3_600, SECOND);
        let promised = pace.promise(24.0).unwrap();
        assert!(promised.abs_diff(24 * 3_600) < 100, "{promised}");
        assert_eq!(pace.promise(24.0), None);
        feed(&mut pace, now, 40_000, SECOND / 10);
        assert!(pace.promise(24.0).unwrap() > 200_000);
    }

    #[test]
    fn a_night_without_frames_is_no_time_and_near_duplicates_are_no_frames() {
        let mut pace = Pace::new(50_000);
        let now = feed(&mut pace, 0, 1_000, SECOND);
        let rate = pace.frames_an_hour().unwrap();
        feed(&mut pace, now + 10 * 3_600 * SECOND, 1_000, SECOND);
        assert!((pace.frames_an_hour().unwrap() / rate - 1.0).abs() < 0.05);
        // Clocks that go back are no time.
        pace.tick(0, false);
        assert!((pace.frames_an_hour().unwrap() / rate - 1.0).abs() < 0.05);
        let mut still = Pace::new(50_000);
        (0..10_000).for_each(|n| still.tick(n * SECOND, n % 10 == 0));
        assert!((still.frames_an_hour().unwrap() - 360.0).abs() < 4.0);
    }

    #[test]
    fn a_restored_pace_is_the_same() {
        let mut pace = Pace::new(50_000);
        feed(&mut pace, -5 * SECOND, 2_000, SECOND / 3);
        pace.promise(2.0);
        let mut writer = Writer::default();
        pace.write(&mut writer);
        assert_eq!(Pace::read(&mut Reader::new(&writer.finish())).unwrap(), pace);
    }
}
