//! Random numbers that a seed brings back. Tests that use them print their seed; PYREPLICA_SEED=<n> gives it again.

/// splitmix64: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// The seed that is asked for, or three new ones.
pub fn seeds() -> Vec<u64> {
    match std::env::var("PYREPLICA_SEED") {
        Ok(seed) => vec![seed.parse().expect("PYREPLICA_SEED is a number")],
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            (0..3).map(|i| now.as_micros() as u64 % 1_000_000_007 + i).collect()
        }
    }
}
