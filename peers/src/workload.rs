//! The work, the same for every engine of a round and made ahead of the clock.
//!
//! Key `i` is a hash of `i`: 16 bytes without pattern. Keys 0..n exist, keys n..2n never do. Writing in the
//! order of `i` is therefore random order. The value of a key is a piece of a pool of 1 MiB, half
//! compressible, at a place given by `i` and the generation of the write: what a read must answer
//! is known without storing it.

pub type Key = [u8; 16];

const POOL: usize = 1 << 20;
/// As db_bench does it: each piece of 100 bytes is 50 random ones, twice.
const PIECE: usize = 100;

/// SplitMix64: a full-period generator whose output function is a bijection.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `n`, which is not 0.
    #[inline]
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Key number `i`. The first half alone is a bijection of `i`, so that no two keys are equal.
pub fn key(i: u64) -> Key {
    let mut key = Key::default();
    let (head, tail) = key.split_at_mut(8);
    head.copy_from_slice(&mix(i.wrapping_add(0x9e37_79b9_7f4a_7c15)).to_be_bytes());
    tail.copy_from_slice(&mix(i ^ 0x5555_5555_5555_5555).to_be_bytes());
    key
}

/// Keys, values, and one buffer for the order of a row.
#[derive(Debug)]
pub struct Workload {
    n: usize,
    value: usize,
    pool: Vec<u8>,
    /// Key numbers in the order of the row.
    pub order: Vec<u32>,
    /// Their keys, so that the loop reads them in sequence.
    pub keys: Vec<Key>,
}

impl Workload {
    pub fn new(n: usize, value: usize) -> Workload {
        let mut rng = Rng(0x7065_6572_7321);
        let mut pool = Vec::new();
        while pool.len() < POOL.max(4 * value) {
            let half: Vec<u8> = (0..PIECE / 2).map(|_| rng.next() as u8).collect();
            pool.extend_from_slice(&half);
            pool.extend_from_slice(&half);
        }
        Workload {
            n,
            value,
            pool,
            order: (0..n as u32).collect(),
            keys: vec![Key::default(); n],
        }
    }

    /// The value that key number `i` gets in a generation.
    #[inline]
    pub fn value(&self, i: u32, generation: u32) -> &[u8] {
        let places = self.pool.len() - self.value;
        let hash = mix(u64::from(i) << 32 | u64::from(generation));
        let at = ((u128::from(hash) * places as u128) >> 64) as usize;
        &self.pool[at..at + self.value]
    }

    fn fill_keys(&mut self) {
        self.keys.clear();
        self.keys
            .extend(self.order.iter().map(|i| key(u64::from(*i))));
    }

    /// As numbered, which is random order of keys.
    pub fn in_order_of_number(&mut self) {
        self.order.clear();
        self.order.extend(0..self.n as u32);
        self.fill_keys();
    }

    /// Ascending keys.
    pub fn ascending(&mut self) {
        self.in_order_of_number();
        self.order.sort_unstable_by_key(|i| key(u64::from(*i)));
        self.fill_keys();
    }

    /// Each key once, in an order that depends on the seed.
    pub fn shuffled(&mut self, seed: u64) {
        self.order.clear();
        self.order.extend(0..self.n as u32);
        shuffle(&mut self.order, seed);
        self.fill_keys();
    }

    /// Keys that do not exist.
    pub fn missing(&mut self, seed: u64) {
        self.shuffled(seed);
        for i in &mut self.order {
            *i += self.n as u32;
        }
        self.fill_keys();
    }

    /// Existing keys, some much more often than others: zipf 0.99, the popular ones spread evenly.
    pub fn zipfian(&mut self, seed: u64) {
        let mut ranks: Vec<u32> = (0..self.n as u32).collect();
        shuffle(&mut ranks, seed);
        let zipf = Zipf::new(self.n as u64, 0.99);
        let mut rng = Rng(seed ^ 0x7a69_7066);
        self.order.clear();
        let of_rank = |rng: &mut Rng| ranks[zipf.sample(rng) as usize];
        self.order.extend((0..self.n).map(|_| of_rank(&mut rng)));
        self.fill_keys();
    }
}

fn shuffle(order: &mut [u32], seed: u64) {
    let mut rng = Rng(seed);
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
}

/// The generator of Gray et al., "Quickly generating billion-record synthetic databases", as in YCSB.
#[derive(Debug)]
struct Zipf {
    n: f64,
    theta: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    fn new(n: u64, theta: f64) -> Zipf {
        let zeta_of = |n: u64| (1..=n).map(|i| (i as f64).powf(-theta)).sum::<f64>();
        let (zeta, n) = (zeta_of(n), n as f64);
        let eta = (1.0 - (2.0 / n).powf(1.0 - theta)) / (1.0 - zeta_of(2) / zeta);
        Zipf {
            n,
            theta,
            zeta,
            alpha: 1.0 / (1.0 - theta),
            eta,
        }
    }

    /// A rank below n; 0 is the most popular.
    fn sample(&self, rng: &mut Rng) -> u64 {
        let u = rng.unit();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(self.theta) {
            return 1;
        }
        let rank = self.n * (self.eta * u - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.n as u64 - 1)
    }
}

#[cfg(test)]
#[path = "workload_tests.rs"]
mod tests;
