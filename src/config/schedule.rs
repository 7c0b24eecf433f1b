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

/// Segments laid out over a number of updates; the default has none and covers none.
#[derive(Clone, Debug, Default, PartialEq)]
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
            if sum.is_nan() || sum.round() > steps as f64 {
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

    /// First update after each segment.
    pub fn ends(&self) -> &[u64] {
        &self.ends
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

    /// The first `exp` segment that would start or end at 0, where the formula has no value, and where it starts.
    pub(super) fn exp_from_zero(&self, start: f64) -> Option<(usize, f64)> {
        let mut current = start;
        for (i, s) in self.segments.iter().enumerate() {
            let from = s.from.unwrap_or(current);
            current = s.end(current);
            if s.kind == Kind::Exp && (from <= 0.0 || current <= 0.0) {
                return Some((i, from));
            }
        }
        None
    }

    /// The first update from which on the value is 0; `steps` if that of the last is not.
    pub fn zero_from(&self, start: f64) -> u64 {
        let (mut current, mut first, mut from) = (start, 0, 0);
        for (s, &end) in self.segments.iter().zip(&self.ends) {
            let z = s.end(current);
            let flat = s.kind == Kind::Const || s.from.unwrap_or(current) == 0.0;
            if z != 0.0 {
                from = end;
            } else if !flat && end > first {
                // All but its last value.
                from = end - 1;
            }
            (current, first) = (z, end);
        }
        from
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seg(kind: Kind, from: Option<f64>, to: f64, length: Length) -> Segment {
        Segment { kind, from, to: Some(to), length }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-15 * b.abs().max(1e-3), "{a:e} is not {b:e}");
    }

    #[test]
    fn warm_up_and_cosine_give_the_values_worked_out_by_hand() {
        // Gupta et al.: eta_max t / T_w up to T_w, then eta_min + (eta_max - eta_min)(1 + cos pi (t - T_w)/(T - T_w))/2.
        let s = Schedule::resolve(
            vec![
                seg(Kind::Linear, None, 3e-4, Length::Frac(0.04)),
                seg(Kind::Cosine, None, 3e-5, Length::Rest),
            ],
            100,
        )
        .unwrap();
        let half = 0.5 * (3e-4 - 3e-5);
        let table = [
            (0, 0.75e-4),
            (1, 1.5e-4),
            (3, 3e-4),
            (19, 3e-5 + half * (1.0 + 3f64.sqrt() / 2.0)), // t = 20, cos(pi/6)
            (27, 3e-5 + half * (1.0 + 0.5f64.sqrt())),     // t = 28, cos(pi/4)
            (35, 3e-5 + half * 1.5),                       // t = 36, cos(pi/3)
            (51, 3e-5 + half),                             // t = 52, cos(pi/2)
            (99, 3e-5),
            (1000, 3e-5),
        ];
        for (step, want) in table {
            close(s.at(step, 0.0), want);
        }
        assert_eq!((s.steps(), s.end(0.0)), (100, 3e-5));
    }

    #[test]
    fn every_kind_has_its_value_at_a_quarter_and_ends_exactly() {
        // From 4 to 1 at r = 1/4. h(1/4) = 1/sqrt(2) - 1, h(1) = 1/sqrt(5) - 1.
        let inv = 4.0 - 3.0 * (0.5f64.sqrt() - 1.0) / (0.2f64.sqrt() - 1.0);
        let table = [
            (Kind::Const, 1.0),
            (Kind::Linear, 3.25),
            (Kind::Cosine, 1.0 + 1.5 * (1.0 + 0.5f64.sqrt())),
            (Kind::OneMinusSqrt, 2.5),
            (Kind::InvSqrt, inv),
            (Kind::Exp, 4.0 / 2f64.sqrt()),
        ];
        for (kind, quarter) in table {
            let s = Schedule::resolve(vec![seg(kind, None, 1.0, Length::Rest)], 4).unwrap();
            close(s.at(0, 4.0), quarter);
            assert_eq!(s.at(3, 4.0), 1.0, "{kind:?}");
        }
    }

    #[test]
    fn a_segment_starts_from_current_unless_it_says_otherwise() {
        let s = Schedule::resolve(
            vec![
                seg(Kind::Linear, None, 2.0, Length::Steps(2)),
                Segment { kind: Kind::Const, from: None, to: None, length: Length::Steps(3) },
                seg(Kind::Linear, Some(10.0), 0.0, Length::Rest),
            ],
            10,
        )
        .unwrap();
        let values: Vec<f64> = (0..10).map(|i| s.at(i, 1.0)).collect();
        assert_eq!(values, [1.5, 2.0, 2.0, 2.0, 2.0, 8.0, 6.0, 4.0, 2.0, 0.0]);
    }

    #[test]
    fn shares_that_add_up_to_one_end_at_the_last_step() {
        for steps in (1..400).chain([99_991, 1 << 40]) {
            for shares in [vec![0.1; 10], vec![0.02, 0.98], vec![1.0 / 3.0; 3], vec![0.7, 0.2, 0.1]] {
                let segments =
                    shares.iter().map(|&f| seg(Kind::Const, None, f, Length::Frac(f))).collect::<Vec<_>>();
                let s = Schedule::resolve(segments, steps).unwrap();
                assert_eq!(s.steps(), steps);
            }
        }
        // Too short for one update: skipped, and still handed on.
        let short = vec![
            seg(Kind::Linear, None, 5.0, Length::Frac(0.02)),
            seg(Kind::Linear, None, 1.0, Length::Rest),
        ];
        assert_eq!(Schedule::resolve(short, 4).unwrap().at(0, 0.0), 4.0);
    }

    #[test]
    fn a_schedule_that_ends_at_zero_says_from_where_on_it_is_zero() {
        use Kind::*;
        let tables = [
            vec![seg(Const, None, 0.5, Length::Rest)],
            vec![seg(Const, None, 0.5, Length::Steps(20)), seg(Const, None, 0.0, Length::Rest)],
            vec![seg(Linear, Some(1.0), 0.0, Length::Steps(30)), seg(Cosine, None, 0.0, Length::Rest)],
            vec![seg(Const, None, 0.0, Length::Steps(30)), seg(Linear, None, 1.0, Length::Rest)],
            vec![seg(Const, None, 0.0, Length::Rest)],
            vec![seg(Linear, Some(1.0), 0.0, Length::Rest)],
        ];
        let found = tables.map(|t| {
            let s = Schedule::resolve(t, 100).unwrap();
            let last = (0..100).rev().find(|i| s.at(*i, 0.0) != 0.0).map_or(0, |i| i + 1);
            assert_eq!(s.zero_from(0.0), last);
            last
        });
        assert_eq!(found, [100, 20, 29, 100, 0, 99]);
    }

    #[test]
    fn gaps_overruns_and_an_open_middle_are_refused() {
        let case = |lengths: &[Length]| {
            let segments = lengths.iter().map(|&l| seg(Kind::Const, None, 1.0, l)).collect();
            Schedule::resolve(segments, 100).map_err(|(i, _)| i)
        };
        assert_eq!(case(&[Length::Steps(60), Length::Steps(41)]), Err(1));
        assert_eq!(case(&[Length::Steps(60), Length::Frac(0.3)]), Err(1));
        assert_eq!(case(&[Length::Rest, Length::Steps(1)]), Err(0));
        assert_eq!(case(&[Length::Steps(101), Length::Rest]), Err(0));
        assert_eq!(case(&[]), Err(0));
    }
}
