//! A picture with the statistics of a photograph, made from a fixed seed.

use providers::media::Size;

/// Width and height.
pub(crate) const SIDE: usize = 1024;

/// A generator of numbers that is the same everywhere (xorshift64*).
struct Random(u64);

impl Random {
    /// From 0 up to 1.
    fn unit(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / 16_777_216.0
    }

    /// From -1 up to 1.
    fn signed(&mut self) -> f32 {
        self.unit().mul_add(2.0, -1.0)
    }
}

/// Clouds: random heights on grids, each twice as fine and `decay` times as strong as the last.
fn clouds(random: &mut Random, first: usize, octaves: u32, strength: f32, decay: f32) -> Vec<f32> {
    let mut field = vec![0.0; SIDE * SIDE];
    let mut amplitude = strength;
    for octave in 0..octaves {
        let cells = first << octave;
        let pitch = cells + 1;
        let grid: Vec<f32> = (0..pitch * pitch).map(|_| random.signed()).collect();
        let scale = cells as f32 / SIDE as f32;
        for (i, value) in field.iter_mut().enumerate() {
            let (x, y) = ((i % SIDE) as f32 * scale, (i / SIDE) as f32 * scale);
            let (column, row) = (x as usize, y as usize);
            // A cosine between grid points leaves no visible lattice.
            let ease = |t: f32| (1.0 - (t.fract() * std::f32::consts::PI).cos()) / 2.0;
            let (across, down) = (ease(x), ease(y));
            let at = |dx: usize, dy: usize| grid[(row + dy) * pitch + column + dx];
            let mix = |a: f32, b: f32, t: f32| (b - a).mul_add(t, a);
            let (top, bottom) = (mix(at(0, 0), at(1, 0), across), mix(at(0, 1), at(1, 1), across));
            *value = mix(top, bottom, down).mul_add(amplitude, *value);
        }
        amplitude *= decay;
    }
    field
}

/// Hills before a sky: texture at every scale, edges, smooth parts, and a sensor's noise.
pub(crate) fn photograph() -> (Size, Vec<u8>) {
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    let texture = clouds(&mut random, 4, 8, 44.0, 0.74);
    let warmth = clouds(&mut random, 3, 4, 22.0, 0.5);
    let ridges = clouds(&mut random, 2, 7, 130.0, 0.55);
    let mut pixels = Vec::with_capacity(SIDE * SIDE * 3);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let i = y * SIDE + x;
            let depth = y as f32 / SIDE as f32;
            // Four ranges of hills, each in front of the last.
            let range = (1..5_usize).rev().find(|range| {
                let crest = ridges[range * 190 * SIDE + x];
                y as f32 > (*range as f32).mul_add(170.0, 60.0) + crest
            });
            let [base, grain, noise] = match range {
                None => [depth.mul_add(-60.0, 205.0), 0.22, 7.0],
                Some(range) => [range as f32 * -28.0 + 170.0, 0.5 + 0.16 * range as f32, 14.0],
            };
            // Demosaicing leaves noise nearly equal in the three channels.
            let sensor = f32::midpoint(random.signed(), random.signed()) * noise;
            let light = texture[i].mul_add(grain, base) + sensor;
            let tint = warmth[i] + range.map_or(-26.0, |range| range as f32 * 7.0);
            let level = |value: f32| value.clamp(0.0, 255.0) as u8;
            pixels.extend([level(light + tint * 0.8), level(light), level(light - tint)]);
        }
    }
    (Size::new(SIDE as u32, SIDE as u32), pixels)
}
