//! libvips to compare with: in process where Python has pyvips, else its command line.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// What is to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// To raw pixels.
    Decode,
    /// To raw pixels of half the sides.
    Resize,
    /// To a file: its suffix, and the options in brackets.
    Encode(&'static str, &'static str),
}

/// A running libvips and the files it exchanges.
pub(crate) struct Vips {
    mode: Mode,
    folder: tempfile::TempDir,
    /// What it is, for the reader.
    pub(crate) name: String,
}

enum Mode {
    InProcess { child: Child, to: ChildStdin, from: BufReader<ChildStdout> },
    CommandLine { start: Duration },
}

impl Vips {
    /// The best way to libvips on this machine, or `None` where there is none.
    pub(crate) fn find(picture: &[u8]) -> io::Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("in.png"), picture)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/vips.py");
        let python = Command::new("python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(mut child) = python
            && let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take())
        {
            let mut from = BufReader::new(from);
            let mut name = String::new();
            from.read_line(&mut name)?;
            if name.starts_with("libvips") {
                let name = format!("{} in process (processor time)", name.trim());
                return Ok(Some(Self { mode: Mode::InProcess { child, to, from }, folder, name }));
            }
            child.wait()?;
        }
        let Ok(version) = Command::new("vips").arg("--version").output() else { return Ok(None) };
        let name = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        let mut vips = Self { mode: Mode::CommandLine { start: Duration::ZERO }, folder, name };
        let dot = vips.file("dot.ppm");
        fs::write(&dot, b"P6 1 1 255 abc")?;
        let mut starts = Vec::new();
        for _ in 0..9 {
            starts.push(Self::command(&["avg".as_ref(), dot.as_ref()])?);
        }
        starts.sort();
        let start = starts[starts.len() / 2];
        vips.mode = Mode::CommandLine { start };
        vips.name += &format!(
            " command line (wall time), {} ms of process start subtracted",
            start.as_millis()
        );
        Ok(Some(vips))
    }

    /// Whether it is a command, whose wall time is measured.
    pub(crate) fn is_command(&self) -> bool {
        matches!(self.mode, Mode::CommandLine { .. })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the command on one processor, for the AVIF encoder takes threads it was not given.
    fn command(args: &[&std::ffi::OsStr]) -> io::Result<Duration> {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", "0", "vips"]).args(args).env("VIPS_CONCURRENCY", "1");
        let started = Instant::now();
        let output = pinned.output()?;
        let took = started.elapsed();
        if output.status.success() {
            Ok(took)
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }

    /// Does it once: the time it took and what came out.
    pub(crate) fn run(&mut self, work: Work) -> io::Result<(Duration, Vec<u8>)> {
        let input = self.file("in.png");
        self.on(&input, work)
    }

    /// Decodes a file of ours to raw pixels, whatever its format.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let path = self.file("ours");
        fs::write(&path, bytes)?;
        Ok(self.on(&path, Work::Decode)?.1)
    }

    fn on(&mut self, input: &Path, work: Work) -> io::Result<(Duration, Vec<u8>)> {
        let output = match work {
            Work::Encode(suffix, _) => self.file(&format!("out{suffix}")),
            Work::Decode => self.file("out.raw"),
            Work::Resize => self.file("out.v"),
        };
        let took = match &mut self.mode {
            Mode::InProcess { to, from, .. } => {
                let (kind, options) = match work {
                    Work::Decode => ("decode", ""),
                    Work::Resize => ("resize", ""),
                    Work::Encode(suffix, options) => (suffix, options),
                };
                let (input, output) = (input.display(), output.display());
                writeln!(to, "{kind}\t{input}\t{output}\t{options}")?;
                let mut answer = String::new();
                from.read_line(&mut answer)?;
                let seconds = answer.split(' ').next().and_then(|s| s.parse::<f64>().ok());
                Duration::from_secs_f64(seconds.ok_or_else(|| io::Error::other("pyvips failed"))?)
            }
            Mode::CommandLine { start } => {
                let start = *start;
                let (input, output) = (input.as_os_str(), output.as_os_str());
                let took = match work {
                    Work::Decode => Self::command(&["rawsave".as_ref(), input, output])?,
                    Work::Resize => {
                        Self::command(&["thumbnail".as_ref(), input, output, "512".as_ref()])?
                    }
                    Work::Encode(_, options) => {
                        let mut target = output.to_owned();
                        target.push(options);
                        Self::command(&["copy".as_ref(), input, &target])?
                    }
                };
                took.saturating_sub(start)
            }
        };
        Ok((took, fs::read(output)?))
    }
}

impl Drop for Vips {
    fn drop(&mut self) {
        if let Mode::InProcess { child, .. } = &mut self.mode {
            // It ends by itself at the end of its input; this is for a stuck one.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
