//! Fuzzing of everything that reads outside bytes: sound samples, struck again and again. Each target's test stands with what
//! it strikes at; here is what strikes.
//!
//! `FUZZ_ITERATIONS` says how many inputs each target gets, `FUZZ_SEED` which ones. A failure shows its input.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Inputs of each target in every run of the tests.
const ITERATIONS: usize = 2_000;
/// No input is longer: what is found in more is found in less.
const INPUT_MAX: usize = 32 * 1024;

/// Bytes that parsers are known to stumble over.
const SPICES: [&[u8]; 24] = [
    b"",
    b"\0",
    b"\xff",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\x0f",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    "\u{202e}".as_bytes(),
    "\u{feff}".as_bytes(),
    b"{\"",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":",
    b"\\ud800",
    b"1e999",
    b"-0",
    b"9223372036854775808",
    b"18446744073709551616",
    b"NaN",
    b"null",
    b"&#x0;",
    b"<!--",
    b"..%2f",
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Gives `body` every sample as it is, then struck ones.
pub fn strike(samples: &[Vec<u8>], body: impl Fn(&[u8])) {
    let give = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(input))) {
            eprintln!("the input was {}", hex::encode(input));
            eprintln!("as text: {:?}", String::from_utf8_lossy(input));
            std::panic::resume_unwind(panic);
        }
    };
    samples.iter().for_each(|sample| give(sample));
    let iterations = number("FUZZ_ITERATIONS").and_then(|n| usize::try_from(n).ok());
    let seed = number("FUZZ_SEED").unwrap_or(0x41_7465_6c69_6572);
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..iterations.unwrap_or(ITERATIONS) {
        give(&struck(&mut random, samples));
    }
}

fn struck(random: &mut StdRng, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut input = samples[random.random_range(0..samples.len())].clone();
    for _ in 0..random.random_range(1..=6) {
        blow(random, samples, &mut input);
        input.truncate(INPUT_MAX);
    }
    input
}

fn blow(random: &mut StdRng, samples: &[Vec<u8>], input: &mut Vec<u8>) {
    let length = input.len();
    let at = random.random_range(0..=length);
    let end = random.random_range(at..=length);
    match random.random_range(0..9) {
        0 | 1 if at < length => input[at] ^= 1 << random.random_range(0..8),
        2 if at < length => input[at] = random.random(),
        3 => input.truncate(at),
        4 => drop(input.drain(at..end)),
        5 => {
            // A part of it again and again: what nests, nests deep.
            let part = input[at..end.min(at + 64)].to_vec();
            let again = part.repeat(random.random_range(1..=200));
            input.splice(at..at, again);
        }
        6 => {
            let other = &samples[random.random_range(0..samples.len())];
            let from = random.random_range(0..=other.len());
            let to = random.random_range(from..=other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
        7 => {
            let spice = SPICES[random.random_range(0..SPICES.len())];
            input.splice(at..end.min(at + 4), spice.iter().copied());
        }
        _ => input.insert(at, random.random()),
    }
}

/// Samples from texts.
pub fn texts(samples: &[&str]) -> Vec<Vec<u8>> {
    samples.iter().map(|s| s.as_bytes().to_vec()).collect()
}
