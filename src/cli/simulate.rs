//! `lumpd simulate`: the simulated camera's pictures and their ground truth, as files.

use std::fs::{self, File};
use std::io::{BufWriter, IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Exit, json, png};
use crate::config::Seed;
use crate::stream::camera::{Camera, Script, Truth};

const EXAMPLES: &str = "\
Examples:
  lumpd simulate --out belt                      the built-in script, from its first frame to its last
  lumpd simulate --out belt --frames 200 --seed 7
  lumpd simulate --out belt --script belt.toml   phases of your own, such as
      [[phase]]
      products = [\"gear\", \"can\"]    # nut, bottle, can, biscuit, carton, gear, fruit, blister
      frames = 500
      light = [1.0, 0.6]            # from, to
      blur = [0.0, 1.5]
      belt = \"mesh\"                 # rubber, mesh, pvc";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Folder to write into; must be new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many frames; the whole script where not given
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    frames: Option<u64>,
    /// Another seed, another stream
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A TOML file of phase tables instead of the built-in script
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// One JSON object instead of a sentence
    #[arg(long)]
    json: bool,
}

/// What the columns of truth.tsv mean, as the file README beside it tells.
const README: &str = "\
Pictures of a simulated camera above a conveyor belt, written by `lumpd simulate`. frames/ holds them in order; truth.tsv has one
line a frame: frame (its file), phase (from 1; a new phase is where a boundary should be found), product (its class), x, y and
radius (in pixels), rotation (in radians), hue (0 to 1), light (1 is usual), blur (in pixels), belt, occluded (0 or 1).
";

const COLUMNS: &str = "frame\tphase\tproduct\tx\ty\tradius\trotation\thue\tlight\tblur\tbelt\toccluded";

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let camera = Camera::new(read_script(arguments.script.as_deref())?, Seed(arguments.seed));
    let frames = arguments.frames.unwrap_or(camera.script().frames());
    let folder = arguments.out.join("frames");
    refuse_to_overwrite(&arguments.out)?;
    fs::create_dir_all(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
    write(&arguments.out.join("README"), README.as_bytes())?;
    let path = arguments.out.join("truth.tsv");
    let mut table = BufWriter::new(File::create_new(&path).with_context(|| format!("make {}", path.display()))?);
    writeln!(table, "{COLUMNS}")?;
    let progress = progress(frames);
    for index in 0..frames {
        let shot = camera.shot(index);
        let name = format!("{:06}.png", index + 1);
        write(&folder.join(&name), &png::encode(&shot)?)?;
        writeln!(table, "{}", row(&name, &shot.truth))?;
        progress.inc(1);
    }
    table.flush().with_context(|| format!("write {}", path.display()))?;
    progress.finish_and_clear();
    if arguments.json {
        return json::print(&json!({ "frames": frames, "folder": folder, "truth": path }), out);
    }
    writeln!(out, "{frames} frames in {}, their ground truth in {}", folder.display(), path.display())?;
    Ok(())
}

/// The script of a file, or the built-in one.
pub(super) fn read_script(path: Option<&Path>) -> anyhow::Result<Script> {
    let Some(path) = path else { return Ok(Script::default()) };
    let text = fs::read_to_string(path).with_context(|| format!("read the script {}", path.display()))?;
    Script::parse(&text).with_context(|| format!("the script {}", path.display())).context(Exit::Configuration)
}

fn refuse_to_overwrite(dir: &Path) -> anyhow::Result<()> {
    let occupied = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("look into {}", dir.display())),
    };
    if occupied {
        let message = format!("{} is not empty: nothing is overwritten; choose another folder", dir.display());
        bail!(anyhow::anyhow!(message).context(Exit::Usage));
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

fn row(name: &str, truth: &Truth) -> String {
    let Truth { phase, product, centre: (x, y), radius, rotation_radians, hue, light, blur, belt, occluded, .. } =
        truth;
    let (product, belt, occluded) = (product.name(), belt.name(), u8::from(*occluded));
    let phase = phase + 1;
    format!(
        "{name}\t{phase}\t{product}\t{x:.1}\t{y:.1}\t{radius:.1}\t{rotation_radians:.3}\t{hue:.3}\t{light:.3}\t{blur:.2}\t{belt}\t{occluded}"
    )
}

/// A bar on standard error, where that is a terminal.
fn progress(frames: u64) -> ProgressBar {
    let target = if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} frames, {per_sec}, {eta} left");
    let bar = ProgressBar::with_draw_target(Some(frames), target);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simulate(out: &Path) -> anyhow::Result<String> {
        let arguments = Arguments { out: out.into(), frames: Some(3), seed: 1, script: None, json: false };
        let mut text = Vec::new();
        run(&arguments, &mut text)?;
        Ok(String::from_utf8(text)?)
    }

    #[test]
    fn frames_and_truth_agree_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("belt");
        assert!(simulate(&out).unwrap().starts_with("3 frames"));
        let table = fs::read_to_string(out.join("truth.tsv")).unwrap();
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(rows.len(), 4);
        for row in &rows {
            assert_eq!(row.len(), rows[0].len());
        }
        let picture = image::open(out.join("frames").join(rows[3][0])).unwrap().into_rgb8();
        assert_eq!(picture.into_raw(), Camera::new(Script::default(), Seed(1)).shot(2).pixels);
        let again = simulate(&out).unwrap_err();
        assert_eq!(crate::cli::code(&again), 2);
        assert!(format!("{again:#}").contains("is not empty"), "{again:#}");
    }

    #[test]
    fn a_script_in_error_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("belt.toml");
        fs::write(&path, "[[phase]]\nproducts = [\"spoon\"]\n").unwrap();
        let error = read_script(Some(&path)).unwrap_err();
        assert_eq!(crate::cli::code(&error), 78);
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
    }
}
