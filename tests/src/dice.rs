//! Chance that can be had again: the same seed, the same throws.
//!
//! Not for secrets. Threads take dice of their own, or their order would decide what each one throws.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

/// Sets the seed, to see a failure again.
const SEED: &str = "SANDPOST_SEED";

impl Dice {
    /// The throws of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `SANDPOST_SEED`, or the time: a test that uses it has to say it where it fails.
    pub fn seed() -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        std::env::var(SEED).map_or_else(
            |_| u64::from(now.subsec_nanos()) ^ now.as_secs(),
            |text| text.parse().expect("SANDPOST_SEED is a number"),
        )
    }

    /// Any number.
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below this one, which is at least 1.
    pub fn below(&mut self, end: u64) -> u64 {
        self.throw() % end
    }

    /// Dice that throw independently of these.
    pub fn fork(&mut self) -> Self {
        Self(self.throw())
    }
}
