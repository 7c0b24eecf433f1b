//! A piecewise schedule over the updates of a phase.
//!
//! A segment of n updates goes from a to z. Its update with index i (0-based) has r = (i + 1) / n, so r = 1 and the
//! value z belong to its last update, and a belongs to the update before its first:
//!
//! | kind     | value                                                        |
//! |----------|--------------------------------------------------------------|
//! | const    | z                                                            |
//! | linear   | a + (z − a) r                                                |
//! | cosine   | z + (a − z) (1 + cos πr) / 2                                 |
//! | 1-sqrt   | z + (a − z) (1 − √r)                                         |
//! | inv-sqrt | a + (z − a) h(r) / h(1), h(x) = 1/√(1 + 4x) − 1              |
//! | exp      | a (z / a)^r, with a, z > 0                                   |
//!
//! Warm-up and cosine: Gupta et al. 2023, section 2 (η_max t/T_w, t = 1 … T_w). inv-sqrt and exp: the cooldown and
//! the anneal of Ibrahim et al. 2024. 1-sqrt: Hägele et al. 2024. `a` defaults to "current", the value of the update
//! before. Sines and powers come from `libm`, so every platform computes the same bits.

/// One piece of a schedule, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    pub kind: Kind,
    /// `None`: the value at the end of the segment before, or the start value for the first.
    pub from: Option<f64>,
    /// `None` only for `Const`: hold the current value.
    pub to: Option<f64>,
    pub length: Length,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Const,
    Linear,
    Cosine,
    OneMinusSqrt,
    InvSqrt,
    Exp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Share of the whole schedule.
    Frac(f64),
    Steps(u64),
    /// Up to the end; only the last segment.
    Rest,
}

/// Segments laid out over a number of updates.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    segments: Vec<Segment>,
    /// First update after each segment; the last is the number of updates.
    ends: Vec<u64>,
}

impl Schedule {
    /// Lays the segments out over `steps` updates. Boundaries are the running sums rounded to whole updates, so
    /// shares that add up to 1 end exactly at `steps`; a share too small for one update gives an empty segment,
    /// which still hands its `to` on.
    ///
    /// The error is the problem in words, with the index of the segment.
    pub fn resolve(segments: Vec<Segment>, steps: u64) -> Result<Schedule, (usize, String)> {
        let mut ends = Vec::with_capacity(segments.len());
        let mut sum = 0.0f64;
        let last = segments.len().wrapping_sub(1);
        for (i, s) in segments.iter().enumerate() {
            sum = match s.length {
                Length::Frac(f) => sum + f * steps as f64,
                Length::Steps(n) => sum + n as f64,
                Length::Rest if i == last => sum.max(steps as f64),
                Length::Rest => {
                    return Err((i, "only the last segment may leave out `frac` and `steps`".into()));
                }
            };
            if !(sum.round() <= steps as f64) {
                return Err((i, format!("the segments up to here need {sum:.0} steps of {steps}")));
            }
            ends.push(sum.round() as u64);
        }
        match ends.last() {
            None => Err((0, "a schedule needs at least one segment".into())),
            Some(&end) if end != steps => Err((last, format!("the segments cover {end} steps of {steps}"))),
            Some(_) => Ok(Schedule { segments, ends }),
        }
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Updates covered.
    pub fn steps(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Value for the update with index `step` (0-based); `start` is what "current" means at the beginning. Beyond
    /// the last update the last value stays.
    pub fn at(&self, step: u64, start: f64) -> f64 {
        let (mut current, mut first) = (start, 0);
        for (s, &end) in self.segments.iter().zip(&self.ends) {
            if step < end {
                let (done, all) = (step - first + 1, end - first);
                return if done == all { s.end(current) } else { s.value(current, done as f64 / all as f64) };
            }
            current = s.end(current);
            first = end;
        }
        current
    }

    /// Value of the last update.
    pub fn end(&self, start: f64) -> f64 {
        self.segments.iter().fold(start, |current, s| s.end(current))
    }
}

impl Segment {
    /// Value at r = 1, exactly `to`.
    fn end(&self, current: f64) -> f64 {
        self.to.unwrap_or(current)
    }

    fn value(&self, current: f64, r: f64) -> f64 {
        let a = self.from.unwrap_or(current);
        let z = self.end(current);
        match self.kind {
            Kind::Const => z,
            Kind::Linear => a + (z - a) * r,
            Kind::Cosine => z + (a - z) * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * r)),
            Kind::OneMinusSqrt => z + (a - z) * (1.0 - r.sqrt()),
            Kind::InvSqrt => {
                let h = |x: f64| 1.0 / (1.0 + 4.0 * x).sqrt() - 1.0;
                a + (z - a) * h(r) / h(1.0)
            }
            Kind::Exp => a * libm::pow(z / a, r),
        }
    }
}
