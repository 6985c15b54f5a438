//! How long conversions take, and how that compares with libvips on the same machine.
//!
//! `cargo bench --bench convert` measures a picture made here; `-- FILE.png` measures that one.
//! One thread, memory to memory, decoding included; medians of interleaved runs. Processor time
//! is compared, so that other work on the machine weighs less; with the command line of libvips
//! it is the wall's on both sides, which means something on an idle machine only. AVIF is
//! compared at equal size, since equal quality numbers mean nothing between encoders, and the
//! error that remains at that size (PSNR) is given beside it.

#![expect(clippy::print_stdout, reason = "a table on standard output is what it is for")]

use std::{
    error::Error,
    time::{Duration, Instant},
};

use mediagate::media::{
    convert::{Conversion, Pixels, convert, render},
    plan::Geometry,
    sniff::{DecodeLimits, HEAD, Sniffed, sniff},
};
use providers::media::{Format, Size};
use vips::{Vips, Work};

mod picture;
mod vips;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Something measured, on both sides.
struct Row {
    name: &'static str,
    /// Ours; `None` for raw pixels.
    format: Option<Format>,
    quality: u8,
    lossless: bool,
    half: bool,
    theirs: Work,
    runs: usize,
}

const ROWS: &[Row] = &[
    row("decode", None, 0, Work::Decode),
    Row { half: true, ..row("resize to half, raw", None, 0, Work::Resize) },
    row("jpeg q80", Some(Format::Jpeg), 80, Work::Encode(".jpg", "[Q=80]")),
    row("webp q80", Some(Format::Webp), 80, Work::Encode(".webp", "[Q=80]")),
    Row {
        lossless: true,
        runs: 5,
        ..row("webp lossless", Some(Format::Webp), 0, Work::Encode(".webp", "[lossless]"))
    },
    row("png", Some(Format::Png), 0, Work::Encode(".png", "")),
    Row { runs: 5, ..row("gif", Some(Format::Gif), 0, Work::Encode(".gif", "")) },
];

const fn row(name: &'static str, format: Option<Format>, quality: u8, theirs: Work) -> Row {
    Row { name, format, quality, lossless: false, half: false, theirs, runs: 21 }
}

const AVIF: Work = Work::Encode(".avif", "[Q=50,effort=4]");
const AVIF_RUNS: usize = 5;

/// Processor time of this thread, or the wall's where the system does not tell.
struct Clock(Option<u64>, Instant);

impl Clock {
    fn start(wall: bool) -> Self {
        Self((!wall).then(Self::used).flatten(), Instant::now())
    }

    fn stop(&self) -> Duration {
        let used = Self::used().zip(self.0).map(|(now, then)| Duration::from_nanos(now - then));
        used.unwrap_or_else(|| self.1.elapsed())
    }

    /// Nanoseconds on a processor so far.
    fn used() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split(' ').next()?.parse().ok()
    }
}

struct Source {
    bytes: Vec<u8>,
    sniffed: Sniffed,
    /// Whether wall time is measured.
    wall: bool,
}

impl Source {
    fn conversion(format: Format, quality: u8) -> Conversion {
        Conversion {
            geometry: None,
            format,
            quality,
            webp_lossless: false,
            background: [255; 3],
            pad_transparent: false,
        }
    }

    fn convert(&self, c: &Conversion) -> Outcome<(Duration, Vec<u8>)> {
        let clock = Clock::start(self.wall);
        let made = convert(&self.bytes, &self.sniffed, c, &DecodeLimits::default())?;
        Ok((clock.stop(), made.bytes.to_vec()))
    }

    fn pixels(&self, c: &Conversion) -> Outcome<(Duration, Pixels)> {
        let clock = Clock::start(self.wall);
        let (pixels, _) = render(&self.bytes, &self.sniffed, c, &DecodeLimits::default())?;
        Ok((clock.stop(), pixels))
    }

    fn ours(&self, row: &Row) -> Outcome<(Duration, usize)> {
        let mut c = Self::conversion(row.format.unwrap_or(Format::Png), row.quality);
        c.webp_lossless = row.lossless;
        if row.half {
            let half = Size::new(self.sniffed.size.width / 2, self.sniffed.size.height / 2);
            c.geometry = Some(Geometry { crop: None, scale_to: half, pad: None, delivered: half });
        }
        if row.format.is_some() {
            self.convert(&c).map(|(took, bytes)| (took, bytes.len()))
        } else {
            self.pixels(&c).map(|(took, pixels)| (took, pixels.data.len()))
        }
    }
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let bytes = match args.next() {
        Some(file) => std::fs::read(file)?,
        None => made()?,
    };
    let sniffed = sniff(&bytes[..bytes.len().min(HEAD)])?;
    println!("source: {} PNG of {} bytes", sniffed.size, bytes.len());
    let mut peer = Vips::find(&bytes)?;
    let wall = peer.as_ref().is_some_and(Vips::is_command);
    let source = Source { bytes, sniffed, wall };
    match &peer {
        Some(vips) => println!("peer: {}\n", vips.name),
        None => println!("peer: none; Debian's libvips-tools, or pyvips, gives one\n"),
    }
    println!("| operation | ms | kB | libvips ms | kB | ratio of times |");
    println!("|---|---:|---:|---:|---:|---:|");
    for row in ROWS {
        let (mut ours, mut theirs, mut size, mut their_size) = (vec![], vec![], 0, 0);
        for _ in 0..row.runs {
            let (took, len) = source.ours(row)?;
            ours.push(took);
            size = len;
            if let Some(vips) = &mut peer {
                let (took, bytes) = vips.run(row.theirs)?;
                theirs.push(took);
                their_size = bytes.len();
            }
        }
        line(row.name, median(&mut ours), size, median(&mut theirs), their_size);
    }
    avif(&source, peer.as_mut())
}

fn made() -> Outcome<Vec<u8>> {
    let (size, pixels) = picture::photograph();
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, size.width, size.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Balanced);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(out)
}

fn median(times: &mut [Duration]) -> Option<Duration> {
    times.sort();
    times.get(times.len() / 2).copied()
}

fn line(name: &str, ours: Option<Duration>, size: usize, theirs: Option<Duration>, other: usize) {
    let ms = |time: Option<Duration>| {
        time.map_or_else(|| "-".to_owned(), |t| format!("{:.1}", t.as_secs_f64() * 1e3))
    };
    let ratio = ours.zip(theirs).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64());
    let ratio = ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
    let (size, other) = (size / 1000, other / 1000);
    println!("| {name} | {} | {size} | {} | {other} | {ratio} |", ms(ours), ms(theirs));
}

/// AVIF at the size that libvips makes of quality 50, effort 4.
fn avif(source: &Source, peer: Option<&mut Vips>) -> Outcome<()> {
    let quality = |q| Source::conversion(Format::Avif, q);
    let assembler = if cfg!(feature = "nasm") { "with nasm" } else { "without nasm" };
    let Some(vips) = peer else {
        let (took, bytes) = source.convert(&quality(50))?;
        line(&format!("avif q50 {assembler}"), Some(took), bytes.len(), None, 0);
        return Ok(());
    };
    let target = vips.run(AVIF)?.1;
    let off = |size: usize| size.abs_diff(target.len());
    let (mut low, mut high) = (1, 100);
    let mut best: Option<(u8, Vec<u8>)> = None;
    while low <= high {
        let q = u8::midpoint(low, high);
        let bytes = source.convert(&quality(q))?.1;
        let larger = bytes.len() > target.len();
        if best.as_ref().is_none_or(|(_, b)| off(bytes.len()) < off(b.len())) {
            best = Some((q, bytes));
        }
        if larger {
            high = q - 1;
        } else {
            low = q + 1;
        }
    }
    let (q, bytes) = best.ok_or("no quality was tried")?;
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..AVIF_RUNS {
        ours.push(source.convert(&quality(q))?.0);
        theirs.push(vips.run(AVIF)?.0);
    }
    let name = format!("avif {assembler}, q{q} against q50 e4");
    line(&name, median(&mut ours), bytes.len(), median(&mut theirs), target.len());
    let original = source.pixels(&quality(50))?.1.data;
    let (a, b) = (psnr(&original, &vips.decode(&bytes)?), psnr(&original, &vips.decode(&target)?));
    let percent = bytes.len() as f64 / target.len() as f64 * 100.0;
    println!("\navif at {percent:.0} % of their size: PSNR {a:.2} dB, theirs {b:.2} dB");
    Ok(())
}

/// Peak signal to noise over all samples, in decibels.
fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let squares = a.iter().zip(b).map(|(x, y)| u64::from(x.abs_diff(*y)).pow(2)).sum::<u64>();
    10.0 * (255.0 * 255.0 * a.len() as f64 / squares.max(1) as f64).log10()
}
