//! `lumpd buffer export DIR`: the images as PNG files, and a table of them.
//!
//! A file is written under another name and then renamed, so that an export that was interrupted goes on where it was;
//! a file that is there already is left as it is.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::place::{Names, Place};
use crate::cli::Exit;
use crate::cli::table::{count, or_dash, printable};
use crate::config::durable;
use crate::daemon::answers::timestamp;
use crate::decode::{Image, png_bytes};
use crate::replay::{Offline, SlotMeta};

const MANIFEST: &str = "manifest.tsv";
const COLUMNS: &str = "frame\tfile\tsource\tsource_sequence\ttask\ttime\tcontent_hash";

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// Folder for the files; made where it is missing, gone on with where an export into it was interrupted
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    folder: String,
    written: u64,
    /// Files that were there already.
    present: u64,
    damaged: u64,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let held = arguments.place.hold()?;
    let (store, names) = (held.open()?, held.names());
    let report = export(&store, &names, &arguments.folder)
        .with_context(|| format!("export into {}", arguments.folder.display()))
        .context(Exit::Io)?;
    arguments.place.print(&report, out, |report, out| {
        let images = count(report.written, "image");
        writeln!(
            out,
            "{images} written into {}, {} were there, {} damaged",
            report.folder, report.present, report.damaged
        )
    })
}

fn export(store: &Offline, names: &Names, folder: &Path) -> anyhow::Result<Report> {
    fs::create_dir_all(folder)?;
    let head = head(store);
    require_own(&folder.join(MANIFEST), &head)?;
    let mut report = Report { folder: folder.display().to_string(), ..Report::default() };
    let mut metas = store.reader().metas();
    metas.sort_unstable_by_key(|meta| meta.id);
    let mut manifest = head;
    // Written first with no rows, so that an interrupted export is known by it.
    durable::replace(&folder.join(MANIFEST), manifest.as_bytes())?;
    for meta in &metas {
        let name = format!("{:012}.png", meta.id.0);
        let path = folder.join(&name);
        match fs::symlink_metadata(&path) {
            Ok(_) => report.present += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => match store.reader().get(meta.id) {
                Some(image) => {
                    let side = store.geometry().shape.side() as u32;
                    write(&path, &png_bytes(&Image::new(side, side, image.pixels)))?;
                    report.written += 1;
                }
                None => {
                    report.damaged += 1;
                    continue;
                }
            },
            Err(error) => return Err(error.into()),
        }
        manifest.push_str(&row(meta, &name, names));
    }
    durable::replace(&folder.join(MANIFEST), manifest.as_bytes())?;
    Ok(report)
}

/// Names the store, so that the table of another one is not replaced.
fn head(store: &Offline) -> String {
    let identity: String = store.geometry().identity.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("# lumpd replay buffer {identity}\n{COLUMNS}\n")
}

fn require_own(manifest: &Path, head: &str) -> anyhow::Result<()> {
    match fs::read_to_string(manifest) {
        Ok(text) if text.starts_with(head) => Ok(()),
        Ok(_) => bail!("{} is of another buffer and is not replaced: name an empty folder", manifest.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whole or not at all, and never over a file that is there: `path` is known not to be.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("png.part");
    fs::write(&part, bytes)?;
    // A link fails where the name was taken meanwhile; a rename would replace.
    let linked = fs::hard_link(&part, path);
    fs::remove_file(&part)?;
    linked
}

fn row(meta: &SlotMeta, name: &str, names: &Names) -> String {
    let hash: String = meta.content_hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let (frame, sequence) = (meta.id, meta.source_sequence);
    let (source, task) = (printable(&names.source(meta)), or_dash(names.task(meta)));
    format!("{frame}\t{name}\t{source}\t{sequence}\t{task}\t{}\t{hash}\n", timestamp(meta.wall_time_ns))
}
