//! Which files to send, in which order.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::Exit;

/// What a daemon can decode. Other files of a folder are passed over; a file named by itself is sent whatever its name.
const EXTENSIONS: [&str; 9] = ["jpg", "jpeg", "png", "webp", "bmp", "pnm", "ppm", "pgm", "pbm"];

/// Files to send.
#[derive(Debug)]
pub(super) struct Inputs(Vec<PathBuf>);

impl Inputs {
    /// The files named and, in the order of their names, those of the folders named, at any depth.
    pub(super) fn find(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut found = Vec::new();
        for path in paths {
            if path == Path::new("-") {
                bail!(
                    anyhow::anyhow!("- cannot be mixed with files: feed them one after the other").context(Exit::Usage)
                );
            }
            let metadata = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
            if metadata.is_dir() {
                walk(path, &mut found)?;
            } else {
                found.push(path.clone());
            }
        }
        Ok(Self(found))
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.0
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let context = || format!("look into {}", dir.display());
    let mut entries = fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>).with_context(context)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Not through a link: it may lead back up.
        if entry.file_type().with_context(context)?.is_dir() {
            walk(&path, found)?;
        } else if is_image(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// The name of the folder that a file is in.
pub(super) fn folder_name(path: &Path) -> Option<String> {
    Some(path.parent()?.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_a_folder_come_in_order_and_other_files_do_not() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["b.png", "a/2.JPG", "a/1.jpeg", "notes.txt", ".hidden.png", "c.bmp"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let named = dir.path().join("notes.txt");
        let inputs = Inputs::find(&[dir.path().into(), named.clone()]).unwrap();
        let expected = ["a/1.jpeg", "a/2.JPG", "b.png", "c.bmp", "notes.txt"].map(|path| dir.path().join(path));
        assert_eq!(inputs.paths(), expected);
        assert_eq!(folder_name(&expected[0]).unwrap(), "a");
    }

    #[test]
    fn an_absent_file_and_a_mixed_dash_are_refused() {
        assert_eq!(crate::cli::code(&Inputs::find(&["nowhere.png".into()]).unwrap_err()), 74);
        assert_eq!(crate::cli::code(&Inputs::find(&["-".into(), "a.png".into()]).unwrap_err()), 2);
    }
}
