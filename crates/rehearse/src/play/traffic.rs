//! Traffic: described by a rate and its shape over the day, or recorded.
//!
//! Promises: how many requests come in a second depends on the seed and that second alone, so every strategy meets the same ones.

use modelyard_core::Millis;

use super::draws;

const DAY: u64 = 86_400;

/// Requests over time.
#[derive(Clone, Debug, PartialEq)]
pub enum Traffic {
    /// A rate and its shape.
    Described(Described),
    /// What came once, second by second.
    Recorded(Recorded),
}

/// A rate and its shape over the day.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Requests per second when it is busiest.
    pub rate: f64,
    /// Share of the rate at each full hour, 0 to 1; straight lines between.
    pub hours: [f64; 24],
    /// Spans of the day without any traffic: from and to, in minutes after midnight; one that ends earlier than it begins passes midnight.
    pub quiet: Vec<(u32, u32)>,
}

/// What came once. Played from its beginning again when it is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Second of the day at which it began.
    pub begins: u64,
    /// Requests of each second.
    pub seconds: Vec<u32>,
}

/// Shapes by name: the share of the busiest hour at each full hour.
pub const SHAPES: [(&str, [f64; 24]); 4] = [
    ("flat", [1.0; 24]),
    (
        "day",
        [
            0.25, 0.18, 0.14, 0.12, 0.13, 0.18, 0.30, 0.48, 0.66, 0.80, 0.88, 0.92, 0.94, 0.92, 0.90, 0.90, 0.92, 0.95,
            0.98, 1.0, 0.95, 0.80, 0.58, 0.38,
        ],
    ),
    (
        "office",
        [
            0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 0.30, 0.75, 0.95, 1.0, 0.95, 0.70, 0.85, 0.95, 0.90, 0.75, 0.45, 0.15,
            0.05, 0.02, 0.0, 0.0, 0.0,
        ],
    ),
    (
        "night",
        [
            0.9, 1.0, 1.0, 1.0, 0.9, 0.6, 0.2, 0.05, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02,
            0.02, 0.05, 0.1, 0.3, 0.6,
        ],
    ),
];

/// The shape of that name.
pub fn shape(name: &str) -> Option<[f64; 24]> {
    SHAPES.iter().find(|(known, _)| *known == name).map(|(_, hours)| *hours)
}

impl Described {
    /// This many requests a second, day and night.
    pub fn steady(rate: f64) -> Self {
        Self { rate, hours: [1.0; 24], quiet: Vec::new() }
    }

    /// Requests per second expected in that second of the day.
    fn at(&self, second: u64) -> f64 {
        let second = second % DAY;
        let minute = (second / 60) as u32;
        let is_quiet = |&(from, to): &(u32, u32)| match from <= to {
            true => (from..to).contains(&minute),
            false => minute >= from || minute < to,
        };
        if self.quiet.iter().any(is_quiet) {
            return 0.0;
        }
        let (hour, part) = ((second / 3_600) as usize, (second % 3_600) as f64 / 3_600.0);
        let (here, next) = (self.hours[hour], self.hours[(hour + 1) % 24]);
        self.rate * (here + (next - here) * part)
    }
}

impl Recorded {
    /// From the moments (in seconds, any origin) of single requests, in any order. `None` without any.
    ///
    /// A recording of more than 400 days is refused (`None`): its moments are of another unit.
    pub fn from_moments(moments: &[f64]) -> Option<Self> {
        Self::from_rates(&moments.iter().map(|&at| (at, 1.0)).collect::<Vec<_>>(), 1.0)
    }

    /// From numbers of requests by the moment (in seconds) at which an interval of `interval` seconds began.
    pub fn from_rates(counts: &[(f64, f64)], interval: f64) -> Option<Self> {
        let first = counts.iter().map(|&(at, _)| at).filter(|at| at.is_finite()).fold(f64::INFINITY, f64::min);
        let last = counts.iter().map(|&(at, _)| at).filter(|at| at.is_finite()).fold(f64::NEG_INFINITY, f64::max);
        let length = last.floor() - first.floor() + interval.max(1.0);
        if !length.is_finite() || length > (400 * DAY) as f64 || first < 0.0 {
            return None;
        }
        let mut exact = vec![0.0; length.ceil() as usize];
        let width = interval.max(1.0).floor() as usize;
        for &(at, count) in counts.iter().filter(|(at, count)| at.is_finite() && count.is_finite() && *count > 0.0) {
            let from = (at - first.floor()) as usize;
            let to = (from + width).min(exact.len());
            let part = count / (to - from).max(1) as f64;
            exact[from..to].iter_mut().for_each(|second| *second += part);
        }
        // Parts of requests are carried on, so that the sum stays what it was.
        let mut carried = 0.0;
        let whole = |second: f64| {
            carried += second;
            let whole = (carried + 1e-9).floor();
            carried -= whole;
            whole as u32
        };
        Some(Self { begins: first as u64 % DAY, seconds: exact.into_iter().map(whole).collect() })
    }

    /// All its requests.
    pub fn requests(&self) -> u64 {
        self.seconds.iter().map(|&count| u64::from(count)).sum()
    }
}

impl Traffic {
    /// Requests expected per second at that second of the day, for people and charts.
    pub fn rate(&self, second: u64) -> f64 {
        match self {
            Self::Described(described) => described.at(second),
            Self::Recorded(recorded) => f64::from(recorded.second(second)),
        }
    }

    /// The second of the day at which it is usual to begin: with the recording, else 10:00.
    pub fn usual_start(&self) -> u64 {
        match self {
            Self::Described(_) => 36_000,
            Self::Recorded(recorded) => recorded.begins,
        }
    }
}

impl Recorded {
    /// Requests at this second after midnight of the day on which it began.
    fn second(&self, second: u64) -> u32 {
        // What is asked before the recording begins is of its first day that has that hour.
        let since = if second >= self.begins { second - self.begins } else { second + DAY - self.begins };
        match self.seconds.len() as u64 {
            0 => 0,
            length => self.seconds[(since % length) as usize],
        }
    }
}

/// Traffic as it comes in one play.
#[derive(Clone, Debug)]
pub(super) struct Arrivals<'a> {
    traffic: &'a Traffic,
    seed: u64,
    /// Second of the day at which the play begins.
    start: u64,
    /// The second that was drawn last.
    drawn: (u64, u64),
}

impl<'a> Arrivals<'a> {
    pub(super) fn new(traffic: &'a Traffic, seed: u64, start: u64) -> Self {
        Self { traffic, seed, start, drawn: (u64::MAX, 0) }
    }

    /// Requests between two moments of the play.
    pub(super) fn between(&mut self, from: Millis, to: Millis) -> u64 {
        let (first, last) = (from.0 / 1_000, to.0.div_ceil(1_000));
        (first..last)
            .map(|second| {
                let begin = second * 1_000;
                let (low, high) = (from.0.saturating_sub(begin).min(1_000), (to.0 - begin).min(1_000));
                let count = self.of(second);
                // Evenly over the second; parts add up to the whole wherever it is cut.
                count * high / 1_000 - count * low / 1_000
            })
            .sum()
    }

    fn of(&mut self, second: u64) -> u64 {
        if self.drawn.0 != second {
            let at = self.start + second;
            let count = match self.traffic {
                Traffic::Recorded(recorded) => u64::from(recorded.second(at)),
                Traffic::Described(described) => {
                    // Weyl's sequence keeps neighbouring seconds apart.
                    let seed = self.seed ^ (second + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    draws::poisson(&mut fastrand::Rng::with_seed(seed), described.at(at))
                }
            };
            self.drawn = (second, count);
        }
        self.drawn.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_a_span_is_cut_as_many_requests_come() {
        let traffic = Traffic::Described(Described::steady(37.0));
        let mut arrivals = Arrivals::new(&traffic, 5, 0);
        let whole = arrivals.between(Millis(0), Millis::seconds(600));
        let parts: u64 = (0..2_400).map(|tick| arrivals.between(Millis(tick * 250), Millis(tick * 250 + 250))).sum();
        let odd: u64 = (0..6_000).map(|tick| arrivals.between(Millis(tick * 100), Millis(tick * 100 + 100))).sum();
        assert_eq!((whole, whole), (parts, odd));
        assert!((20_500..24_000).contains(&whole), "about 600 × 37: {whole}");
        assert_ne!(whole, Arrivals::new(&traffic, 6, 0).between(Millis(0), Millis::seconds(600)), "another seed");
    }

    #[test]
    fn quiet_hours_pass_midnight_and_shapes_join_without_a_jump() {
        let night = Described { quiet: vec![(22 * 60, 6 * 60)], ..Described::steady(10.0) };
        let at = |hour: u64, minute: u64| night.at(hour * 3_600 + minute * 60);
        assert_eq!([at(21, 59), at(22, 0), at(3, 0), at(5, 59), at(6, 0)], [10.0, 0.0, 0.0, 0.0, 10.0]);
        for (name, hours) in SHAPES {
            assert!(hours.iter().all(|share| (0.0..=1.0).contains(share)) && hours.contains(&1.0), "{name}");
            let described = Described { rate: 100.0, hours, quiet: Vec::new() };
            let jump = (0..DAY).map(|s| (described.at(s) - described.at(s + 1)).abs()).fold(0.0, f64::max);
            assert!(jump < 0.1, "{name} jumps by {jump}");
        }
    }

    #[test]
    fn recordings_keep_their_requests_and_begin_again() {
        let recorded = Recorded::from_moments(&[3_602.5, 3_600.1, 3_600.9]).unwrap();
        assert_eq!((recorded.begins, recorded.seconds.as_slice()), (3_600, &[2, 0, 1][..]));
        let traffic = Traffic::Recorded(recorded);
        let mut arrivals = Arrivals::new(&traffic, 0, 3_600);
        assert_eq!(arrivals.between(Millis(0), Millis::seconds(6)), 6, "twice");
        let minutes = Recorded::from_rates(&[(0.0, 90.0), (60.0, 30.0)], 60.0).unwrap();
        assert_eq!((minutes.seconds.len(), minutes.requests()), (120, 120));
        assert_eq!(Recorded::from_moments(&[]), None);
        assert_eq!(Recorded::from_moments(&[0.0, 1e12]), None, "milliseconds taken for seconds");
        assert_eq!(Recorded::from_moments(&[f64::NAN]), None);
    }
}
