use proptest::prelude::*;

use super::super::FeatureKind;
use super::*;

const WIDTH: usize = 4;

/// A policy driven as the buffer drives it, beside what a naive one would do.
struct Rig {
    policy: MinRed,
    stored: Vec<Option<(FrameId, Vec<i16>)>>,
    next: u64,
}

fn space(version: u64) -> FeatureSpace {
    FeatureSpace { kind: FeatureKind::Published, width: WIDTH, version }
}

/// A direction near to one of eight, as a stream of eight products would have it.
fn feature(kind: u64, number: u64) -> Vec<f32> {
    let mut base = Seed(9).random("kind", kind);
    let mut noise = Seed(10).random("noise", number);
    (0..WIDTH).map(|_| (base.normal() + 0.1 * noise.normal()) as f32).collect()
}

impl Rig {
    fn new(slots: usize) -> Self {
        let mut policy = MinRed::new(Seed(1));
        policy.adopt(slots, &[], None);
        policy.enter_space(space(1));
        Self { policy, stored: vec![None; slots], next: 1 }
    }

    fn offer(&mut self, feature: &[f32]) -> Option<usize> {
        let id = FrameId(self.next);
        self.next += 1;
        let slots = self.stored.len();
        let offer = Offer::new(id, id.0 - 1, slots).with_feature(Some(feature));
        let expected = self.naive(feature);
        let place = self.policy.place(&offer);
        assert_eq!(place, expected, "frame {id}");
        if let Some(slot) = place {
            self.policy.stored(slot, id);
            self.stored[slot] = Some((id, rows::quantised(feature).unwrap()));
        }
        self.check();
        place
    }

    /// The definition, by all pairs: the newcomer has the number of slots as its own.
    fn naive(&self, feature: &[f32]) -> Option<usize> {
        if let Some(vacant) = self.stored.iter().position(Option::is_none) {
            return Some(vacant);
        }
        let newcomer = self.stored.len();
        let mut all: Vec<Vec<i16>> = self.stored.iter().flatten().map(|(_, row)| row.clone()).collect();
        all.push(rows::quantised(feature).unwrap());
        let dot = |a: usize, b: usize| -> i32 {
            all[a].iter().zip(&all[b]).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
        };
        let nearest = |of: usize, without: usize| -> (i32, usize) {
            let others = (0..all.len()).filter(|&other| other != of && other != without);
            others
                .map(|other| (dot(of, other), other))
                .max_by_key(|&(s, other)| (s, std::cmp::Reverse(other)))
                .unwrap_or((i32::MIN, usize::MAX))
        };
        let closest = (0..all.len())
            .map(|a| (nearest(a, a).0, a))
            .max_by_key(|&(s, a)| (s, a == newcomer, std::cmp::Reverse(a)))
            .unwrap();
        let a = closest.1;
        let b = nearest(a, a).1;
        let other = |x: usize, y: usize| nearest(x, y).0;
        if a == newcomer {
            return (other(b, a) > other(a, b)).then_some(b);
        }
        // As the policy sees it, the newcomer is no neighbour yet: it may only reject or replace.
        let second = |x: usize| {
            let mut similarities: Vec<i32> = (0..newcomer).filter(|&y| y != x).map(|y| dot(x, y)).collect();
            similarities.sort_unstable();
            similarities.iter().rev().nth(1).copied()
        };
        let age = |x: usize| std::cmp::Reverse(self.stored[x].as_ref().map(|(id, _)| *id));
        Some(if (second(a), age(a)) >= (second(b), age(b)) { a } else { b })
    }

    /// The neighbours kept are those that a whole new search finds.
    fn check(&self) {
        for slot in 0..self.stored.len() as u32 {
            let mut similarities = if self.policy.rows.has(slot) {
                self.policy.rows.similarities(self.policy.rows.row(slot))
            } else {
                vec![rows::NONE; self.stored.len()]
            };
            similarities[slot as usize] = rows::NONE;
            assert_eq!(self.policy.links.of(slot), links::two_nearest(&similarities), "slot {slot}");
        }
    }
}

#[test]
fn of_the_closest_pair_the_one_with_the_nearer_second_neighbour_goes() {
    let mut rig = Rig::new(3);
    // a and b are close; c lies on b's side.
    for degrees in [0.0_f32, 10.0, 40.0] {
        let (sin, cos) = degrees.to_radians().sin_cos();
        rig.offer(&[cos, sin, 0.0, 0.0]);
    }
    assert_eq!(rig.offer(&[0.0, 0.0, 1.0, 0.0]), Some(1), "b goes for something new");
    assert_eq!(rig.offer(&[0.0, 0.01, 1.0, 0.0]), None, "a repetition is rejected");
}

#[test]
fn a_correlated_stream_leaves_more_distinct_images_than_reservoir_and_fifo() {
    let (slots, kinds, repeats) = (64, 512_u64, 24_u64);
    let feature = |kind: u64, repeat: u64| -> Vec<f32> {
        let mut base = Seed(2).random("image", kind);
        let mut noise = Seed(3).random("repeat", kind * repeats + repeat);
        (0..16).map(|_| (base.normal() + 0.02 * noise.normal()) as f32).collect()
    };
    let distinct = |policy: &mut dyn Policy| {
        if let Some(features) = policy.features() {
            features.adopt(slots, &[], None);
            features.enter_space(FeatureSpace { width: 16, ..space(1) });
        }
        let mut held = vec![None; slots];
        for n in 0..kinds * repeats {
            let (kind, id) = (n / repeats, FrameId(n + 1));
            let row = feature(kind, n % repeats);
            let offer = Offer::new(id, n, slots).with_feature(Some(&row));
            if let Some(slot) = policy.place(&offer) {
                held[slot] = Some(kind);
                if let Some(features) = policy.features() {
                    features.stored(slot, id);
                }
            }
        }
        held.into_iter().flatten().collect::<BTreeSet<u64>>().len()
    };
    let minred = distinct(&mut MinRed::new(Seed(5)));
    let reservoir = distinct(&mut Reservoir::new(Seed(5)));
    let fifo = distinct(&mut super::super::Fifo);
    println!("distinct images of {slots}: minred {minred}, reservoir {reservoir}, fifo {fifo}");
    assert_eq!(minred, slots, "every kept image is another one");
    assert!(reservoir < 63 && fifo == 3, "reservoir {reservoir}, fifo {fifo}");
}

#[test]
fn what_was_saved_decides_as_if_nothing_had_happened_and_damage_is_noticed() {
    let mut rig = Rig::new(12);
    (0..60).for_each(|n| _ = rig.offer(&feature(n % 8, n)));
    rig.policy.enter_space(space(2));
    for frame in rig.policy.stale(5) {
        rig.policy.refresh(frame, &feature(1, frame.0));
    }
    let live: Vec<(usize, FrameId)> =
        rig.stored.iter().enumerate().filter_map(|(slot, held)| Some((slot, held.as_ref()?.0))).collect();
    let saved = rig.policy.save();
    let mut again = MinRed::new(Seed(1));
    again.adopt(12, &live, Some(&saved));
    assert_eq!(
        (&again.links, &again.versions, &again.frames),
        (&rig.policy.links, &rig.policy.versions, &rig.policy.frames)
    );
    for n in 60..90 {
        let (id, row) = (FrameId(n + 1), feature(n % 8, n));
        let offer = Offer::new(id, n, 12).with_feature(Some(&row));
        let place = rig.policy.place(&offer);
        assert_eq!(again.place(&offer), place);
        if let Some(slot) = place {
            rig.policy.stored(slot, id);
            again.stored(slot, id);
        }
    }
    for at in 0..saved.len() {
        let mut bad = saved.clone();
        bad[at] ^= 4;
        assert!(saved::decode(&bad, 12, Reservoir::new(Seed(1))).is_none(), "byte {at}");
    }
    // What changed since is not taken from the saved state, and what is not in it has no features yet.
    let mut live = live;
    live[3].1 = FrameId(999);
    live.remove(5);
    let mut again = MinRed::new(Seed(1));
    again.adopt(12, &live, Some(&saved));
    assert_eq!(again.stale(1), [FrameId(999)]);
    let offer = Offer::new(FrameId(1000), 500, 12);
    assert_eq!(again.place(&offer), Some(5), "an empty slot is filled whatever the features");
}

#[test]
fn features_are_renewed_in_turn() {
    let mut rig = Rig::new(6);
    (0..6).for_each(|n| _ = rig.offer(&feature(n, n)));
    assert!(rig.policy.stale(10).is_empty());
    rig.policy.enter_space(space(2));
    let mut seen = Vec::new();
    loop {
        let stale = rig.policy.stale(4);
        if stale.is_empty() {
            break;
        }
        for frame in stale {
            let slot = rig.policy.slots[&frame];
            rig.policy.refresh(frame, &[1.0, 0.0, 0.0, 0.0]);
            assert_eq!(rig.policy.rows.row(slot), rows::quantised(&[1.0, 0.0, 0.0, 0.0]).unwrap());
            rig.check();
            seen.push(frame.0);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    rig.policy.enter_space(FeatureSpace { width: 3, ..space(3) });
    assert_eq!(rig.policy.stale(10).len(), 6, "features of another width are all computed anew");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn decisions_are_those_of_the_definition_and_neighbours_stay_exact(
        slots in 1_usize..10,
        steps in proptest::collection::vec((0_u64..8, 0_u8..10, any::<u64>()), 1..80),
    ) {
        let mut rig = Rig::new(slots);
        for (kind, what, number) in steps {
            let slot = number as usize % slots;
            match what {
                0 => {
                    rig.policy.removed(slot);
                    rig.stored[slot] = None;
                    rig.check();
                }
                1 => if let Some((frame, row)) = &mut rig.stored[slot] {
                    let new = feature(kind, number);
                    rig.policy.refresh(*frame, &new);
                    *row = rig.policy.rows.row(slot as u32).to_vec();
                    rig.check();
                },
                _ => _ = rig.offer(&feature(kind, number)),
            }
        }
    }

    #[test]
    fn any_bytes_are_no_reason_to_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut framed = b"LUMPMIN1".to_vec();
        framed.extend(&bytes);
        framed.extend(crc32fast::hash(&framed).to_le_bytes());
        for bytes in [bytes, framed] {
            let _ = saved::decode(&bytes, 4, Reservoir::new(Seed(0)));
        }
    }
}
