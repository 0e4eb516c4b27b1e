//! Streams of values of two arms.

use modelyard_core::evidence::{Moments, Statistic};
use modelyard_core::metric::Metric;
use modelyard_core::strategy::Ab;

/// One value of each arm: stable's, then the candidate's.
pub type Pair = (f64, f64);

/// Where values come from.
#[derive(Clone, Copy)]
enum Law {
    /// Yes with this chance.
    Bernoulli(f64),
    /// Normal with deviation 1.
    Normal,
    /// Exponential with mean 1, shifted by the effect: skewed.
    Exponential,
}

/// A metric, its law in stable, and the effect that the test is planned for.
pub struct Scenario {
    pub about: &'static str,
    law: Law,
    pub effect: f64,
}

/// Both arms' sums.
pub struct Arms {
    pub stable: Statistic,
    pub candidate: Statistic,
}

impl Arms {
    pub fn add(&mut self, &(stable, candidate): &Pair) {
        for (statistic, value) in [(&mut self.stable, stable), (&mut self.candidate, candidate)] {
            match statistic {
                Statistic::Proportion { units, hits } => {
                    *units += 1;
                    *hits += u64::from(value > 0.5);
                }
                Statistic::Mean(moments) => moments.add(value),
                _ => {}
            }
        }
    }
}

impl Scenario {
    pub fn all() -> Vec<Self> {
        vec![
            Self { about: "Accuracy 0.90, effect 0.05", law: Law::Bernoulli(0.9), effect: 0.05 },
            Self { about: "A rate of 0.02 (few hits), effect 0.02", law: Law::Bernoulli(0.02), effect: 0.02 },
            Self { about: "A mean, normal with deviation 1, effect 0.2", law: Law::Normal, effect: 0.2 },
            Self { about: "A mean, exponential with mean 1 (skewed), effect 0.2", law: Law::Exponential, effect: 0.2 },
        ]
    }

    pub fn is_share(&self) -> bool {
        matches!(self.law, Law::Bernoulli(_))
    }

    /// What is expected of stable, for the planned size: the rate, or the deviation.
    pub fn expected(&self) -> f64 {
        if let Law::Bernoulli(share) = self.law { share } else { 1.0 }
    }

    /// Stable's true value.
    pub fn middle(&self) -> f64 {
        match self.law {
            Law::Bernoulli(share) => share,
            Law::Normal => 0.0,
            Law::Exponential => 1.0,
        }
    }

    pub fn metric(&self) -> Metric {
        let kind = if self.is_share() { "rate" } else { "mean" };
        let text = format!(r#"{{"name": "quality", "kind": "{kind}", "from": "reward", "better": "higher"}}"#);
        serde_json::from_str(&text).expect("the text is a metric with every key that has no default")
    }

    pub fn ab(&self) -> Ab {
        Ab { effect: self.effect, expected: Some(self.expected()), metric: "quality".into(), ..Ab::default() }
    }

    pub fn empty(&self) -> Arms {
        let none = if self.is_share() {
            Statistic::Proportion { units: 0, hits: 0 }
        } else {
            Statistic::Mean(Moments::default())
        };
        Arms { stable: none.clone(), candidate: none }
    }

    /// The values of one run; the candidate is better by `effects` times the effect.
    pub fn stream(&self, seed: u64, effects: f64, length: u64) -> Vec<Pair> {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x6D6F_6465);
        let shift = effects * self.effect;
        (0..length).map(|_| (self.draw(&mut random, 0.0), self.draw(&mut random, shift))).collect()
    }

    fn draw(&self, random: &mut fastrand::Rng, shift: f64) -> f64 {
        match self.law {
            Law::Bernoulli(share) => f64::from(u8::from(random.f64() < share + shift)),
            // Box and Muller 1958.
            Law::Normal => {
                (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (2.0 * std::f64::consts::PI * random.f64()).cos() + shift
            }
            Law::Exponential => shift - (1.0 - random.f64()).ln(),
        }
    }
}
